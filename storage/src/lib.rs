//! The pair of buckets: object encoding, stores, routing between near and far.
//!
//! * [`object`]: how content becomes an immutable blob and comes back verified;
//! * [`bucket`]: one bucket, wherever it is: [`s3`], [`directory`], [`memory`]; [`location`] names and opens them, [`check`] tries them;
//! * [`pair`]: both buckets as one store, with [`health`] deciding where to go;
//! * [`fault`]: a bucket with faults, for tests and the simulation.

pub mod bucket;
pub mod buffer;
pub mod check;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod directory;
pub mod fault;
pub mod health;
pub mod location;
pub mod memory;
pub mod object;
pub mod pair;
pub mod s3;

pub use bucket::{Bucket, BucketError, Listed};
pub use location::{BucketLocation, Credentials, OpenOptions, open};
pub use pair::{BucketPair, Fetched, PairError, PairOptions};
