//! Questions and their answers: the language, matching, aggregation, capture files.

mod aggregate;
mod buckets;
mod caller;
mod coded;
mod control;
mod counters;
mod distinct;
mod execute;
mod facet_counts;
mod facets;
mod group;
mod hunt;
mod known;
mod measures;
mod memory;
mod one_column;
mod pcap_export;
mod pcap_file;
mod pcap_found;
mod pcap_merge;
mod places;
mod plan;
mod rollup;
mod rollup_groups;
mod search;
mod select;
mod selection;
mod tail;
#[cfg(test)]
pub(crate) mod testing;
mod totals;
mod value_counts;
mod values;
mod waiting;

#[cfg(test)]
mod tests;

pub use aggregate::{Bucket, CountAnswer, Histogram, HistogramAnswer, Measure, Sums, Top, TopAnswer, TopRow};
pub use caller::Caller;
pub use counters::{Operation, QueryCounters, Refusal};
pub use distinct::Different;
pub use execute::{Answer, Queries, QueryError, QueryLimits, TimeRange};
pub use facets::{FacetField, FacetValue, Facets, FacetsAnswer, faceted};
pub use hunt::{Evidence, HUNTS, Hunt, HuntAnswer, HuntFinding, HuntKind, HuntParameter};
pub use memory::{Charge, Memory};
pub use pcap_export::{
    IDS_MAX, PacketsMissing, PcapDownload, PcapPiece, PcapPieces, PcapRequest, PcapSummary,
};
pub use pcap_file::PcapFormat;
pub use plan::{Hints, Plan};
pub use rollup::Roller;
pub use search::{LIMIT_MAX, Search, SearchPage};
pub use tail::{Following, TailItem};
pub use waiting::Waiting;
