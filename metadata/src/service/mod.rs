//! The service: a state machine without IO, and the shell that gives it threads, a journal and a network.
//!
//! | module | what it is |
//! |---|---|
//! | [`overlay`] | the state as it will be: a store and the uncommitted batches over it |
//! | [`state`] | [`state::Service`]: sessions, order, group commit, leases, opens, locks, tasks, expiry. Pure: input and time in, outputs out |
//! | [`recovery`] | what happens before the first input: a new volume, replay, the records of the tail |
//! | [`shell`] | production: the engine's lock, journal thread, gRPC, HTTP, graceful stop |

pub mod overlay;
pub mod recovery;
pub mod shell;
pub mod state;
