//! The service in production.
//!
//! | thread or task | what it does |
//! |---|---|
//! | [`engine`] | holds the [`Service`](super::state::Service) and its view; whoever has news carries them out under its lock |
//! | appender (thread) | owns the journal; appends one record at a time, durably, and tells the engine |
//! | two tasks per stream | decode frames and have the engine execute them; encode messages into frames |
//! | ticker, HTTP (tasks) | time; `/healthz` and `/metrics` |
//!
//! # Limits
//!
//! Frames that are decoded and executed hold permits of one budget of bytes; what is under way to a stream that does not read
//! is counted, and beyond a limit the stream is closed. Everything else is bounded by the rules of sessions.
//!
//! # Failure cases
//!
//! A journal or view that fails ends the process: after a failed `fdatasync` nobody knows what is on the disk, and only a
//! restart, which reads it back, can tell. A full disk does not: changes are refused before the view has no room left
//! ([`disk_space`]).

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::session::Transport;
use twinshore_protocol::tls::TlsFiles;
use twinshore_protocol::{Timestamp, VolumeId};
use twinshore_storage::bucket::Bucket;

use super::recovery::{self, RecoveryError};
use super::state::{Service, ServiceError, ServiceOptions};
use crate::archive::ArchiveHandle;
use crate::core::VolumeLimits;
use crate::journal::directory::{DataDirectory, DirectoryError, DirectoryOptions};

mod appender;
mod archiving;
mod disk_space;
mod ending;
mod engine;
mod http;
mod local;
mod metrics;
mod streams;
#[cfg(test)]
mod tests;
mod tls;
mod tls_roles;

use disk_space::DiskSpace;
use ending::Running;
use engine::Engine;
use local::LocalTransport;
use streams::Connections;
pub use tls::TlsError;

/// What [`serve`] needs.
pub struct ServeOptions {
    /// The data directory: journal and view.
    pub data_dir: PathBuf,
    /// The volume that must be in it, if known.
    pub volume: Option<VolumeId>,
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The service's certificate. With it, whoever connects has to show one of the same authority; without it, nobody has to.
    pub tls: Option<TlsFiles>,
    /// Where `/healthz` and `/metrics` are, if anywhere.
    pub http: Option<SocketAddr>,
    /// The buckets to archive to, by side.
    pub buckets: [Option<Arc<dyn Bucket>>; 2],
    /// How the data directory uses disk and memory.
    pub directory: DirectoryOptions,
    /// Limits of the service.
    pub service: ServiceOptions,
    /// Told once the service is ready.
    pub ready: Option<oneshot::Sender<Ready>>,
}

impl ServeOptions {
    /// Options with defaults for all that has one.
    pub fn new(data_dir: PathBuf, listen: SocketAddr) -> Self {
        Self {
            data_dir,
            volume: None,
            listen,
            tls: None,
            http: None,
            buckets: [None, None],
            directory: DirectoryOptions::default(),
            service: ServiceOptions::default(),
            ready: None,
        }
    }
}

/// A service that is ready.
pub struct Ready {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where people and probes look.
    pub http: Option<SocketAddr>,
    /// To this service, from within the process.
    pub local: Arc<dyn Transport>,
    /// The archive in the buckets, for changes of buckets and for what a person asks for.
    pub archive: ArchiveHandle,
}

/// The service cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// Replay.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The state machine.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// An address is taken or not ours.
    #[error("cannot listen on {address}: choose another address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread")]
    Thread(#[source] std::io::Error),
    /// The gRPC server.
    #[error("the server for clients failed")]
    Server(#[source] tonic::transport::Error),
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It had to stop.
    #[error("the metadata service stopped: {0}")]
    Stopped(String),
}

/// Makes the data directory of a new volume. Blocks.
pub fn create_volume(
    data_dir: &std::path::Path,
    format: &VolumeFormat,
    limits: VolumeLimits,
) -> Result<(), ServeError> {
    DataDirectory::create_with(data_dir, format, DirectoryOptions::default(), |journal| {
        recovery::create(journal, format, limits, wall_clock())?;
        Ok::<_, ServeError>(())
    })?;
    Ok(())
}

/// Serves a volume until `stop` is ready, or something fails.
pub async fn serve(options: ServeOptions, stop: impl Future<Output = ()> + Send) -> Result<(), ServeError> {
    let ServeOptions {
        data_dir,
        volume,
        listen,
        tls,
        http,
        buckets,
        directory,
        service: service_options,
        ready,
    } = options;
    // What is wrong with the files from the start is told at the start.
    tls.as_ref().map(tls::configuration).transpose()?;
    // First, so that clients that come during the replay wait instead of being refused.
    let (listener, listen) = bind(listen).await?;
    let http = match http {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let (http_listener, http) = http.unzip();
    let DataDirectory {
        format,
        mut journal,
        mut view,
        lock,
    } = DataDirectory::open(&data_dir, volume, directory)?;
    let space = DiskSpace::new(data_dir, directory.journal.segment_bytes);
    let tail = recovery::recover(&mut journal, &mut view, format.volume)?;
    tracing::info!(volume = %format.volume, position = tail.position.0, epoch = tail.epoch.0, "recovered");
    let reader = journal.reader();

    let clock = Clock::start();
    let (service, outputs) = Service::start(view, tail, clock.now(), service_options)?;
    let engine = Arc::new(Engine::new(service, clock, space.clone()));
    let metrics = Arc::new(metrics::Metrics::new());
    let (appends, appender) = appender::start(
        Box::new(journal),
        Arc::clone(&engine),
        Arc::clone(&metrics),
        space,
    )?;
    let mut ending = engine.ending();
    engine.begin(appends, outputs);

    let (stopping, stopped) = watch::channel(false);
    let ticker = tokio::spawn(tick(Arc::clone(&engine)));
    let http_server = http_listener.map(|listener| {
        tokio::spawn(http::serve(
            listener,
            Arc::clone(&engine),
            metrics,
            stopped.clone(),
        ))
    });
    let (end_archive, end_of_archive) = oneshot::channel();
    let (archive, archiver) = archiving::start(archiving::Parts {
        volume: format.volume,
        began: tail,
        buckets,
        reader,
        engine: Arc::clone(&engine),
        ending: end_of_archive,
    });
    let connections = Arc::new(Connections::default());
    let server = tokio::spawn(streams::serve(streams::Server {
        listener,
        tls,
        volume: format.volume,
        engine: Arc::clone(&engine),
        connections: Arc::clone(&connections),
        stopped,
    }));
    if let Some(ready) = ready {
        // Whoever asked may have lost interest.
        let _ = ready.send(Ready {
            listen,
            http,
            local: Arc::new(LocalTransport {
                engine: Arc::clone(&engine),
                connections,
            }),
            archive,
        });
    }
    tracing::info!(%listen, "ready");

    tokio::select! {
        biased;
        _ = ending.wait_for(Option::is_some) => {}
        () = stop => {}
    }
    let running = Running {
        engine,
        stopping,
        ticker,
        end_archive,
        archiver,
        http_server,
        server,
        appender,
        lock,
    };
    running.end().await
}

/// A listener, and where it listens: port 0 asks for any that is free.
async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let cannot_listen = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(cannot_listen)?;
    let address = listener.local_addr().map_err(cannot_listen)?;
    Ok((listener, address))
}

async fn tick(engine: Arc<Engine>) {
    let mut interval = tokio::time::interval(super::state::TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        engine.tick();
        if engine.persist_is_due() {
            let engine = Arc::clone(&engine);
            // Whoever waits for the disk here holds up nobody.
            tokio::task::spawn_blocking(move || engine.persist_and_trim());
        }
    }
}

/// Both clocks.
#[derive(Clone, Copy, Debug)]
struct Clock {
    started: std::time::Instant,
}

impl Clock {
    fn start() -> Self {
        Self {
            started: std::time::Instant::now(),
        }
    }

    fn now(&self) -> super::state::Instants {
        super::state::Instants {
            wall: wall_clock(),
            monotonic: self.started.elapsed(),
        }
    }
}

fn wall_clock() -> Timestamp {
    // A clock before 1970 is a machine without one.
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::since_epoch(since)
}
