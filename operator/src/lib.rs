//! The operator: brings each `ReplicatedVolume` in this region to its declared state.
//!
//! [`controller`] holds the steps, a file each. What decides is pure ([`trust`], `controller::build`, [`leader::decide`],
//! `monitor::summarise`); what acts is thin.

pub mod arguments;
pub mod console;
pub mod context;
pub mod controller;
pub mod error;
#[cfg(test)]
mod fixtures;
pub mod http;
pub mod inventory;
pub mod leader;
pub mod metrics;
pub mod monitor;
pub mod run;
pub mod transport;
pub mod trust;
pub mod units;
