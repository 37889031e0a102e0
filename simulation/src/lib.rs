//! All of Twinshore in one process: the metadata service, two buckets, workers and clients, run by one seed, with faults
//! before and after every effect.
//!
//! # Flow of a run
//!
//! 1. A volume is created; the service, a worker per region and clients in both regions start.
//! 2. For some simulated minutes the clients work ([`actor`]) while faults strike ([`faults`]).
//! 3. Everything is healed. The clients end, and the volume has to become quiet: nothing owed, nothing to clean up.
//! 4. The metadata service's disk is lost, at moments during the run and at its end: either bucket alone gives it back ([`loss`]).
//! 5. The state is checked ([`world`]): nothing acknowledged is lost, both buckets hold the same objects, the metadata
//!    does not contradict itself.
//!
//! # Guarantees
//!
//! The same seed gives the same trace, bit for bit: one thread, paused time, randomness from the seed alone. A failing seed
//! therefore replays.
//!
//! # What is real
//!
//! The core, the service, the record format, the session client, the VFS, the pair of buckets and the worker are the code
//! of production. Simulated are the disk under the journal, the streams between the parts, and the stores of objects.

pub mod actor;
pub mod archive;
pub mod buckets;
pub mod content;
pub mod faults;
pub mod history;
pub mod host;
pub mod kernel;
pub mod loss;
pub mod network;
pub mod random;
pub mod shared;
pub mod state;
pub mod trace;
pub mod verdict;
pub mod watcher;
pub mod worker;
pub mod world;

pub use world::{Options, Report, run};
