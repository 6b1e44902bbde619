//! The wire: protobuf messages and their conversion to and from the domain. No other crate names prost.

mod alert;
pub mod codec;
mod encode;
mod flow;
mod ingest;
pub mod limits;
mod own_streams;
mod query;
mod records;
mod wire;

pub use encode::{SliceBlockParts, append_interface, append_record, append_slice_block};
pub use prost::Message;
pub use records::{FlowBatch, FlowBatchError};
pub use wire::WireError;

/// The generated messages, clients and servers of package `gnomon.v1`.
#[allow(clippy::all, clippy::disallowed_methods, unreachable_pub, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("gnomon.v1");
}

/// The encoded descriptors of every message and service, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// What `Hello.protocol_version` says now.
pub const PROTOCOL_VERSION: u32 = 1;

pub use limits::MESSAGE_BYTES_MAX;

/// Metadata of questions: a stream that whoever asks has open, as in `tcp 10.0.0.1:40000 10.0.0.2:514`. Agents keep no packets of it.
pub const OWN_STREAM_METADATA: &str = "gnomon-own-stream";

/// HTTP/2 flow control of who takes entries: bytes of one stream, and of one connection, sent ahead of the reader.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
pub const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
