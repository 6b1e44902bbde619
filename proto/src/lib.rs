//! The wire: protobuf messages and their conversion to and from the domain. No other crate names prost.

mod alert;
mod encode;
mod flow;
mod ingest;
mod query;
mod records;
mod wire;

pub use encode::{SliceBlockParts, append_interface, append_record, append_slice_block};
pub use prost::Message;
pub use records::FlowBatch;
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

/// Largest gRPC message either side takes: an entry holds at most one slice block or one batch of records.
pub const MESSAGE_BYTES_MAX: usize = 8 * 1024 * 1024;

/// HTTP/2 flow control of who takes entries: bytes of one stream, and of one connection, sent ahead of the reader.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;
pub const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
