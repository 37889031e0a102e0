//! What the metadata services say: one session for each volume, asked every ten seconds. It tells the controller only of what changed
//! in a way that is shown, so that a volume at rest causes no work; and it brings the settings that the service keeps to what the
//! spec wants.
//!
//! One session for long, not one for each question: every session that is opened is a record in the volume's journal.

mod summary;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, timeout};
use twinshore_protocol::message::{Refusal, Role, SessionDescription};
use twinshore_protocol::session::{ConnectError, RequestError, Session, SessionOptions, WithoutCaches};
use twinshore_protocol::status::VolumeStatus;
use twinshore_protocol::{Caller, Operation, Reply, Side, VolumeId};

pub use summary::{PURPOSE, Summary, changes, summarise};

use crate::controller::validate::WantedSettings;
use crate::error::with_causes;
use crate::transport::{self, Material};

/// How often a service is asked: status is that fresh, and a volume that is worked on is written that often at most.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long a service may take to answer; shorter than the interval, so that questions never queue.
const REQUEST_DEADLINE: Duration = Duration::from_secs(8);
/// How long opening a session may take, handshakes around the world included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(8);
/// Volumes that changed and were not looked at yet. Each sends one message per interval, and a full queue only makes them wait.
const CHANGES_MAX: usize = 1024;

/// Namespace and name of a volume.
pub type VolumeKey = (String, String);

/// What is watched.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// The metadata service.
    pub endpoint: String,
    /// The volume that it should serve.
    pub volume_id: String,
    /// What the connection is made with.
    pub material: Material,
    /// The side of this cluster. On the primary's side the session may change settings.
    pub side: Side,
    /// What the settings should be.
    pub wanted: WantedSettings,
}

/// What was last heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Observation {
    /// It was not asked yet.
    #[default]
    NotYet,
    /// It answered.
    Heard(Box<Summary>),
    /// It does not answer, and why.
    Silent(String),
    /// It serves another volume, or is of another version.
    OtherVolume(String),
}

impl Observation {
    /// What it told, if it answered.
    pub fn summary(&self) -> Option<&Summary> {
        match self {
            Self::Heard(summary) => Some(summary),
            Self::NotYet | Self::Silent(_) | Self::OtherVolume(_) => None,
        }
    }
}

struct Watched {
    target: Target,
    observation: Arc<Mutex<Observation>>,
    task: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All watched services.
pub struct Monitor {
    watched: Mutex<HashMap<VolumeKey, Watched>>,
    changed: mpsc::Sender<VolumeKey>,
}

impl Monitor {
    /// Watches nothing yet. The receiver hears of volumes whose observation changed.
    pub fn new() -> (Self, mpsc::Receiver<VolumeKey>) {
        let (changed, heard) = mpsc::channel(CHANGES_MAX);
        let monitor = Self {
            watched: Mutex::new(HashMap::new()),
            changed,
        };
        (monitor, heard)
    }

    /// Watches a volume from now on, or goes on if it already does.
    pub fn watch(&self, key: VolumeKey, target: Target) {
        let mut watched = lock(&self.watched);
        let observation = match watched.get(&key) {
            Some(present) if present.target == target && !present.task.is_finished() => return,
            // What was heard stays until something else is heard.
            Some(present) => Arc::clone(&present.observation),
            None => Arc::default(),
        };
        let task = tokio::spawn(follow(
            key.clone(),
            target.clone(),
            Arc::clone(&observation),
            self.changed.clone(),
        ));
        watched.insert(
            key,
            Watched {
                target,
                observation,
                task,
            },
        );
    }

    /// Watches a volume no longer.
    pub fn forget(&self, key: &VolumeKey) {
        lock(&self.watched).remove(key);
    }

    /// What was last heard.
    pub fn observation(&self, key: &VolumeKey) -> Observation {
        lock(&self.watched)
            .get(key)
            .map(|watched| lock(&watched.observation).clone())
            .unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks a service for ever.
async fn follow(
    key: VolumeKey,
    target: Target,
    observation: Arc<Mutex<Observation>>,
    changed: mpsc::Sender<VolumeKey>,
) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut session = None;
    loop {
        ticks.tick().await;
        let heard = ask(&target, &mut session).await;
        let differs = {
            let mut last = lock(&observation);
            let differs = *last != heard;
            *last = heard;
            differs
        };
        if differs && changed.send(key.clone()).await.is_err() {
            return;
        }
    }
}

/// Asks once, over the session that is there or a new one.
async fn ask(target: &Target, session: &mut Option<Session>) -> Observation {
    let open = match session.take() {
        Some(open) => open,
        None => match connect(target).await {
            Ok(open) => open,
            Err(observation) => return observation,
        },
    };
    match question(target, &open).await {
        Ok(status) => {
            *session = Some(open);
            Observation::Heard(Box::new(summarise(&status)))
        }
        Err(message) => Observation::Silent(message),
    }
}

/// The status, after the settings were brought to what is wanted.
async fn question(target: &Target, session: &Session) -> Result<VolumeStatus, String> {
    let status = status(session).await?;
    if target.side == Side::Target {
        return Ok(status);
    }
    let changes = changes(&status, &target.wanted);
    if changes.is_empty() {
        return Ok(status);
    }
    for operation in changes {
        session.request(Caller::ROOT, operation).await.map_err(|error| {
            format!(
                "the metadata service does not take the settings: {}",
                with_causes(&error)
            )
        })?;
    }
    self::status(session).await
}

async fn status(session: &Session) -> Result<VolumeStatus, String> {
    let reply = session.request(Caller::ROOT, Operation::GetStatus).await;
    match reply {
        Ok(Reply::Status(status)) => Ok(*status),
        Ok(_) => Err("the metadata service is of another version".to_owned()),
        Err(error @ (RequestError::SessionLost | RequestError::TimedOut)) => Err(format!(
            "the metadata service does not answer: {}",
            with_causes(&error)
        )),
        Err(error) => Err(with_causes(&error)),
    }
}

async fn connect(target: &Target) -> Result<Session, Observation> {
    let transport = transport::open(&target.endpoint, &target.material)
        .map_err(|error| Observation::Silent(with_causes(&error)))?;
    let volume: Option<VolumeId> = target.volume_id.parse().ok();
    let options = SessionOptions {
        volume,
        // The intermediate of the target region certifies no administration.
        role: match target.side {
            Side::Primary => Role::Admin,
            Side::Target => Role::Client,
        },
        near: target.side,
        task_slots: 0,
        description: SessionDescription {
            host: std::env::var("POD_NAME").unwrap_or_default(),
            process: std::process::id(),
            purpose: PURPOSE.to_owned(),
            node: None,
        },
        request_deadline: REQUEST_DEADLINE,
    };
    match timeout(
        CONNECT_DEADLINE,
        Session::connect(transport, options, Arc::new(WithoutCaches)),
    )
    .await
    {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(error)) => Err(refused(&target.endpoint, &error)),
        Err(_) => Err(Observation::Silent(format!(
            "the metadata service at {} does not answer",
            target.endpoint
        ))),
    }
}

fn refused(endpoint: &str, error: &ConnectError) -> Observation {
    let message = format!("the metadata service at {endpoint}: {}", with_causes(error));
    match error {
        ConnectError::Refused(Refusal::OtherVolume { .. } | Refusal::Version { .. }) => {
            Observation::OtherVolume(message)
        }
        _ => Observation::Silent(message),
    }
}
