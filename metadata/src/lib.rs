//! The metadata service: one truth for both regions.
//!
//! | module | what it is | may use |
//! |---|---|---|
//! | [`view`] | keys and values: the materialised state, in memory or in fjall | nothing of ours |
//! | [`core`] | `step`: one operation against a view, pure | `view` |
//! | [`journal`] | numbered records, appended and read back | `view` (mutations) |
//! | [`service`] | the state machine around the core: sessions, leases, locks, tasks, group commit; and its shell | all |
//! | [`archive`] | checkpoints and sealed segments in both buckets, and restore from either | `view`, `journal`, storage |

pub mod archive;
pub mod core;
pub mod journal;
pub mod service;
pub mod view;
