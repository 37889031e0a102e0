//! The pair of buckets: object encoding, stores, routing between near and far.

pub mod bucket;
