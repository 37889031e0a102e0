//! Replication: the copies and deletions that a bucket is owed, the packing of inline data, and the full synchronisation.
//!
//! What is owed is decided by the metadata service alone and stands in its records; this crate carries it out and reports.
//! Everything it does may be done twice or lost half-way without harm: objects are immutable, their names are unique, and
//! only a report that the service has committed changes what is owed.
//!
//! * [`Replicator`] carries out tasks. A worker has one, and so has a mount.
//! * [`Packer`] turns inline data into objects.
//! * [`Compactor`] writes anew what is left of sparse objects, and what lies in many small extents.
//! * [`Synchroniser`] joins both buckets with the metadata.
//! * [`Worker`] is all of them on one session.

pub mod bandwidth;
pub mod compactor;
mod copy;
pub mod packer;
pub mod replicator;
mod reports;
pub mod synchronisation;
pub mod worker;

#[cfg(test)]
mod double;

pub use compactor::Compactor;
pub use packer::Packer;
pub use replicator::{Counters, Replicator, ReplicatorOptions};
pub use synchronisation::{Synchroniser, SynchroniserOptions};
pub use worker::{Worker, WorkerOptions};
