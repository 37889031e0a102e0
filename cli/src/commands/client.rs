//! A short session of a command with the metadata service.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::message::{Invalidation, Reclaim, Refusal, Role, SessionDescription};
use twinshore_protocol::session::{
    Backoff, ConnectError, Session, SessionHandler, SessionOptions, Transport, TransportError, WithoutCaches,
};
use twinshore_protocol::{Attributes, Caller, Errno, FileName, InodeNumber, Operation, Reply, Side};

use crate::arguments::{PatienceArguments, ServiceArguments};
use crate::error::{CommandError, with_causes};

/// How long a command waits for one answer: a person's patience.
const REQUEST_DEADLINE: Duration = Duration::from_secs(30);

/// Who this process is.
pub fn description(purpose: &str) -> SessionDescription {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    SessionDescription {
        host,
        process: std::process::id(),
        purpose: purpose.to_owned(),
        node: None,
    }
}

/// A session that caches nothing.
pub struct Client {
    session: Session,
}

impl Client {
    /// Opens a session.
    pub async fn connect(service: &ServiceArguments, purpose: &str) -> Result<Self, CommandError> {
        Self::connect_as(Role::Admin, service, purpose).await
    }

    async fn connect_as(role: Role, service: &ServiceArguments, purpose: &str) -> Result<Self, CommandError> {
        let transport = super::transport(service)?;
        let handler = Arc::new(WithoutCaches);
        Self::connect_with(transport, &service.address, role, purpose, handler).await
    }

    /// Opens a session with a service that may not be up yet: tries again until the patience has ended, and says so. What
    /// waiting cannot change (another volume, another version) fails at once. The role is the one that the certificate allows.
    pub async fn connect_patiently(
        role: Role,
        service: &ServiceArguments,
        patience: PatienceArguments,
        who: &str,
    ) -> Result<Self, CommandError> {
        let limit = Duration::from_secs(patience.wait_service);
        let deadline = Instant::now() + limit;
        let mut backoff = Backoff::new(u64::from(std::process::id()));
        let mut told = false;
        loop {
            let error = match Self::connect_as(role, service, &format!("{who} start")).await {
                Ok(client) => return Ok(client),
                Err(error) => error,
            };
            let pause = backoff.pause();
            if !may_change(&error) || Instant::now() + pause > deadline {
                return Err(error);
            }
            if !std::mem::replace(&mut told, true) {
                // On standard output: in the background standard error is the log.
                println!(
                    "{who}: waiting up to {} s: {}",
                    limit.as_secs(),
                    with_causes(&error)
                );
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Opens a session, over a transport to the service of this process, that also tells of changed settings.
    pub async fn connect_following(
        transport: Arc<dyn Transport>,
        purpose: &str,
    ) -> Result<(Self, watch::Receiver<VolumeFormat>), CommandError> {
        let (changes, _) = watch::channel(None);
        let handler = Arc::new(Following { changes });
        let following = Arc::clone(&handler) as Arc<dyn SessionHandler>;
        let client = Self::connect_with(transport, "this process", Role::Admin, purpose, following).await?;
        let (formats, following) = watch::channel(VolumeFormat::clone(&client.session.format()));
        let mut changes = handler.changes.subscribe();
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                if let Some(format) = changes.borrow_and_update().clone() {
                    formats.send_replace(format);
                }
            }
        });
        Ok((client, following))
    }

    async fn connect_with(
        transport: Arc<dyn Transport>,
        address: &str,
        role: Role,
        purpose: &str,
        handler: Arc<dyn SessionHandler>,
    ) -> Result<Self, CommandError> {
        let options = SessionOptions {
            volume: None,
            role,
            near: Side::Primary,
            task_slots: 0,
            description: description(purpose),
            request_deadline: REQUEST_DEADLINE,
        };
        let session = Session::connect(transport, options, handler)
            .await
            .map_err(|source| CommandError::Connect {
                address: address.to_owned(),
                source,
            })?;
        Ok(Self { session })
    }

    /// Carries out one operation as root.
    pub async fn request(&self, what: &str, operation: Operation) -> Result<Reply, CommandError> {
        self.session
            .request(Caller::ROOT, operation)
            .await
            .map_err(|source| CommandError::Request {
                what: what.to_owned(),
                source,
            })
    }

    /// The session itself.
    pub const fn session(&self) -> &Session {
        &self.session
    }

    /// Finds the inode of a path from the volume's root.
    pub async fn resolve(&self, path: &str) -> Result<InodeNumber, CommandError> {
        let mut inode = InodeNumber::ROOT;
        for component in path
            .split('/')
            .filter(|component| !component.is_empty() && *component != ".")
        {
            let name: FileName = component
                .parse()
                .map_err(|error| CommandError::Usage(format!("`{component}` in path {path}: {error}")))?;
            let what = format!("find {component} of {path}");
            match self
                .request(&what, Operation::Lookup { parent: inode, name })
                .await?
            {
                Reply::Entry(attributes) => inode = attributes.inode,
                other => return Err(unexpected(&what, &other)),
            }
        }
        Ok(inode)
    }

    /// Finds the directory of a path and the name in it.
    pub async fn resolve_parent(&self, path: &str) -> Result<(InodeNumber, FileName), CommandError> {
        let trimmed = path.trim_end_matches('/');
        let (parent, name) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
        let name = name
            .parse()
            .map_err(|error| CommandError::Usage(format!("`{name}` in path {path}: {error}")))?;
        Ok((self.resolve(parent).await?, name))
    }

    /// Ends the session.
    pub async fn close(self) {
        self.session.close().await;
    }
}

/// Can another attempt succeed?
fn may_change(error: &CommandError) -> bool {
    let CommandError::Connect { source, .. } = error else {
        return false;
    };
    match source {
        ConnectError::Transport(TransportError::Unreachable { .. })
        | ConnectError::NoAnswer(_)
        | ConnectError::Refused(Refusal::Behind | Refusal::TooManySessions { .. }) => true,
        ConnectError::Transport(TransportError::Address { .. })
        | ConnectError::Refused(
            Refusal::OtherVolume { .. } | Refusal::SessionExpired | Refusal::Version { .. },
        ) => false,
    }
}

/// Caches nothing, and passes on what it hears of the volume's settings.
struct Following {
    changes: watch::Sender<Option<VolumeFormat>>,
}

impl SessionHandler for Following {
    fn replied(&self, _: &Operation, _: &Result<Reply, Errno>, _: &[Attributes]) {}
    fn invalidated(&self, _: u64, _: Vec<Invalidation>) {}
    fn acknowledges(&self) -> bool {
        false
    }
    fn disconnected(&self) {}
    fn format_changed(&self, format: &VolumeFormat) {
        self.changes.send_replace(Some(format.clone()));
    }
    fn expired(&self) {}
    fn held(&self) -> Reclaim {
        Reclaim {
            complete: true,
            ..Reclaim::default()
        }
    }
}

/// The service answered something that does not belong to the question: it is of another version.
pub fn unexpected(what: &str, reply: &Reply) -> CommandError {
    CommandError::Usage(format!(
        "cannot {what}: the service answered {reply:?}; are both of the same version?"
    ))
}
