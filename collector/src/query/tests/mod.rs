//! Questions to a real store in a temporary directory, and plans asked of single records.

mod aggregate;
mod blocks;
mod execute;
mod facets;
mod pcap_bench;
mod pcap_export;
mod plan;
mod rollup_groups;
mod search;
mod waiting;
