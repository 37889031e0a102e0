//! Counters since the start, for metrics.

use twinshore_protocol::Operation;

use super::Service;
use crate::view::ViewStore;

/// Kinds of operations, as metrics name them.
pub const OPERATION_KINDS: [&str; 8] = [
    "lookup",
    "attributes",
    "namespace",
    "directory",
    "data",
    "extended_attributes",
    "locks",
    "administration",
];

/// What was counted, and how much there is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Executed operations, by [`OPERATION_KINDS`].
    pub operations: [u64; OPERATION_KINDS.len()],
    /// Records.
    pub batches: u64,
    /// Operations with mutations in all records.
    pub batch_operations: u64,
    /// Operations in the last record.
    pub last_batch_operations: u64,
    /// Bytes of all records.
    pub journal_bytes: u64,
    /// Invalidated items sent.
    pub invalidations: u64,
    /// Replies that had to wait for acknowledgements.
    pub recalls_waited: u64,
    /// Delegations that were asked back.
    pub delegations_recalled: u64,
    /// Rows that were cleaned up.
    pub cleaned_rows: u64,
    /// The journal's disk is full.
    pub full: bool,
    /// Sessions now.
    pub sessions: usize,
    /// Sessions with a stream now.
    pub connected: usize,
    /// Delegated directories now.
    pub delegations: usize,
    /// Holders now.
    pub leases: usize,
    /// Locks and waiting lock requests now.
    pub locks: usize,
    /// Open inodes now.
    pub opens: usize,
    /// Replies that wait for acknowledgements now.
    pub waiting: usize,
    /// Tasks handed out now.
    pub tasks: usize,
}

impl Numbers {
    pub(super) fn count(&mut self, operation: &Operation) {
        let kind = match operation {
            Operation::Lookup { .. } => 0,
            Operation::GetAttributes { .. }
            | Operation::SetAttributes { .. }
            | Operation::Open { .. }
            | Operation::Release { .. }
            | Operation::StatFileSystem { .. } => 1,
            Operation::MakeNode { .. }
            | Operation::MakeDirectory { .. }
            | Operation::Create { .. }
            | Operation::SymbolicLink { .. }
            | Operation::ReadLink { .. }
            | Operation::Link { .. }
            | Operation::Unlink { .. }
            | Operation::RemoveDirectory { .. }
            | Operation::Rename { .. } => 2,
            Operation::ReadDirectory { .. } => 3,
            Operation::GetExtents { .. }
            | Operation::Commit { .. }
            | Operation::Allocate { .. }
            | Operation::CopyRange { .. }
            | Operation::Seek { .. } => 4,
            Operation::GetExtendedAttribute { .. }
            | Operation::SetExtendedAttribute { .. }
            | Operation::ListExtendedAttributes { .. }
            | Operation::RemoveExtendedAttribute { .. } => 5,
            Operation::GetLock { .. } | Operation::SetLock { .. } | Operation::CancelLock { .. } => 6,
            Operation::GrantNumbers
            | Operation::GetUsage { .. }
            | Operation::SetQuota { .. }
            | Operation::ListTrash { .. }
            | Operation::RestoreTrash { .. }
            | Operation::PurgeTrash { .. }
            | Operation::GetStatus
            | Operation::SetSettings { .. }
            | Operation::ReportCopies { .. }
            | Operation::ListObjects { .. }
            | Operation::ReportSynchronisation { .. }
            | Operation::RequestSynchronisation
            | Operation::Repoint { .. }
            | Operation::ListInline { .. }
            | Operation::ListCompaction { .. }
            | Operation::RequestCompaction
            | Operation::ClaimDirectory(_)
            | Operation::ReleaseClaim { .. }
            | Operation::GetClaim { .. }
            | Operation::ListClaims { .. }
            | Operation::ResizeClaim { .. }
            | Operation::CreateSnapshot { .. }
            | Operation::DeleteSnapshot { .. }
            | Operation::GetSnapshot { .. }
            | Operation::ListSnapshots { .. }
            | Operation::HoldAccess { .. }
            | Operation::ReleaseAccess { .. }
            | Operation::ListAccess { .. } => 7,
        };
        self.operations[kind] += 1;
    }
}

impl<V: ViewStore> Service<V> {
    /// The counters, and how much there is now.
    pub fn numbers(&self) -> Numbers {
        Numbers {
            sessions: self.sessions.len(),
            connected: self
                .sessions
                .values()
                .filter(|session| session.connection.is_some())
                .count(),
            delegations: self.delegations_held(),
            leases: self.leases.count_all(),
            locks: self.locks.count_all(),
            opens: self.opens.count_all(),
            waiting: self.waits.len(),
            tasks: self.tasks.handed_out(),
            ..self.numbers
        }
    }
}
