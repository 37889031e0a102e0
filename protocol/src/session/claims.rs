//! Claims, snapshots and access, asked for over a session: each a function with what it answers.

use super::{RequestError, Session};
use crate::claims::{
    AccessMode, AccessTo, Claim, ClaimKey, ClaimRequest, ClaimsPage, HoldPosition, HoldsPage, Label,
    NodeName, Refused, Snapshot, SnapshotKey, SnapshotsPage,
};
use crate::operation::{Caller, Operation};
use crate::reply::Reply;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// It was refused: nothing was changed, and the same will be refused again until something changes.
    #[error(transparent)]
    Refused(Box<Refused>),
    /// It failed. [`crate::Errno::NoSpace`] and [`crate::Errno::QuotaExceeded`]: a limit of the volume, or of a directory that holds the
    /// claim's. After anything else but an [`crate::Errno`] it may have been carried out: ask again.
    #[error(transparent)]
    Failed(#[from] RequestError),
    /// The service answered something else.
    #[error(
        "the metadata service gave an answer that does not belong to the question: is it of another version?"
    )]
    Unexpected,
}

type Answer<T> = Result<T, ClaimError>;

const DONE: fn(Reply) -> Option<()> = |reply| matches!(reply, Reply::Done).then_some(());

fn claim(reply: Reply) -> Option<Claim> {
    match reply {
        Reply::Claim(claim) => Some(*claim),
        _ => None,
    }
}

fn snapshot(reply: Reply) -> Option<Snapshot> {
    match reply {
        Reply::Snapshot(snapshot) => Some(*snapshot),
        _ => None,
    }
}

impl Session {
    async fn ask<T>(&self, operation: Operation, expected: fn(Reply) -> Option<T>) -> Answer<T> {
        match self.request(Caller::ROOT, operation).await? {
            Reply::Refused(refused) => Err(ClaimError::Refused(refused)),
            reply => expected(reply).ok_or(ClaimError::Unexpected),
        }
    }

    /// [`Operation::ClaimDirectory`].
    pub async fn claim_directory(&self, request: ClaimRequest) -> Answer<Claim> {
        self.ask(Operation::ClaimDirectory(Box::new(request)), claim)
            .await
    }

    /// [`Operation::ReleaseClaim`].
    pub async fn release_claim(&self, key: ClaimKey) -> Answer<()> {
        self.ask(Operation::ReleaseClaim { key }, DONE).await
    }

    /// [`Operation::GetClaim`].
    pub async fn get_claim(&self, key: ClaimKey) -> Answer<Claim> {
        self.ask(Operation::GetClaim { key }, claim).await
    }

    /// [`Operation::ListClaims`].
    pub async fn list_claims(
        &self,
        region: Option<Label>,
        from: Option<ClaimKey>,
        limit: u32,
    ) -> Answer<ClaimsPage> {
        let operation = Operation::ListClaims { region, from, limit };
        self.ask(operation, |reply| match reply {
            Reply::Claims(page) => Some(page),
            _ => None,
        })
        .await
    }

    /// [`Operation::ResizeClaim`].
    pub async fn resize_claim(&self, key: ClaimKey, capacity_bytes: u64) -> Answer<Claim> {
        self.ask(Operation::ResizeClaim { key, capacity_bytes }, claim)
            .await
    }

    /// [`Operation::CreateSnapshot`].
    pub async fn create_snapshot(&self, key: SnapshotKey, source: ClaimKey) -> Answer<Snapshot> {
        self.ask(Operation::CreateSnapshot { key, source }, snapshot)
            .await
    }

    /// [`Operation::DeleteSnapshot`].
    pub async fn delete_snapshot(&self, key: SnapshotKey) -> Answer<()> {
        self.ask(Operation::DeleteSnapshot { key }, DONE).await
    }

    /// [`Operation::GetSnapshot`].
    pub async fn get_snapshot(&self, key: SnapshotKey) -> Answer<Snapshot> {
        self.ask(Operation::GetSnapshot { key }, snapshot).await
    }

    /// [`Operation::ListSnapshots`].
    pub async fn list_snapshots(
        &self,
        region: Option<Label>,
        source: Option<ClaimKey>,
        from: Option<SnapshotKey>,
        limit: u32,
    ) -> Answer<SnapshotsPage> {
        let operation = Operation::ListSnapshots {
            region,
            source,
            from,
            limit,
        };
        self.ask(operation, |reply| match reply {
            Reply::Snapshots(page) => Some(page),
            _ => None,
        })
        .await
    }

    /// [`Operation::HoldAccess`].
    pub async fn hold_access(
        &self,
        to: AccessTo,
        node: NodeName,
        target: Label,
        mode: AccessMode,
    ) -> Answer<()> {
        let operation = Operation::HoldAccess {
            to,
            node,
            target,
            mode,
        };
        self.ask(operation, DONE).await
    }

    /// [`Operation::ReleaseAccess`].
    pub async fn release_access(&self, node: NodeName, target: Label) -> Answer<()> {
        self.ask(Operation::ReleaseAccess { node, target }, DONE).await
    }

    /// [`Operation::ListAccess`].
    pub async fn list_access(
        &self,
        node: Option<NodeName>,
        from: Option<HoldPosition>,
        limit: u32,
    ) -> Answer<HoldsPage> {
        let operation = Operation::ListAccess { node, from, limit };
        self.ask(operation, |reply| match reply {
            Reply::Holds(page) => Some(page),
            _ => None,
        })
        .await
    }
}
