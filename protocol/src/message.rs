//! The messages of a session's stream, and its rules.
//!
//! # Flow
//!
//! 1. The client opens the stream and sends `Hello`, with the session it wants to resume, if any.
//! 2. The service answers `Welcome`, or `Refused` and closes the stream.
//! 3. A client that resumes sends `Reclaim` (what it holds open, its locks), then, in the order of their numbers, every
//!    request that it has no reply for.
//! 4. Requests and replies cross in any order; requests are numbered from 1 in the order in which the client issues them
//!    and executed in that order. At most [`REQUEST_WINDOW`] requests are between the oldest unreplied and the newest,
//!    not counting requests that wait for a lock (`SetLock` with `wait`): they keep no result, and the unlock that they wait
//!    for may have to come through the same window.
//! 5. The service pushes `Invalidate`; the client drops what it names, in its own caches and the kernel's, then sends
//!    `Acknowledge`. The change that caused it is answered only after that, or after the lease of the silent has ended. A
//!    client acknowledges without waiting for a reply to a request of its own: others may be waiting for each other.
//!    To a session that resumes, the first one comes right after `Welcome` and names nothing: it asks for everything that the client
//!    has cached over earlier streams, which it dropped when they broke, and is acknowledged when its kernel is through with that.
//! 6. The client sends `Heartbeat` every [`HEARTBEAT_SECONDS`]; the service answers `HeartbeatReply` to each.
//!
//! # Delegations
//!
//! A reply may say that a directory is *delegated* to the session. While it is, and the lease lasts, the client answers its programs for
//! it in place of the service, and sends these operations like others, marked with the time of the answer ([`Caller::answered`]).
//! It ends with `Recall`, which the client answers with `Returned` without waiting for anything but that what it has answered is
//! sent, or with the stream. On the next stream the client sends `Returned { number: 0 }` once all that it has answered is sent again. A directory that
//! was made by an operation that was answered is delegated too.
//!
//! # Guarantees
//!
//! * A mutating request is applied once, however often it is sent: its result stands in the record that applied it.
//! * A reply is sent only when everything that it tells of is committed.
//! * Replies and invalidations arrive in the order in which the service made them: an invalidation that comes after a
//!   reply is younger than it. A reply that was overtaken by an invalidation says so itself.
//! * After a broken stream the client holds no lease: it drops its caches before it uses a reply of the new stream, and its
//!   kernel's as soon as they can be. The service waits for that as for any other acknowledgement.
//! * After `Expired`, or when another `Hello` is answered with another session, nothing of the old session can commit.
//!
//! # Leases
//!
//! What a reply carried may be used until it is invalidated, but no longer than `lease_seconds` after the client *sent* the
//! last heartbeat that was answered: the service waits that long for a silent holder, measured on its own clock from the
//! time at which it *received* that heartbeat. No synchronised clocks are assumed, only that both run at the same rate
//! within 1 %.

use minicbor::{Decode, Encode};

use crate::attributes::Attributes;
use crate::claims::NodeName;
use crate::errno::Errno;
use crate::format::VolumeFormat;
use crate::identifiers::{
    Epoch, InodeNumber, NumberRange, Position, RequestNumber, SessionId, Side, VolumeId,
};
use crate::lock::Lock;
use crate::name::FileName;
use crate::operation::{Caller, Operation};
use crate::replication::Task;
use crate::reply::Reply;
use crate::time::Timestamp;

/// The version of the messages. Grows when a variant is added that older peers must not be sent.
pub const PROTOCOL_VERSION: u32 = 1;

/// How many requests may be under way in a session, counted from the oldest that has no reply. The service keeps as many
/// results per session, one slot for each number modulo this.
pub const REQUEST_WINDOW: u64 = 1024;

/// How often a client sends a heartbeat.
pub const HEARTBEAT_SECONDS: u64 = 2;

/// How long a client may use what it has cached after an answered heartbeat. Also how long the service waits for the
/// acknowledgement of a silent client. Five heartbeats: one lost packet must not cost the caches.
pub const LEASE_SECONDS: u64 = 10;

/// How long a session lives without a sign of life. Its open files and locks go with it.
pub const SESSION_SECONDS: u64 = 60;

/// What connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Role {
    /// A mount.
    #[n(0)]
    Client,
    /// A replication worker.
    #[n(1)]
    Worker,
    /// A follower of the journal.
    #[n(2)]
    Mirror,
    /// A person's command.
    #[n(3)]
    Admin,
}

/// Who a session says it is, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SessionDescription {
    /// The host name.
    #[n(0)]
    pub host: String,
    /// The process id.
    #[n(1)]
    pub process: u32,
    /// The mount point, or what it does.
    #[n(2)]
    pub purpose: String,
    /// A mount that serves pods: of this node. Access that was taken on the node counts as long as one of these sessions lives
    /// ([`crate::claims::AccessMode`]), so nothing but mounts should say it.
    #[n(3)]
    #[cbor(default)]
    pub node: Option<NodeName>,
}

/// The first message.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// [`PROTOCOL_VERSION`] of the client.
    #[n(0)]
    pub protocol_version: u32,
    /// The volume that the client expects, if it knows.
    #[n(1)]
    pub volume: Option<VolumeId>,
    /// The session to resume.
    #[n(2)]
    pub session: Option<SessionId>,
    /// What connects.
    #[n(3)]
    pub role: Role,
    /// Which side is near.
    #[n(4)]
    pub near: Side,
    /// How many tasks it takes at a time; 0 for none (`--no-sync`).
    #[n(5)]
    pub task_slots: u32,
    /// For people.
    #[n(6)]
    pub description: SessionDescription,
    /// Of a resuming client: the highest epoch and position that it has seen.
    #[n(7)]
    pub seen: Option<(Epoch, Position)>,
    /// It can be given delegations of directories.
    #[n(8)]
    #[cbor(default)]
    pub delegations: bool,
}

/// What a resuming client still holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Reclaim {
    /// Open inodes, with how often.
    #[n(0)]
    pub opens: Vec<(InodeNumber, u32)>,
    /// Locks held.
    #[n(1)]
    pub locks: Vec<(InodeNumber, Lock)>,
    /// This is the last of several.
    #[n(2)]
    pub complete: bool,
}

/// From client to service.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ClientMessage {
    /// The first message.
    #[n(0)]
    Hello(#[n(0)] Hello),
    /// Of a client that resumes.
    #[n(1)]
    Reclaim(#[n(0)] Reclaim),
    /// An operation.
    #[n(2)]
    Request {
        /// Its number.
        #[n(0)]
        number: RequestNumber,
        /// On whose behalf.
        #[n(1)]
        caller: Caller,
        /// What to do.
        #[n(2)]
        operation: Operation,
    },
    /// What an `Invalidate` named has been dropped.
    #[n(3)]
    Acknowledge {
        /// The number of the `Invalidate`.
        #[n(0)]
        number: u64,
    },
    /// A sign of life.
    #[n(4)]
    Heartbeat {
        /// Chosen by the client, returned in the reply.
        #[n(0)]
        number: u64,
    },
    /// The session ends: nothing of it is outstanding.
    #[n(5)]
    Goodbye,
    /// The client gives directories back. What it answered for them was sent before this.
    #[n(6)]
    Returned {
        /// The number of the `Recall`, or 0 for all that was delegated over older streams.
        #[n(0)]
        number: u64,
    },
}

/// What a client may no longer use.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Invalidation {
    /// The attributes of an inode.
    #[n(0)]
    Attributes(#[n(0)] InodeNumber),
    /// The content of an inode: extents, pages, and attributes too.
    #[n(1)]
    Content(#[n(0)] InodeNumber),
    /// A name in a directory: it was made, removed, or names something else. The listing of the directory too.
    #[n(2)]
    Entry(#[n(0)] InodeNumber, #[n(1)] FileName),
    /// Everything about an inode and, if it is a directory, about all its names.
    #[n(3)]
    Everything(#[n(0)] InodeNumber),
}

/// Why a `Hello` is refused.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum Refusal {
    /// Another volume lives here.
    #[n(0)]
    #[error("this metadata service serves volume {served}, not {expected}: check --metadata")]
    OtherVolume {
        /// What it serves.
        #[n(0)]
        served: VolumeId,
        /// What the client expected.
        #[n(1)]
        expected: VolumeId,
    },
    /// The session to resume is over.
    #[n(1)]
    #[error("the session has expired: its open files and locks are gone")]
    SessionExpired,
    /// The versions do not fit.
    #[n(2)]
    #[error("protocol version {offered} is not served, only {served}: upgrade the older side")]
    Version {
        /// What the client speaks.
        #[n(0)]
        offered: u32,
        /// What the service speaks.
        #[n(1)]
        served: u32,
    },
    /// The service is not the leader, or behind what the client has seen.
    #[n(3)]
    #[error("this service is behind what the client has already seen: it is not the leader of the volume")]
    Behind,
    /// No more sessions.
    #[n(4)]
    #[error("the service has reached its limit of {limit} sessions")]
    TooManySessions {
        /// How many it allows.
        #[n(0)]
        limit: u32,
    },
}

/// The answer to `Hello`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Welcome {
    /// The session.
    #[n(0)]
    pub session: SessionId,
    /// The leader's epoch.
    #[n(1)]
    pub epoch: Epoch,
    /// The last committed position.
    #[n(2)]
    pub position: Position,
    /// The volume.
    #[n(3)]
    pub format: VolumeFormat,
    /// Numbers for new inodes (empty for a resumed session: it goes on with what it has).
    #[n(4)]
    pub inodes: NumberRange,
    /// Numbers for new objects, in this epoch. A resumed session uses these from now on.
    #[n(5)]
    pub objects: NumberRange,
    /// Where inode numbers for `objects` begin to be unique: the epoch in which they were granted.
    #[n(6)]
    pub objects_epoch: Epoch,
    /// How long cached replies may be used after an answered heartbeat.
    #[n(7)]
    pub lease_seconds: u64,
}

/// What is delegated to a session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Delegated {
    /// Directories: their names are the session's to change.
    #[n(0)]
    pub directories: Vec<InodeNumber>,
    /// Inodes that are no directories, have their one name in the first of these, and of which nobody else holds anything: as long as the
    /// directory is delegated nobody else is told of them, and what the session does to them can be answered early.
    #[n(1)]
    pub sole: Vec<InodeNumber>,
}

impl Delegated {
    /// Is it nothing?
    pub const fn is_empty(&self) -> bool {
        self.directories.is_empty()
    }
}

/// From service to client.
#[allow(clippy::large_enum_variant)] // Nearly all are replies: a box for each would only cost.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum ServerMessage {
    /// The first message of a session.
    #[n(0)]
    Welcome(#[n(0)] Box<Welcome>),
    /// The first message of a stream without a session.
    #[n(1)]
    Refused(#[n(0)] Refusal),
    /// The answer to a request.
    #[n(2)]
    Reply {
        /// The number of the request.
        #[n(0)]
        number: RequestNumber,
        /// The last position that the answer tells of.
        #[n(1)]
        position: Position,
        /// The answer.
        #[n(2)]
        result: Result<Reply, Errno>,
        /// The directories whose entries the request changed, as they are afterwards; leased like all attributes. Nobody who
        /// has just made a file should have to ask for the times of its directory. Missing when a request is answered again.
        #[n(3)]
        directories: Vec<Attributes>,
        /// What of the answer has changed while it waited for acknowledgements: to be dropped together with taking it in, as
        /// the invalidations of these changes came before it. Needs no acknowledgement.
        #[n(4)]
        superseded: Vec<Invalidation>,
        /// What is delegated to the session of that which the request concerned. (5 was its directories alone.)
        #[n(6)]
        #[cbor(default)]
        delegated: Delegated,
    },
    /// Drop these, then acknowledge.
    #[n(3)]
    Invalidate {
        /// Its number, to be acknowledged. Never used again within the session, on later streams either: an
        /// acknowledgement may be late.
        #[n(0)]
        number: u64,
        /// What to drop. Nothing: what was cached over earlier streams.
        #[n(1)]
        items: Vec<Invalidation>,
    },
    /// The answer to a heartbeat.
    #[n(4)]
    HeartbeatReply {
        /// The number of the heartbeat.
        #[n(0)]
        number: u64,
        /// The time of the service.
        #[n(1)]
        time: Option<Timestamp>,
    },
    /// Tasks for this worker or mount.
    #[n(5)]
    Tasks(#[n(0)] Vec<Task>),
    /// The settings of the volume have changed.
    #[n(6)]
    FormatChanged(#[n(0)] Box<VolumeFormat>),
    /// The session is over: nothing that it sends will commit.
    #[n(7)]
    Expired,
    /// Carry out a full synchronisation (to one worker at a time), from after this object.
    #[n(8)]
    Synchronise {
        /// Where to resume.
        #[n(0)]
        after: Option<crate::identifiers::ObjectId>,
    },
    /// Answer nothing more for these directories, then say `Returned`. What is cached of them stays leased.
    #[n(9)]
    Recall {
        /// Its number, not 0. Never used again within the session.
        #[n(0)]
        number: u64,
        /// The directories.
        #[n(1)]
        directories: Vec<InodeNumber>,
    },
}
