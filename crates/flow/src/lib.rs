//! The words every part of gnomon shares: flow keys, records, metadata, slices, ids and the one table of fields.
//! Pure: no I/O, reads no clock.

pub mod alert;
pub mod attribute;
pub mod causes;
pub mod community;
pub mod escape;
pub mod field;
pub mod id;
pub mod json;
pub mod key;
pub mod own_streams;
pub mod record;
pub mod slice;
pub mod spelling;
pub mod stored;
pub mod timestamp;
pub mod value;

pub use alert::{Alert, Pair};
pub use attribute::{Attribute, AttributeValue, Attributes};
pub use field::{FIELDS, Field, FieldId, FieldKind, Value};
pub use id::{AgentId, EpochHash, FlowId, FlowRef};
pub use key::{Addresses, FlowKey};
pub use own_streams::{OwnStreams, StreamEnd, Transport, TransportStream};
pub use record::{DecodeProblem, DirectionCounters, FlowEndReason, FlowRecord, TcpState, TcpSummary};
pub use stored::{Origin, StoredFlow, TimeState};
