//! Two regions, `east` (primary) and `west` (target), on this machine.
//!
//! ```text
//!            east                    line (round-trip time)             west
//!   bucket  <- mount, worker  ----------------------------->  bucket  <- mount --flip, worker --flip
//!   metadata service          <-----------------------------
//! ```
//!
//! Each region has an S3 server with its own keys. What one region has of the other it reaches over the line. All programs are
//! the `twinshore` binary, told on their command lines where everything is and in their environment what the secrets are.
//!
//! [`Regions::bring_up`] starts everything in order; [`Regions::bring_down`] ends it in the reverse order and reports what
//! did not end by itself. Dropping kills the processes and detaches the mounts: nothing outlives it.

mod parts;
mod region;

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::commands::{CommandError, Run};
use crate::mount_table;
use crate::patience::{Impatient, Look, wait_for};
use crate::process::{ProcessError, Program, Ready, Supervised};
use crate::s3server::{Engine, Keys, S3Server, S3ServerError, S3ServerOptions, free_address};
use crate::status::Status;
use crate::wan::{Direction, Link, Wan};

pub use self::region::Region;

/// For a program to be ready, or to end. Generous: on a busy machine even a small program takes seconds.
const PATIENCE: Duration = Duration::from_mins(1);

/// How often a changing lag is told: enough to see it fall.
const TELL_INTERVAL: Duration = Duration::from_millis(500);

/// The name of the volume.
pub const VOLUME: &str = "demo";

/// The bucket's name in both regions: they differ by server and keys.
pub const BUCKET: &str = "twinshore";

/// Why the regions are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum RegionsError {
    /// A bucket.
    #[error(transparent)]
    Bucket(#[from] S3ServerError),
    /// A program that should run.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// A program that should do something and end.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Something that should have happened.
    #[error(transparent)]
    Impatient(#[from] Impatient),
    /// A file or directory.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The status of the volume.
    #[error("the status of the volume cannot be understood: {output}")]
    Status {
        /// What the command said.
        output: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A part that is not running was needed.
    #[error("{what} is not running")]
    NotRunning {
        /// The part.
        what: String,
    },
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> RegionsError {
    let what = what.into();
    move |source| RegionsError::Io { what, source }
}

/// How the regions are to be.
#[derive(Clone, Debug)]
pub struct RegionsOptions {
    /// Everything lies in this directory: `DIR/east` and `DIR/west` are the mount points.
    pub directory: PathBuf,
    /// The buckets lie in this directory.
    pub bucket_directory: PathBuf,
    /// The `twinshore` binary.
    pub binary: PathBuf,
    /// From shore to shore and back.
    pub round_trip: Duration,
    /// What serves the buckets of east and west.
    pub engines: [Engine; 2],
    /// More arguments for `volume create`.
    pub volume_arguments: Vec<String>,
    /// More arguments for `mount`, in both regions.
    pub mount_arguments: Vec<String>,
}

/// Two regions.
pub struct Regions {
    options: RegionsOptions,
    buckets: [S3Server; 2],
    wan: Wan,
    /// The bucket of the region, for the other one.
    bucket_links: [Link; 2],
    metadata_link: Link,
    metadata_address: SocketAddr,
    http_address: SocketAddr,
    metadata: Option<Supervised>,
    workers: [Option<Supervised>; 2],
    mounts: [Option<Supervised>; 2],
}

impl Regions {
    /// Starts everything. What had been started is ended again if something fails.
    pub async fn bring_up(options: RegionsOptions, say: impl FnMut(&str)) -> Result<Self, RegionsError> {
        Self::bring_up_with(options, true, say).await
    }

    /// The same with a volume that has only the bucket of east, used by east alone. The bucket of west runs too:
    /// [`Self::set_target`] gives it to the volume, then west can start.
    pub async fn bring_up_without_target(
        options: RegionsOptions,
        say: impl FnMut(&str),
    ) -> Result<Self, RegionsError> {
        Self::bring_up_with(options, false, say).await
    }

    async fn bring_up_with(
        options: RegionsOptions,
        with_target: bool,
        mut say: impl FnMut(&str),
    ) -> Result<Self, RegionsError> {
        let mut regions = Self::prepare(options).await?;
        for region in Region::BOTH {
            say(&format!(
                "bucket of {region}: {} (its own keys)",
                regions.bucket(region).url()
            ));
        }
        regions.create_volume(with_target).await?;
        say(&format!(
            "volume {VOLUME} created: metadata in {}",
            regions.metadata_directory().display()
        ));
        regions.start_metadata().await?;
        say(&format!(
            "metadata service in east at {}",
            regions.metadata_url(Region::East)
        ));
        for region in Region::BOTH {
            if region == Region::West && !with_target {
                continue;
            }
            regions.start_worker(region).await?;
            regions.start_mount(region).await?;
            say(&format!(
                "{region}: worker and mount at {}",
                regions.mount_point(region).display()
            ));
        }
        Ok(regions)
    }

    /// Directories, buckets and the line, but no program yet.
    async fn prepare(options: RegionsOptions) -> Result<Self, RegionsError> {
        let root = &options.directory;
        for region in Region::BOTH {
            let mount_point = root.join(region.name());
            mount_table::detach(&mount_point).map_err(failed(format!("free {}", mount_point.display())))?;
            std::fs::create_dir_all(&mount_point).map_err(failed(format!(
                "create the mount point {}",
                mount_point.display()
            )))?;
        }
        let server = |region: Region| S3ServerOptions {
            region: region.name().to_owned(),
            directory: options.bucket_directory.join(region.name()),
            bucket: BUCKET.to_owned(),
            keys: Keys::generate(region.name()),
            engine: options.engines[region.index()].clone(),
            log_directory: root.join("logs"),
        };
        let buckets = [
            S3Server::new(server(Region::East)).await?,
            S3Server::new(server(Region::West)).await?,
        ];
        let wan = Wan::new(options.round_trip);
        let metadata_address = free_address()?;
        let http_address = free_address()?;
        let link = async |direction, target| {
            wan.link(direction, target)
                .await
                .map_err(failed("open a link between the regions"))
        };
        let bucket_links = [
            link(Direction::WestToEast, buckets[0].address()).await?,
            link(Direction::EastToWest, buckets[1].address()).await?,
        ];
        let metadata_link = link(Direction::WestToEast, metadata_address).await?;
        Ok(Self {
            options,
            buckets,
            wan,
            bucket_links,
            metadata_link,
            metadata_address,
            http_address,
            metadata: None,
            workers: [None, None],
            mounts: [None, None],
        })
    }

    /// Ends everything in order: mounts (flushing), workers, the metadata service, the buckets. Goes on after a failure and
    /// returns the first.
    pub async fn bring_down(&mut self) -> Result<(), RegionsError> {
        let mut result = Ok(());
        for region in Region::BOTH {
            let unmounted = self.unmount(region).await;
            result = result.and(unmounted);
        }
        let [east, west] = &mut self.workers;
        for program in [west, east, &mut self.metadata] {
            if let Some(mut program) = program.take() {
                let ended = program.terminate(PATIENCE).await;
                result = result.and(ended.map(|_| ()).map_err(RegionsError::from));
            }
        }
        for bucket in &mut self.buckets {
            let stopped = bucket.stop().await;
            result = result.and(stopped.map_err(RegionsError::from));
        }
        result
    }

    /// A region's bucket.
    pub fn bucket(&self, region: Region) -> &S3Server {
        &self.buckets[region.index()]
    }

    /// A region's bucket, to stop and start it.
    pub fn bucket_mut(&mut self, region: Region) -> &mut S3Server {
        &mut self.buckets[region.index()]
    }

    /// The line between the regions.
    pub fn wan(&self) -> &Wan {
        &self.wan
    }

    /// Where a region sees the tree.
    pub fn mount_point(&self, region: Region) -> PathBuf {
        self.options.directory.join(region.name())
    }

    /// Where everything lies.
    pub fn directory(&self) -> &Path {
        &self.options.directory
    }

    /// Where the metadata service keeps its state.
    pub fn metadata_directory(&self) -> PathBuf {
        self.options.directory.join("metadata")
    }

    /// Where all logs are.
    pub fn log_directory(&self) -> PathBuf {
        self.options.directory.join("logs")
    }

    /// The `twinshore` binary.
    pub fn binary(&self) -> &Path {
        &self.options.binary
    }

    /// How a region reaches the metadata service.
    pub fn metadata_url(&self, from: Region) -> String {
        match from {
            Region::East => format!("http://{}", self.metadata_address),
            Region::West => format!("http://{}", self.metadata_link.address()),
        }
    }

    /// Where the metadata service serves `/metrics` and `/healthz`.
    pub fn http_url(&self) -> String {
        format!("http://{}", self.http_address)
    }

    /// How a region reaches a region's bucket.
    pub fn bucket_url(&self, from: Region, bucket: Region) -> String {
        let server = self.bucket(bucket);
        if from == bucket {
            server.url()
        } else {
            server.url_at(self.bucket_links[bucket.index()].address())
        }
    }

    /// The same as an address.
    pub fn http_address(&self) -> SocketAddr {
        self.http_address
    }

    /// The keys of both buckets, as `twinshore` takes them from the environment.
    pub fn credentials(&self) -> Vec<(String, String)> {
        let [east, west] = [self.buckets[0].keys(), self.buckets[1].keys()];
        [
            ("ACCESS_KEY", &east.access_key),
            ("SECRET_KEY", &east.secret_key),
            ("ACCESS_KEY2", &west.access_key),
            ("SECRET_KEY2", &west.secret_key),
        ]
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .into()
    }

    /// `--bucket` and `--bucket2` for a program in a region: only what it does not reach under the volume's own URL.
    pub fn bucket_arguments(&self, region: Region) -> [String; 2] {
        let option = match region {
            Region::East => "--bucket2",
            Region::West => "--bucket",
        };
        [option.to_owned(), self.bucket_url(region, region.other())]
    }

    /// The `twinshore` command, with credentials in its environment.
    pub fn twinshore(&self, patience: Duration) -> Run {
        let run = Run::new(&self.options.binary, patience);
        self.credentials()
            .into_iter()
            .fold(run, |run, (name, value)| run.environment(&name, value))
    }

    async fn create_volume(&self, with_target: bool) -> Result<(), RegionsError> {
        let mut create = self
            .twinshore(PATIENCE)
            .arguments(["volume", "create", VOLUME, "--metadata-dir"])
            .argument(self.metadata_directory())
            .arguments(["--region", "east", "--bucket"])
            .argument(self.bucket(Region::East).url());
        if with_target {
            create = create
                .arguments(["--region2", "west", "--bucket2"])
                .argument(self.bucket(Region::West).url());
        }
        create.arguments(&self.options.volume_arguments).success().await?;
        Ok(())
    }

    /// Gives the volume the bucket of west, while it is in use.
    pub async fn set_target(&self) -> Result<(), RegionsError> {
        self.service_command(["volume", "set-target"])
            .arguments(["--region2", "west", "--bucket2"])
            .argument(self.bucket(Region::West).url())
            .success()
            .await?;
        Ok(())
    }

    /// A `twinshore` command that is told where the metadata service is.
    pub fn service_command<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Run {
        self.twinshore(PATIENCE)
            .arguments(words)
            .argument("--metadata")
            .argument(self.metadata_url(Region::East))
    }

    fn program(&self, name: String, ready: String, arguments: Vec<OsString>) -> Program {
        Program {
            name,
            program: self.options.binary.clone(),
            arguments,
            environment: self.credentials(),
            log_directory: self.log_directory(),
            ready: Ready::Says(ready),
            patience: PATIENCE,
        }
    }

    /// The metadata service's process, if it runs.
    pub fn metadata_process(&self) -> Option<&Supervised> {
        self.metadata.as_ref()
    }

    /// The mount's process, if it runs.
    pub fn mount_process(&self, region: Region) -> Option<&Supervised> {
        self.mounts[region.index()].as_ref()
    }

    /// The worker's process, if it runs.
    pub fn worker_process(&self, region: Region) -> Option<&Supervised> {
        self.workers[region.index()].as_ref()
    }

    /// Fails if a program that should run has ended by itself, with the end of its log.
    pub fn check_processes(&mut self) -> Result<(), RegionsError> {
        let programs = self
            .workers
            .iter_mut()
            .chain(self.mounts.iter_mut())
            .chain([&mut self.metadata]);
        for program in programs.flatten() {
            if let Some(status) = program.ended()? {
                return Err(ProcessError::Ended {
                    name: program.name().to_owned(),
                    status: status.to_string(),
                    log: program.log().to_owned(),
                    tail: program.log_tail(),
                }
                .into());
            }
        }
        Ok(())
    }

    /// The state of the volume, as the command tells it.
    pub async fn status(&self) -> Result<Status, RegionsError> {
        let output = self
            .twinshore(PATIENCE)
            .arguments(["status", "--json", "--metadata"])
            .argument(self.metadata_url(Region::East))
            .success()
            .await?;
        Status::parse(&output.stdout).map_err(|source| RegionsError::Status {
            output: output.text(),
            source,
        })
    }

    /// Waits until neither side is owed anything, telling the lag when it has changed, every half second at most, and at the end.
    pub async fn wait_in_step(
        &self,
        patience: Duration,
        mut say: impl FnMut(&str),
    ) -> Result<Status, RegionsError> {
        let mut told = String::new();
        let mut told_at: Option<Instant> = None;
        let result = wait_for("both buckets to be in step", patience, async || {
            let status = match self.status().await {
                Ok(status) => status,
                Err(error) => return Look::NotYet(error.to_string()),
            };
            let lag = status.lag();
            let is_due = told_at.is_none_or(|told_at| told_at.elapsed() >= TELL_INTERVAL);
            if lag != told && (is_due || status.is_in_step()) {
                say(&lag);
                told.clone_from(&lag);
                told_at = Some(Instant::now());
            }
            if status.is_in_step() {
                Look::Done(status)
            } else {
                Look::NotYet(lag)
            }
        })
        .await;
        Ok(result?)
    }
}

impl Drop for Regions {
    fn drop(&mut self) {
        for region in Region::BOTH {
            // The process is killed first: detaching could wait for it, and what waits in the mount gets its error. Detached is also
            // what no process is known of: whoever was starting or ending the mount may have been interrupted.
            drop(self.mounts[region.index()].take());
            if let Err(error) = mount_table::detach(&self.mount_point(region)) {
                eprintln!(
                    "{} could not be detached: {error}",
                    self.mount_point(region).display()
                );
            }
        }
    }
}

/// The `twinshore` binary that was built beside the program that runs (or where `TWINSHORE_BINARY` says).
pub fn find_binary() -> Result<PathBuf, RegionsError> {
    if let Some(path) = std::env::var_os("TWINSHORE_BINARY") {
        return Ok(path.into());
    }
    let here = std::env::current_exe().map_err(failed("find this program"))?;
    // target/debug/twinshore-demo, or target/debug/deps/test-name for a test.
    let found = here
        .ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join("twinshore"))
        .find(|path| path.is_file());
    found.ok_or_else(|| RegionsError::NotRunning {
        what: format!(
            "the twinshore binary is not beside {}: build it with `cargo build -p twinshore-cli`; it",
            here.display()
        ),
    })
}

/// Whether this user may use FUSE; the reason if not.
pub fn check_fuse() -> Result<(), RegionsError> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map(|_| ())
        .map_err(failed(
            "open /dev/fuse: run as root on a machine (or in a container) that has it, after `modprobe fuse`",
        ))
}

/// Whether a program is installed.
pub fn is_installed(program: &str) -> bool {
    std::process::Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}
