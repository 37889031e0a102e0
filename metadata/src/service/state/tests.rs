//! The rules of the service, one by one, against a journal in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod coherence;
mod compaction;
mod copies;
mod failures;
mod order;
mod private;
mod replication;
mod sessions;
mod soft_state;
mod world;

pub(in crate::service) use world::format;
