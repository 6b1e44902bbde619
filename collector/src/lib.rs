//! The gnomon collector: stores, indexes, answers, and keeps time honest.

pub mod query;
