//! What the archiver needs of the service: the journal's reader, frozen states, and trimming.

use std::sync::Arc;
use std::sync::mpsc as std_mpsc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use twinshore_protocol::Position;
use twinshore_storage::bucket::Bucket;

use super::appender::Job;
use super::executor::{Command, Snapshot};
use crate::journal::JournalReader;
use crate::service::state::Input;

/// The parts that the archiver is built from.
pub(super) struct Parts {
    pub buckets: [Option<Arc<dyn Bucket>>; 2],
    pub reader: JournalReader,
    pub commands: mpsc::Sender<Command>,
    pub appends: std_mpsc::Sender<Job>,
    pub stopped: watch::Receiver<bool>,
}

/// Starts the archiver, if there is a bucket to archive to.
pub(super) fn start(parts: Parts) -> Option<JoinHandle<()>> {
    let _ = parts;
    None
}
