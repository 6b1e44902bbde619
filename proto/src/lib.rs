//! The wire: protobuf messages and their conversion to and from the domain.
