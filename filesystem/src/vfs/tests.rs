//! The file system against a small metadata service in memory and buckets in memory.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

mod coherence;
mod deferring;
mod failures;
mod model;
mod service;
mod storing;
mod world;
