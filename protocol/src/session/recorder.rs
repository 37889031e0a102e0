//! What of a session outlives its process, so that a successor on the same machine can resume it.
//!
//! # Contract
//!
//! * [`Recorder::added`] is called before a request can be sent, and [`Recorder::answered`] after the handler has taken its reply in and before
//!   whoever waits for it is woken. So what is recorded and not answered is all that the service may have executed and nobody was told of.
//! * A successor takes the session with [`super::Session::resume`]: it sends what was not answered under the same numbers. The service applies a
//!   mutation once, however often it is sent.
//! * A number that the service may have seen is used again for nothing else. A request that is not recorded in full (it changes
//!   nothing) gives its number to a harmless one: what the service still has under way must not fall out of the window.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{ConnectError, RequestError, Session, SessionHandler, SessionOptions, Transport, driver};
use crate::errno::Errno;
use crate::format::VolumeFormat;
use crate::identifiers::{Epoch, Position, RequestNumber, SessionId};
use crate::operation::{Caller, Operation};
use crate::reply::Reply;

/// Keeps what a successor has to know. Its methods are called under the lock of the session: they must not wait, nor call it.
pub trait Recorder: Send + Sync {
    /// A request has its number. `early`: its program is answered without waiting for the reply.
    fn added(&self, number: RequestNumber, caller: &Caller, operation: &Operation, early: bool);

    /// It will never be executed: a harmless request takes its number.
    fn withdrawn(&self, number: RequestNumber);

    /// Its reply has come.
    fn answered(&self, number: RequestNumber, operation: &Operation, result: &Result<Reply, Errno>);

    /// This session is used from now on.
    fn opened(&self, session: SessionId, format: &VolumeFormat);

    /// The highest that was seen of the service.
    fn seen(&self, epoch: Epoch, position: Position);

    /// The session is over: nothing of it will be sent again.
    fn expired(&self);
}

/// A request without a reply that a predecessor has left.
#[derive(Clone, Debug)]
pub struct UnansweredRequest {
    /// Its number.
    pub number: RequestNumber,
    /// The request; none for one that changes nothing: a harmless one takes its number.
    pub request: Option<(Caller, Operation)>,
    /// Its program was answered early.
    pub early: bool,
}

/// A session that a predecessor has left.
#[derive(Clone, Debug)]
pub struct Resumption {
    /// The session.
    pub session: SessionId,
    /// The highest that was seen of the service.
    pub seen: (Epoch, Position),
    /// The volume.
    pub format: VolumeFormat,
    /// The number of the next request: higher than any that was used.
    pub next: RequestNumber,
    /// In the order of their numbers.
    pub requests: Vec<UnansweredRequest>,
}

/// The reply to a request of a predecessor.
#[derive(Debug)]
pub struct Awaited {
    /// The number of the request.
    pub number: RequestNumber,
    reply: oneshot::Receiver<Result<Reply, RequestError>>,
    deadline: Duration,
}

impl Awaited {
    pub(super) const fn new(
        number: RequestNumber,
        reply: oneshot::Receiver<Result<Reply, RequestError>>,
        deadline: Duration,
    ) -> Self {
        Self {
            number,
            reply,
            deadline,
        }
    }

    /// Waits for it. `for_ever`: it may wait for a lock.
    pub async fn wait(self, for_ever: bool) -> Result<Reply, RequestError> {
        if for_ever {
            return self.reply.await.unwrap_or(Err(RequestError::SessionLost));
        }
        match tokio::time::timeout(self.deadline, self.reply).await {
            Ok(result) => result.unwrap_or(Err(RequestError::SessionLost)),
            Err(_) => Err(RequestError::TimedOut),
        }
    }
}

impl Session {
    /// [`Session::connect`], of a process that may have a successor.
    pub async fn connect_recorded(
        transport: Arc<dyn Transport>,
        options: SessionOptions,
        handler: Arc<dyn SessionHandler>,
        recorder: Arc<dyn Recorder>,
    ) -> Result<Self, ConnectError> {
        let started = driver::start(transport, options, handler, Some(recorder)).await?;
        Ok(Self::of(started))
    }

    /// Goes on with the session of a predecessor, whose process must have ended. Returns at once: it is connected as after a break of the stream.
    pub fn resume(
        transport: Arc<dyn Transport>,
        options: SessionOptions,
        handler: Arc<dyn SessionHandler>,
        recorder: Arc<dyn Recorder>,
        resumption: Resumption,
    ) -> (Self, impl Future<Output = ()> + use<>, Vec<Awaited>) {
        let (started, start, awaited) = driver::resume(transport, options, handler, recorder, resumption);
        (Self::of(started), start, awaited)
    }
}
