//! What a session tells its owner.

use crate::attributes::Attributes;
use crate::errno::Errno;
use crate::format::VolumeFormat;
use crate::identifiers::{InodeNumber, ObjectId, RequestNumber};
use crate::message::{Delegated, Invalidation, Reclaim};
use crate::operation::Operation;
use crate::replication::Task;
use crate::reply::Reply;

/// Called by the receiving task of a session, one call after the other, in the order of the stream. Must not block; may
/// call the session's methods that are not `async`.
pub trait SessionHandler: Send + Sync {
    /// A reply has come. Called before the requester is woken, and whether or not somebody still waits: here caches are
    /// filled, because an invalidation that follows is younger. `directories` are those whose entries were changed.
    fn replied(&self, operation: &Operation, result: &Result<Reply, Errno>, directories: &[Attributes]);

    /// The service has executed what was answered early ([`super::Session::early`]). Called in place of [`Self::replied`].
    fn replied_early(
        &self,
        number: RequestNumber,
        operation: &Operation,
        result: &Result<Reply, Errno>,
        directories: &[Attributes],
    ) {
        let _ = number;
        self.replied(operation, result, directories);
    }

    /// This is delegated, of what the operation of the reply that was just delivered concerned. Called before the requester is
    /// woken.
    fn delegated(&self, operation: &Operation, result: &Result<Reply, Errno>, delegated: &Delegated) {
        let _ = (operation, result, delegated);
    }

    /// Answer nothing more for these directories, then call [`super::Session::returned`] with the number.
    fn recalled(&self, number: u64, directories: &[InodeNumber]) {
        let _ = (number, directories);
    }

    /// Can directories be delegated to the owner? All delegations end with [`Self::disconnected`].
    fn takes_delegations(&self) -> bool {
        false
    }

    /// What of the reply that was just delivered has changed since it was made: drop it again. Called before the requester is
    /// woken.
    fn superseded(&self, items: &[Invalidation]) {
        let _ = items;
    }

    /// Drop these from the owner's caches now, and call [`super::Session::acknowledge`] with the number when the kernel
    /// has dropped them too. Without items: when it has dropped what it cached before [`Self::disconnected`].
    fn invalidated(&self, number: u64, items: Vec<Invalidation>);

    /// Does the owner call [`super::Session::acknowledge`]? One without caches need not: the session then does it.
    fn acknowledges(&self) -> bool {
        true
    }

    /// The stream has broken: drop all caches, there is no lease. Called before any message of the next stream.
    fn disconnected(&self);

    /// Tasks to carry out.
    fn tasks(&self, tasks: Vec<Task>) {
        drop(tasks);
    }

    /// A full synchronisation to carry out, from after this object.
    fn synchronise(&self, after: Option<ObjectId>) {
        let _ = after;
    }

    /// The settings of the volume have changed.
    fn format_changed(&self, format: &VolumeFormat) {
        let _ = format;
    }

    /// The session is over: its numbers, open files and locks are gone, and requests without a reply fail. A new session
    /// is opened by the next request.
    fn expired(&self);

    /// What is held open or locked according to the replies that have come (a `Create` or `Open` answered and no
    /// `Release` answered). Requests without a reply are sent again and must not be counted here.
    fn held(&self) -> Reclaim;
}

/// Of a session that caches nothing, opens nothing and takes no tasks: a command's.
#[derive(Clone, Copy, Debug, Default)]
pub struct WithoutCaches;

impl SessionHandler for WithoutCaches {
    fn replied(&self, _: &Operation, _: &Result<Reply, Errno>, _: &[Attributes]) {}
    fn invalidated(&self, _: u64, _: Vec<Invalidation>) {}
    fn acknowledges(&self) -> bool {
        false
    }
    fn disconnected(&self) {}
    fn expired(&self) {}
    fn held(&self) -> Reclaim {
        Reclaim {
            complete: true,
            ..Reclaim::default()
        }
    }
}
