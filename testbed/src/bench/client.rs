//! Speaking with the metadata service directly, for what would take too long through a mount.

use std::sync::Arc;
use std::time::Duration;

use twinshore_protocol::message::{Role, SessionDescription};
use twinshore_protocol::session::{GrpcTransport, RequestError, Session, SessionOptions, WithoutCaches};
use twinshore_protocol::status::VolumeStatus;
use twinshore_protocol::{Caller, FileName, InodeNumber, Operation, Reply, Side};
use twinshore_testbed::failure::Failure;

/// For one answer. A checkpoint of a million files may be in the way.
const REQUEST_DEADLINE: Duration = Duration::from_mins(1);

/// A session that caches nothing and takes no tasks.
pub async fn connect(address: &str) -> Result<Session, Failure> {
    let options = SessionOptions {
        volume: None,
        role: Role::Admin,
        near: Side::Primary,
        task_slots: 0,
        description: SessionDescription {
            host: "localhost".to_owned(),
            process: std::process::id(),
            purpose: "benchmark".to_owned(),
            node: None,
        },
        request_deadline: REQUEST_DEADLINE,
    };
    let transport = GrpcTransport::new(address, None).map_err(|error| Failure::Wrong(error.to_string()))?;
    Session::connect(Arc::new(transport), options, Arc::new(WithoutCaches))
        .await
        .map_err(|error| Failure::Wrong(error.to_string()))
}

/// For `map_err` of a request.
pub fn failed(what: &'static str) -> impl FnOnce(RequestError) -> Failure {
    move |error| Failure::Wrong(format!("cannot {what}: {error}"))
}

/// One operation as root.
pub async fn ask(session: &Session, what: &'static str, operation: Operation) -> Result<Reply, Failure> {
    session
        .request(Caller::ROOT, operation)
        .await
        .map_err(failed(what))
}

/// The state of the volume.
pub async fn status(session: &Session) -> Result<VolumeStatus, Failure> {
    match ask(session, "ask for the status", Operation::GetStatus).await? {
        Reply::Status(status) => Ok(*status),
        other => Err(unexpected(&other)),
    }
}

/// The inode of an answer that is an entry.
pub fn entry(reply: &Reply) -> Result<InodeNumber, Failure> {
    match reply {
        Reply::Entry(attributes) => Ok(attributes.inode),
        other => Err(unexpected(other)),
    }
}

/// A name of the benchmark's own making.
pub fn name(text: &str) -> Result<FileName, Failure> {
    text.parse()
        .map_err(|error| Failure::Wrong(format!("the name {text}: {error}")))
}

fn unexpected(reply: &Reply) -> Failure {
    Failure::Wrong(format!("the metadata service answered {reply:?}"))
}
