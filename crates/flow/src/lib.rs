//! The shared words: flow keys, records, fields, slices and ids.
