//! An S3 server: one region's bucket, with credentials of its own, kept in a directory.
//!
//! States: running and stopped. `stop` closes the port and every connection, as a server that died; what it acknowledged is
//! in its directory. `start` serves the same directory at the same address again.
//!
//! Two engines: `s3s-fs` in this process, good for the demo and for tests of behaviour; and versitygw, an external program, good
//! for measuring and as a second opinion on the protocol.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as BlockingListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::process::{ProcessError, Program, Ready, Supervised};

/// Connections served at a time; more wait in the kernel's queue. Every client pools its own, at most 64 or so each.
const CONNECTIONS_MAX: usize = 1024;

/// Ports below the kernel's range for outgoing connections (`ip_local_port_range` begins at 32768), so that nobody takes
/// the port of a server that is stopped for a while.
const PORTS: std::ops::Range<u16> = 18_000..32_000;

/// For versitygw to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum S3ServerError {
    /// The directory cannot be used.
    #[error("the directory {} of the {region} bucket cannot be used: {reason}", directory.display())]
    Directory {
        /// The region.
        region: String,
        /// The directory.
        directory: PathBuf,
        /// Why.
        reason: String,
    },
    /// The port is taken.
    #[error("the {region} bucket cannot listen at {address}")]
    Listen {
        /// The region.
        region: String,
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The external program.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// All ports that were tried are taken.
    #[error("no free port between {} and {}: stop something that listens there", PORTS.start, PORTS.end)]
    NoPort,
}

/// A pair of keys.
#[derive(Clone)]
pub struct Keys {
    /// The public half.
    pub access_key: String,
    /// The secret half.
    pub secret_key: String,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

impl Keys {
    /// New keys for a region, different each time.
    pub fn generate(region: &str) -> Self {
        let random: [u64; 3] = rand::random();
        Self {
            access_key: format!("{region}-{:08x}", random[0] & 0xffff_ffff),
            secret_key: format!("{:016x}{:016x}", random[1], random[2]),
        }
    }
}

/// What serves.
#[derive(Clone, Debug, Default)]
pub enum Engine {
    /// `s3s-fs` in this process.
    #[default]
    InProcess,
    /// The versitygw binary at this path. It knows no added latency and counts no requests.
    Versitygw(PathBuf),
}

/// What a server is.
#[derive(Clone, Debug)]
pub struct S3ServerOptions {
    /// What serves.
    pub engine: Engine,
    /// Where an external program's log goes.
    pub log_directory: PathBuf,
    /// The region's name, for messages.
    pub region: String,
    /// Where the bucket's objects are kept, as `directory/bucket/key`.
    pub directory: PathBuf,
    /// The bucket's name.
    pub bucket: String,
    /// The only keys that it accepts.
    pub keys: Keys,
}

/// The server.
pub struct S3Server {
    options: S3ServerOptions,
    address: SocketAddr,
    latency_micros: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
    running: Option<Running>,
}

/// A server that serves.
enum Running {
    InProcess(JoinHandle<()>),
    Versitygw(Box<Supervised>),
}

/// A port of 127.0.0.1 that is free now.
pub fn free_address() -> Result<SocketAddr, S3ServerError> {
    for _ in 0..1000 {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, rand::random_range(PORTS)));
        if BlockingListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(S3ServerError::NoPort)
}

impl S3Server {
    /// Starts a server with an empty bucket, or with what the directory holds already, at a free port.
    pub async fn new(options: S3ServerOptions) -> Result<Self, S3ServerError> {
        let address = free_address()?;
        let mut server = Self {
            options,
            address,
            latency_micros: Arc::default(),
            requests: Arc::default(),
            running: None,
        };
        server.start().await?;
        Ok(server)
    }

    /// Serves again, at the same address. Nothing happens if it is running.
    pub async fn start(&mut self) -> Result<(), S3ServerError> {
        if self.running.is_some() {
            return Ok(());
        }
        let directory = self.options.directory.join(&self.options.bucket);
        std::fs::create_dir_all(directory).map_err(|error| self.unusable(error.to_string()))?;
        self.running = Some(match &self.options.engine {
            Engine::InProcess => Running::InProcess(self.serve_in_process().await?),
            Engine::Versitygw(binary) => {
                Running::Versitygw(Box::new(Supervised::start(&self.versitygw(binary)).await?))
            }
        });
        Ok(())
    }

    fn unusable(&self, reason: String) -> S3ServerError {
        let S3ServerOptions {
            region, directory, ..
        } = &self.options;
        S3ServerError::Directory {
            region: region.clone(),
            directory: directory.clone(),
            reason,
        }
    }

    async fn serve_in_process(&self) -> Result<JoinHandle<()>, S3ServerError> {
        let S3ServerOptions {
            region,
            directory,
            keys,
            ..
        } = &self.options;
        let files =
            s3s_fs::FileSystem::new(directory).map_err(|error| self.unusable(format!("{error:?}")))?;
        let mut builder = S3ServiceBuilder::new(files);
        builder.set_auth(SimpleAuth::from_single(
            keys.access_key.clone(),
            keys.secret_key.clone(),
        ));
        let service = builder.build();
        let listener = TcpListener::bind(self.address)
            .await
            .map_err(|source| S3ServerError::Listen {
                region: region.clone(),
                address: self.address,
                source,
            })?;
        let latency_micros = Arc::clone(&self.latency_micros);
        let requests = Arc::clone(&self.requests);
        Ok(tokio::spawn(accept(listener, service, latency_micros, requests)))
    }

    fn versitygw(&self, binary: &Path) -> Program {
        let S3ServerOptions {
            region,
            directory,
            keys,
            log_directory,
            ..
        } = &self.options;
        let mut arguments: Vec<OsString> = vec!["--port".into(), self.address.to_string().into()];
        // With checksums of its own instead of MD5, which would be most of its work.
        arguments.extend(["--quiet", "--keep-alive", "posix", "--data-integrity-etag"].map(OsString::from));
        arguments.push(directory.into());
        Program {
            name: format!("versitygw-{region}"),
            program: binary.to_owned(),
            arguments,
            environment: vec![
                ("ROOT_ACCESS_KEY".to_owned(), keys.access_key.clone()),
                ("ROOT_SECRET_KEY".to_owned(), keys.secret_key.clone()),
            ],
            log_directory: log_directory.clone(),
            ready: Ready::Listens(self.address),
            patience: PATIENCE,
        }
    }

    /// Closes the port and every connection, at once: what was being answered is not answered.
    pub async fn stop(&mut self) -> Result<(), S3ServerError> {
        match self.running.take() {
            None => {}
            Some(Running::InProcess(task)) => {
                task.abort();
                // The only outcome is "cancelled". After it the listener and the connections are closed.
                let _ = task.await;
            }
            Some(Running::Versitygw(mut program)) => program.kill().await?,
        }
        Ok(())
    }

    /// Whether it serves.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Lets every request wait before it is looked at, from now on.
    pub fn set_latency(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.latency_micros.store(micros, Ordering::Relaxed);
    }

    /// Requests that it got since it was made.
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The bucket's URL, when the server is reached at `address` (its own, or that of a link of the line).
    pub fn url_at(&self, address: SocketAddr) -> String {
        format!("http://{address}/{}", self.options.bucket)
    }

    /// The bucket's URL.
    pub fn url(&self) -> String {
        self.url_at(self.address)
    }

    /// The process that serves, if it is another one than this.
    pub fn process_id(&self) -> Option<i32> {
        match self.running.as_ref()? {
            Running::InProcess(_) => None,
            Running::Versitygw(program) => Some(program.process_id()),
        }
    }

    /// Its keys.
    pub fn keys(&self) -> &Keys {
        &self.options.keys
    }

    /// Where the bucket's objects lie, one file each, named by key.
    pub fn bucket_directory(&self) -> PathBuf {
        Path::join(&self.options.directory, &self.options.bucket)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        // The external program is killed by its own drop.
        if let Some(Running::InProcess(task)) = self.running.take() {
            task.abort();
        }
    }
}

/// Accepts connections until the task is aborted, which drops the set and with it every connection.
async fn accept(
    listener: TcpListener,
    service: S3Service,
    latency_micros: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        // An error is that of one connection that went away again (or of too many open files, which passes).
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (service, latency, count) = (
            service.clone(),
            Arc::clone(&latency_micros),
            Arc::clone(&requests),
        );
        connections.spawn(serve(stream, service, latency, count));
    }
}

async fn serve(
    stream: TcpStream,
    service: S3Service,
    latency_micros: Arc<AtomicU64>,
    requests: Arc<AtomicU64>,
) {
    // Without this, small answers wait for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let handler = service_fn(move |request: Request<Incoming>| {
        requests.fetch_add(1, Ordering::Relaxed);
        let latency = Duration::from_micros(latency_micros.load(Ordering::Relaxed));
        let service = service.clone();
        async move {
            if !latency.is_zero() {
                tokio::time::sleep(latency).await;
            }
            service.call(request.map(Body::from)).await
        }
    });
    // A connection ends by the client's will or by its fault; the client sees it and so does the test.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), handler)
        .await;
}

#[cfg(test)]
mod tests;
