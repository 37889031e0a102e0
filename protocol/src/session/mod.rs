//! The client's half of a session: numbers requests, resends them after a break, keeps the lease, delivers pushes.
//!
//! # Contract
//!
//! * A request gets its number when [`Session::request`] is *called*; the service executes requests in that order. Whether
//!   the future is polled or dropped does not matter: what was called is carried out.
//! * After a break the session connects again with back-off, resumes, re-claims what the handler holds and sends every
//!   request without a reply again, in order. Callers notice nothing but the time.
//! * A request that is not answered within `request_deadline` fails with [`RequestError::TimedOut`]. If it was ever sent,
//!   it may still be executed: nobody here guesses. It keeps its place, is sent again after a break, and its reply goes
//!   to the handler. If it was never sent, it will never be executed. A request that waits for a lock has no deadline.
//! * When the service ends the session, requests without a reply fail with [`RequestError::SessionLost`] (each may or may
//!   not have been executed), the handler hears `expired`, and the next request opens a new session.
//!
//! * What [`Session::early`] takes is sent soon, in the order of the calls, and again after a break: what follows it within milliseconds
//!   goes with it ([`departure`](self)). `Returned` leaves after all that was taken before it.
//! * A process that ends suddenly can leave its session to a successor: see [`Recorder`].
//!
//! # Parts
//!
//! Pure: [`ledger`](self) of requests, heartbeats and lease, number ranges, back-off. Thin: one driver task for each
//! session that owns the stream and makes all calls to the handler. Callers and the driver share one lock, never held
//! across a call to the handler or an `await`.

mod backoff;
mod claims;
mod departure;
mod driver;
mod grpc;
mod handler;
mod lease;
mod ledger;
mod numbers;
mod opening;
mod recorder;
mod shared;
mod size;
mod transport;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use self::backoff::Backoff;
pub use self::claims::ClaimError;
pub use self::grpc::GrpcTransport;
pub use self::handler::{SessionHandler, WithoutCaches};
pub use self::ledger::REQUESTS_MAX;
pub use self::recorder::{Awaited, Recorder, Resumption, UnansweredRequest};
pub use self::transport::{Stream, Transport, TransportError};

use self::shared::{Guard, Shared};
use crate::errno::Errno;
use crate::format::VolumeFormat;
use crate::identifiers::{InodeNumber, ObjectId, RequestNumber, SessionId, Side, VolumeId};
use crate::message::{Refusal, Role, SessionDescription};
use crate::operation::{Caller, Operation};
use crate::reply::Reply;
use crate::time::Timestamp;

/// How a session presents itself and how patient it is.
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// The volume that is expected, if known.
    pub volume: Option<VolumeId>,
    /// What connects.
    pub role: Role,
    /// Which side is near.
    pub near: Side,
    /// How many tasks it takes at a time.
    pub task_slots: u32,
    /// For people. Also seeds the jitter of reconnects, together with the session's number.
    pub description: SessionDescription,
    /// How long a request may take, reconnects included.
    pub request_deadline: Duration,
}

/// Why no session could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No stream.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The service said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The stream was opened, but no answer came.
    #[error(
        "the metadata service closed the stream, or did not answer within {0:?}: check that it is running and healthy"
    )]
    NoAnswer(Duration),
}

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The operation failed.
    #[error(transparent)]
    Failed(#[from] Errno),
    /// The session ended before the reply came; whether the operation was executed is not known.
    #[error("the session with the metadata service was lost before the operation was answered")]
    SessionLost,
    /// No reply in time. Whether the operation was or will be executed is not known, unless it was never sent.
    #[error("the metadata service did not answer in time")]
    TimedOut,
    /// No new session could be opened; the operation was not executed.
    #[error(transparent)]
    Refused(Refusal),
}

impl RequestError {
    /// What a program that made a system call is told.
    pub const fn errno(&self) -> Errno {
        match self {
            Self::Failed(errno) => *errno,
            Self::SessionLost | Self::TimedOut | Self::Refused(_) => Errno::InputOutput,
        }
    }
}

/// A session. Clones are the same session; it ends when the last is dropped.
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
    guard: Arc<Guard>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("id", &self.id())
            .finish_non_exhaustive()
    }
}

impl Session {
    /// Opens a session: one attempt, so that a person hears at once what is wrong. After it has succeeded the session
    /// connects again by itself.
    pub async fn connect(
        transport: Arc<dyn Transport>,
        options: SessionOptions,
        handler: Arc<dyn SessionHandler>,
    ) -> Result<Self, ConnectError> {
        Ok(Self::of(driver::start(transport, options, handler, None).await?))
    }

    fn of((shared, finished): driver::Started) -> Self {
        let guard = Arc::new(Guard::new(Arc::clone(&shared), finished));
        Self { shared, guard }
    }

    /// Makes a request. It has its number when this returns; the future only waits for the reply.
    pub fn request(
        &self,
        caller: Caller,
        operation: Operation,
    ) -> impl Future<Output = Result<Reply, RequestError>> + Send + 'static {
        let ticket = self.shared.request(caller, operation);
        let shared = Arc::clone(&self.shared);
        async move { shared.wait(ticket?).await }
    }

    /// A number for a new inode.
    pub async fn take_inode(&self) -> Result<InodeNumber, RequestError> {
        self.shared.take(numbers::Numbers::take_inode).await
    }

    /// A name for a new object.
    pub async fn take_object(&self) -> Result<ObjectId, RequestError> {
        self.shared.take(numbers::Numbers::take_object).await
    }

    /// Sends an operation whose program is answered at once, without waiting for the reply, which goes to the handler
    /// ([`SessionHandler::replied_early`]). `None`: it has to be made as an ordinary request, as too much is under way, or for too long.
    pub fn early(&self, caller: Caller, operation: Operation) -> Option<RequestNumber> {
        self.shared.early(caller, operation)
    }

    /// Somebody waits for what was taken by [`Session::early`]: it is sent now.
    pub fn hurry(&self) {
        self.shared.hurry();
    }

    /// A number for a new inode, if there is one at hand.
    pub fn take_inode_now(&self) -> Option<InodeNumber> {
        self.shared.take_inode_now()
    }

    /// What the clock of the service shows, as far as is known: a little late, by the way of its last answer to a heartbeat.
    pub fn service_time(&self) -> Option<Timestamp> {
        self.shared.service_time()
    }

    /// Nothing more is answered for the directories that the `Recall` with this number named.
    pub fn returned(&self, number: u64) {
        self.shared.returned(number);
    }

    /// What the invalidation with this number named is dropped everywhere. One of an older stream is ignored.
    pub fn acknowledge(&self, number: u64) {
        self.shared.acknowledge(number);
    }

    /// May caches be used now?
    pub fn lease_is_valid(&self) -> bool {
        !self.lease_remaining().is_zero()
    }

    /// How long caches may be used from now on.
    pub fn lease_remaining(&self) -> Duration {
        self.shared.lease_until().map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }

    /// How often a lease has ended before the next one began: what the session held alone may have been given to others then.
    pub fn lease_lapses(&self) -> u64 {
        self.shared.lease_lapses()
    }

    /// The volume, as last told.
    pub fn format(&self) -> Arc<VolumeFormat> {
        self.shared.format()
    }

    /// The session; after it expired, of the last one until a new one is open.
    pub fn id(&self) -> SessionId {
        self.shared.id()
    }

    /// Ends the session for all clones: waits until what was requested is answered (at most the request deadline), says
    /// goodbye, and closes the stream. Open files and locks are gone afterwards.
    pub async fn close(self) {
        self.shared.begin_close();
        self.guard.finished().await;
    }
}
