//! `twinshore mount`.
//!
//! # Flow
//!
//! Without `--foreground` the command starts itself again with it, in a session of its own, and returns when that process
//! says that the mount is usable, or has failed. Secrets reach it through its environment, never through its arguments.
//!
//! With `--device-from-stdin` the mount exists already: asked to stop, the process writes everything out and ends, and programs that still use the
//! mount get errors until whoever made it unmounts it. With `--logbook` besides they wait instead, for the next process that gets the same
//! device and the same file.

use std::io::{BufRead as _, BufReader};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FlockOperation, flock};
use tokio::sync::watch;
use twinshore_filesystem::cache::{DiskCacheOptions, TieredCache};
use twinshore_filesystem::fuse::KernelNotifier;
use twinshore_filesystem::logbook::{Legacy, Logbook};
use twinshore_filesystem::mount::{self, MountOptions};
use twinshore_filesystem::vfs::{Resumed, Surroundings, TaskRunner, Vfs, VfsOptions};
use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::message::{Role, SessionDescription};
use twinshore_protocol::replication::Task;
use twinshore_protocol::session::{SessionOptions, Transport};
use twinshore_protocol::{FileName, Side, Timestamp};
use twinshore_replication::{Replicator, ReplicatorOptions};
use twinshore_storage::pair::BucketPair;

use super::client::{Client, description};
use super::status;
use crate::arguments::{BucketArguments, MountArguments};
use crate::buckets;
use crate::error::CommandError;

/// How long a program's system call waits for the metadata service.
const REQUEST_DEADLINE: Duration = Duration::from_mins(1);

/// The line that says that the mount is usable.
const READY_LINE: &str = "mount: ready";

/// Tells the process in the background that its parent waits for [`READY_LINE`].
const BACKGROUND_VARIABLE: &str = "TWINSHORE_MOUNT_BACKGROUND";

/// How long the last process of a mount may take to be gone.
const PREDECESSOR_LIMIT: Duration = Duration::from_secs(10);

/// How often it is looked for: short against the pause that programs notice.
const PREDECESSOR_INTERVAL: Duration = Duration::from_millis(2);

/// Objects that a mount copies at a time besides its own work.
const COPIES_IN_PARALLEL: usize = 4;

/// Mounts, in the foreground or not.
pub fn run(arguments: &MountArguments) -> Result<(), CommandError> {
    if arguments.foreground {
        if std::env::var_os(BACKGROUND_VARIABLE).is_some() {
            rustix::process::setsid().map_err(CommandError::failed("leave the terminal"))?;
        }
        serve(arguments)
    } else {
        go_to_background(arguments)
    }
}

fn go_to_background(arguments: &MountArguments) -> Result<(), CommandError> {
    let what = || "start the mount in the background".to_owned();
    let program = std::env::current_exe().map_err(CommandError::failed(what()))?;
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&arguments.log_file)
        .map_err(CommandError::failed(format!(
            "write the log {}: choose another with --log-file",
            arguments.log_file.display()
        )))?;
    let log_start = log.metadata().map_or(0, |metadata| metadata.len());
    let mut command = Command::new(program);
    command
        .args(without_secrets(std::env::args().skip(1)))
        .arg("--foreground")
        .env(BACKGROUND_VARIABLE, "1");
    let credentials = &arguments.buckets.credentials;
    for (variable, value) in [
        ("ACCESS_KEY", &credentials.access_key),
        ("SECRET_KEY", &credentials.secret_key),
        ("SESSION_TOKEN", &credentials.session_token),
        ("ACCESS_KEY2", &credentials.access_key2),
        ("SECRET_KEY2", &credentials.secret_key2),
        ("SESSION_TOKEN2", &credentials.session_token2),
    ] {
        if let Some(value) = value {
            command.env(variable, value);
        }
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(CommandError::failed(what()))?;
    let lines = child.stdout.take().map(|stdout| BufReader::new(stdout).lines());
    for line in lines.into_iter().flatten() {
        let line = line.map_err(CommandError::failed(what()))?;
        if line == READY_LINE {
            return Ok(());
        }
        // Why it takes so long.
        eprintln!("{line}");
    }
    let status = child.wait().map_err(CommandError::failed(what()))?;
    let said = std::fs::read(&arguments.log_file).unwrap_or_default();
    let said = said
        .get(usize::try_from(log_start).unwrap_or(usize::MAX)..)
        .unwrap_or_default();
    let said = String::from_utf8_lossy(said);
    let reason = said
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("twinshore: "))
        .map_or_else(
            || {
                format!(
                    "the mount ended with {status}; its log is {}",
                    arguments.log_file.display()
                )
            },
            str::to_owned,
        );
    Err(CommandError::Usage(reason))
}

/// The arguments without those that carry secrets, which go through the environment.
fn without_secrets(arguments: impl Iterator<Item = String>) -> Vec<String> {
    const SECRETS: [&str; 6] = [
        "--access-key",
        "--secret-key",
        "--session-token",
        "--access-key2",
        "--secret-key2",
        "--session-token2",
    ];
    let mut kept = Vec::new();
    let mut skip_value = false;
    for argument in arguments {
        if std::mem::take(&mut skip_value) {
            continue;
        }
        let (name, joined) = argument
            .split_once('=')
            .map_or((argument.as_str(), false), |(name, _)| (name, true));
        if SECRETS.contains(&name) {
            skip_value = !joined;
        } else {
            kept.push(argument);
        }
    }
    kept
}

fn serve(arguments: &MountArguments) -> Result<(), CommandError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(super::worker_threads())
        .enable_all()
        .build()
        .map_err(CommandError::failed("start the asynchronous runtime"))?;
    let notifier = KernelNotifier::start().map_err(CommandError::failed("start the notifier"))?;
    let (logbook, legacy) = open_logbook(arguments)?;
    let ready = || println!("{READY_LINE}");
    let handle = runtime.handle();
    let options = |format: VolumeFormat| MountOptions {
        read_only: arguments.read_only,
        ..MountOptions::new(&arguments.mount_point, format.name)
    };
    let result = if let (Some(logbook), Some(legacy)) = (&logbook, legacy) {
        let device = device_from_stdin()?;
        let offer = legacy.offer;
        let format = legacy.resumption.format.clone();
        let prepared = runtime.block_on(prepare(arguments, format, Arc::clone(&notifier), Some(logbook)))?;
        let (resumed, format) = runtime.block_on(async { prepared.resume(logbook, legacy) });
        runtime.spawn(end_when_asked(resumed.vfs.clone()));
        mount::run_resumed(
            &device,
            offer,
            resumed,
            &notifier,
            handle,
            &options(format),
            ready,
        )
    } else {
        let Connected { vfs, format } =
            runtime.block_on(connect(arguments, Arc::clone(&notifier), logbook.as_ref()))?;
        if arguments.device_from_stdin {
            let device = device_from_stdin()?;
            runtime.spawn(end_when_asked(vfs.clone()));
            mount::run_on(device, vfs, &notifier, handle, &options(format), ready)
        } else {
            runtime.spawn(unmount_when_asked(vfs.clone(), arguments.mount_point.clone()));
            mount::run(vfs, &notifier, handle, &options(format), ready)
        }
    };
    result.map_err(CommandError::failed(format!(
        "mount at {}",
        arguments.mount_point.display()
    )))
}

fn device_from_stdin() -> Result<OwnedFd, CommandError> {
    std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(CommandError::failed("take over the device"))
}

/// What is kept for a process after this one, and what the one before it has left.
fn open_logbook(arguments: &MountArguments) -> Result<(Option<Arc<Logbook>>, Option<Legacy>), CommandError> {
    let Some(path) = &arguments.logbook else {
        return Ok((None, None));
    };
    let what = || format!("open the logbook {}", path.display());
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(CommandError::failed(what()))?;
    // A process that has been killed may still be ending: it has the lock until its descriptors are closed.
    let began = Instant::now();
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK || began.elapsed() > PREDECESSOR_LIMIT {
            let what = format!("{}: another process still has it", what());
            return Err(CommandError::failed(what)(std::io::Error::from(error)));
        }
        std::thread::sleep(PREDECESSOR_INTERVAL);
    }
    // Whoever keeps the device starts another process when it is itself replaced: two must never serve it.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|error| CommandError::failed(what())(std::io::Error::from(error)))?;
    let (logbook, legacy) = Logbook::open(file.into()).map_err(CommandError::failed(what()))?;
    // Of what is overwritten again and again, more is recorded than is unwritten.
    logbook.set_limit(arguments.buffer_size);
    Ok((Some(logbook), legacy))
}

/// Writes everything out and ends the process, which alone would wait for somebody to unmount. What a logbook is kept for goes on in the next
/// process: the session stays open.
async fn end_when_asked(vfs: Vfs) {
    if flush_when_asked(&vfs).await {
        if vfs.logbook().is_some() {
            std::process::exit(0);
        }
        if let Err(errno) = vfs.shut_down().await {
            tracing::error!(%errno, "what was written at the very end could not be stored");
            std::process::exit(1);
        }
        std::process::exit(0);
    }
}

/// Waits until the process is asked to stop and everything is written. False if it can never be asked.
async fn flush_when_asked(vfs: &Vfs) -> bool {
    loop {
        if let Err(error) = super::asked_to_stop().await {
            tracing::error!(
                error = crate::error::with_causes(&error),
                "cannot listen for signals"
            );
            return false;
        }
        match vfs.flush_everything().await {
            Ok(()) => return true,
            Err(errno) => {
                tracing::error!(%errno, "asked to stop, but not everything could be written: repair the cause and ask again");
            }
        }
    }
}

/// As `umount -l` does: what is in use goes on until it is closed, then the process writes out and ends. With nothing unwritten this
/// asks nobody, so that a mount ends also when the metadata service has ended before it.
async fn unmount_when_asked(vfs: Vfs, mount_point: PathBuf) {
    while flush_when_asked(&vfs).await {
        let mount_point = mount_point.clone();
        let unmounted =
            tokio::task::spawn_blocking(move || mount::unmount(&mount_point, mount::UnmountMode::Written));
        match unmounted.await {
            Ok(Err(error)) => tracing::error!(
                error = crate::error::with_causes(&error),
                "asked to stop, but cannot unmount"
            ),
            Ok(Ok(())) | Err(_) => return,
        }
    }
}

struct Connected {
    vfs: Vfs,
    format: VolumeFormat,
}

async fn connect(
    arguments: &MountArguments,
    notifier: Arc<KernelNotifier>,
    logbook: Option<&Arc<Logbook>>,
) -> Result<Connected, CommandError> {
    let client =
        Client::connect_patiently(Role::Client, &arguments.service, arguments.patience, "mount").await?;
    let format = status::fetch(&client).await?.format;
    client.close().await;
    prepare(arguments, format, notifier, logbook)
        .await?
        .connect()
        .await
}

/// All that a file system needs but its session.
struct Prepared {
    arguments: BucketArguments,
    transport: Arc<dyn Transport>,
    session: SessionOptions,
    surroundings: Surroundings,
    options: VfsOptions,
    pair: BucketPair,
    replicator: Replicator,
    format: VolumeFormat,
    formats: watch::Receiver<VolumeFormat>,
}

impl Prepared {
    async fn connect(self) -> Result<Connected, CommandError> {
        let Self {
            arguments,
            transport,
            session,
            surroundings,
            options,
            pair,
            replicator,
            format,
            formats,
        } = self;
        let vfs = Vfs::connect(transport, session, surroundings, options)
            .await
            .map_err(CommandError::failed("open the volume"))?;
        serve_beside(&vfs, replicator, pair, arguments, formats);
        Ok(Connected { vfs, format })
    }

    fn resume(
        self,
        logbook: &Arc<Logbook>,
        legacy: Legacy,
    ) -> (Resumed<impl Future<Output = ()> + Send + use<>>, VolumeFormat) {
        let Self {
            arguments,
            transport,
            session,
            surroundings,
            options,
            pair,
            replicator,
            format,
            formats,
        } = self;
        let resumed = Vfs::resume(transport, session, surroundings, options, logbook, legacy);
        serve_beside(&resumed.vfs, replicator, pair, arguments, formats);
        (resumed, format)
    }
}

/// What a mount does besides: copies between the buckets, and follows changed settings and keys.
fn serve_beside(
    vfs: &Vfs,
    replicator: Replicator,
    pair: BucketPair,
    arguments: BucketArguments,
    formats: watch::Receiver<VolumeFormat>,
) {
    let session = vfs.session().clone();
    tokio::spawn(async move { replicator.run(session).await });
    tokio::spawn(buckets::follow(pair, arguments, formats));
}

async fn prepare(
    arguments: &MountArguments,
    format: VolumeFormat,
    notifier: Arc<KernelNotifier>,
    logbook: Option<&Arc<Logbook>>,
) -> Result<Prepared, CommandError> {
    let near = if arguments.flip {
        Side::Target
    } else {
        Side::Primary
    };
    if near == Side::Target && format.settings.target.is_none() {
        return Err(CommandError::Usage(
            "--flip: the volume has no target region; add one with `twinshore volume set-target`".to_owned(),
        ));
    }
    let pair = buckets::open_pair(&format, near, &arguments.buckets, arguments.buffer_size).await?;
    let disk = arguments
        .cache_dir
        .as_ref()
        .filter(|_| arguments.cache_size > 0)
        .map(|directory| DiskCacheOptions {
            directory: directory.clone(),
            volume: format.volume,
            limit_bytes: arguments.cache_size,
        });
    // A third of the memory for each: what is written, what is read ahead, what was read.
    let memory_bytes = usize::try_from(arguments.buffer_size / 3).unwrap_or(usize::MAX);
    let blocks =
        TieredCache::open(memory_bytes, disk.as_ref()).map_err(CommandError::failed("open the cache"))?;
    let replicator = Replicator::new(
        pair.clone(),
        ReplicatorOptions {
            parallel: COPIES_IN_PARALLEL,
            ..ReplicatorOptions::default()
        },
    );
    let (changes, formats) = watch::channel(format.clone());
    let tasks = Tasks {
        replicator: replicator.clone(),
        formats: changes,
    };
    let purpose = format!("mount {}", arguments.mount_point.display());
    let session = SessionOptions {
        volume: Some(format.volume),
        role: Role::Client,
        near,
        task_slots: if arguments.no_sync || arguments.read_only {
            0
        } else {
            u32::try_from(COPIES_IN_PARALLEL).unwrap_or(1)
        },
        description: SessionDescription {
            node: arguments.node.clone(),
            ..description(&purpose)
        },
        request_deadline: REQUEST_DEADLINE,
    };
    let surroundings = Surroundings {
        buckets: pair.clone(),
        blocks: Arc::new(blocks),
        kernel: notifier,
        tasks: Arc::new(tasks),
    };
    let options = VfsOptions {
        read_only: arguments.read_only,
        subdirectory: subdirectory(arguments.subdir.as_deref())?,
        buffer_size_bytes: arguments.buffer_size / 3,
        readahead_total_bytes: arguments.buffer_size / 3,
        logbook: logbook.cloned(),
        ..VfsOptions::new(Arc::new(wall_clock))
    };
    Ok(Prepared {
        arguments: arguments.buckets.clone(),
        transport: super::transport(&arguments.service)?,
        session,
        surroundings,
        options,
        pair,
        replicator,
        format,
        formats,
    })
}

fn subdirectory(path: Option<&str>) -> Result<Vec<FileName>, CommandError> {
    path.unwrap_or_default()
        .split('/')
        .filter(|component| !component.is_empty() && *component != ".")
        .map(|component| {
            component
                .parse()
                .map_err(|error| CommandError::Usage(format!("--subdir: `{component}`: {error}")))
        })
        .collect()
}

fn wall_clock() -> Timestamp {
    Timestamp::since_epoch(
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

/// Carries out the copies that the service leases to this mount, and hears of changed settings.
struct Tasks {
    replicator: Replicator,
    formats: watch::Sender<VolumeFormat>,
}

impl TaskRunner for Tasks {
    fn tasks(&self, tasks: Vec<Task>) {
        self.replicator.submit(tasks);
    }

    fn format_changed(&self, format: &VolumeFormat) {
        self.replicator.format_changed(format);
        self.formats.send_replace(format.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::without_secrets;

    #[test]
    fn secrets_do_not_reach_the_arguments_of_the_process_in_the_background() {
        let given = [
            "mount",
            "/mnt",
            "--secret-key",
            "hunter2",
            "--access-key2=AK",
            "--flip",
        ];
        let kept = without_secrets(given.iter().map(|argument| (*argument).to_owned()));
        assert_eq!(kept, ["mount", "/mnt", "--flip"]);
    }
}
