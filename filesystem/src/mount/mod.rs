//! Mounting and unmounting.
//!
//! # Flow of [`run`]
//!
//! 1. The mount point is looked at; a dead mount of ours is cleared away.
//! 2. `/dev/fuse` is opened and mounted directly, with neither libfuse nor `fusermount3`; without the privilege, `fusermount3` is tried.
//! 3. FUSE's INIT is answered, the kernel notifier attached, the readahead raised.
//! 4. `ready` is called: the mount is usable. (A daemon tells its parent here.)
//! 5. Requests are served until the mount is gone: `umount`, or an aborted connection.
//! 6. What is buffered is written out and the session closed.
//!
//! [`run_on`] is the same for a mount that another process has made: it is given the open `/dev/fuse` and needs no privilege. Steps 1, 2 and the
//! readahead are then the other's.
//!
//! # Failure cases
//!
//! `kill -9` closes `/dev/fuse`: the kernel answers every waiting program with an error, and the mount point says "Transport endpoint is not
//! connected" until the next mount or unmount clears it. A program never waits for a process that is gone. Unless somebody else keeps the
//! device open: then programs wait for a successor, which takes the mount over with [`run_resumed`], or for whoever keeps the device to close it.

mod limited;
mod point;
mod resuming;
mod table;
mod unmounting;

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use tokio::runtime::Handle as Runtime;
use tracing::{info, warn};
use twinshore_protocol::Errno;

pub use self::resuming::run_resumed;
pub use self::table::{Mounted, find};
pub use self::unmounting::{UnmountError, UnmountMode, unmount};
use crate::fuse::{Adapter, AdapterOptions, Device, KernelNotifier};
use crate::vfs::Vfs;

/// The type of our mounts in the kernel's table.
pub const FILE_SYSTEM_KIND: &str = "fuse.twinshore";

/// How long the last writing out may take when the mount is gone already: the patience of whoever restarts the machine.
const SHUT_DOWN_LIMIT: Duration = Duration::from_mins(5);

/// What the kernel reads ahead: 1 MiB reads in 1 MiB requests; the default of 128 KiB costs a third of the speed.
const READ_AHEAD_KIB: u32 = 1024;

/// How to mount.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Each is a switch of mount(8), and any combination makes sense.
pub struct MountOptions {
    /// Where.
    pub mount_point: PathBuf,
    /// The name of the volume, shown as what is mounted.
    pub volume_name: String,
    /// Nothing can be changed.
    pub read_only: bool,
    /// Other users than the one who mounts may use it.
    pub allow_other: bool,
    /// Set-user-id bits and file capabilities have their effect.
    pub allow_privileges: bool,
    /// Device nodes can be opened.
    pub allow_devices: bool,
    /// Threads that read requests from the kernel; at least two, as one may have to wait for what another one does.
    pub reader_threads: usize,
}

impl MountOptions {
    /// What most mounts want.
    pub fn new(mount_point: impl Into<PathBuf>, volume_name: impl Into<String>) -> Self {
        Self {
            mount_point: mount_point.into(),
            volume_name: volume_name.into(),
            read_only: false,
            allow_other: true,
            allow_privileges: false,
            allow_devices: false,
            reader_threads: std::thread::available_parallelism()
                .map_or(2, usize::from)
                .clamp(2, 4),
        }
    }
}

/// Why there is no mount, or why it ended badly.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// The mount point cannot be used.
    #[error("cannot mount at {path}: check that the directory exists and can be entered")]
    MountPoint {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The mount point is a file.
    #[error("cannot mount at {path}: it is not a directory")]
    NotDirectory {
        /// The path.
        path: PathBuf,
    },
    /// A mount of ours is there and alive.
    #[error("volume {volume} is already mounted at {path}: unmount it first with `twinshore umount {path}`")]
    AlreadyMounted {
        /// The path.
        path: PathBuf,
        /// Its volume.
        volume: String,
    },
    /// A dead mount of something else is there.
    #[error("a dead {kind} mount is in the way at {path}: remove it with `umount -l {path}`")]
    StaleForeign {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: String,
    },
    /// Whatever is there does not answer.
    #[error("what is mounted at {path} does not answer: remove it with `umount -l {path}`")]
    Hangs {
        /// The path.
        path: PathBuf,
    },
    /// No FUSE.
    #[error(
        "/dev/fuse cannot be opened: load the kernel module with `modprobe fuse`, or give the container the device"
    )]
    NoDevice(#[source] io::Error),
    /// The kernel refuses.
    #[error("the kernel refuses to mount at {path}: mounting needs root or fusermount3")]
    Refused {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The connection to the kernel failed.
    #[error("the connection to the kernel failed")]
    Connection(#[source] io::Error),
    /// Data was lost at the end.
    #[error("not everything could be written before the end: {0}")]
    Unwritten(#[source] Errno),
    /// The same, by time.
    #[error("not everything could be written within {} s before the end", SHUT_DOWN_LIMIT.as_secs())]
    UnwrittenInTime,
}

/// Mounts, calls `ready`, serves until unmounted, writes everything out. Must not be called on a thread of the runtime.
///
/// `notifier` is the one that the `vfs` was connected with; `runtime` carries the work of the `vfs`.
#[allow(clippy::needless_pass_by_value)] // It is handed over for good: after this it is shut down.
pub fn run(
    vfs: Vfs,
    notifier: &Arc<KernelNotifier>,
    runtime: &Runtime,
    options: &MountOptions,
    ready: impl FnOnce(),
) -> Result<(), MountError> {
    let connect = |adapter| {
        let mount_point = point::prepare(&options.mount_point)?;
        let session = connect(adapter, &mount_point, options)?;
        raise_readahead(&mount_point);
        Ok((session, Some(mount_point)))
    };
    run_with(&vfs, notifier, runtime, options, ready, connect)
}

/// The same on a mount that exists: `device` is the `/dev/fuse` that it was made with. This process cannot unmount; whoever made the mount does.
#[allow(clippy::needless_pass_by_value)] // As for `run`.
pub fn run_on(
    device: OwnedFd,
    vfs: Vfs,
    notifier: &Arc<KernelNotifier>,
    runtime: &Runtime,
    options: &MountOptions,
    ready: impl FnOnce(),
) -> Result<(), MountError> {
    let connect = |adapter| {
        let config = configuration(options);
        let session = fuser::Session::from_fd(adapter, device, config.acl, config);
        Ok((session.map_err(MountError::Connection)?, None))
    };
    run_with(&vfs, notifier, runtime, options, ready, connect)
}

/// A session with the kernel, and what to unmount if it breaks.
type Connected = (fuser::Session<Adapter>, Option<PathBuf>);

fn run_with(
    vfs: &Vfs,
    notifier: &Arc<KernelNotifier>,
    runtime: &Runtime,
    options: &MountOptions,
    ready: impl FnOnce(),
    connect: impl FnOnce(Adapter) -> Result<Connected, MountError>,
) -> Result<(), MountError> {
    let served = serve(vfs, notifier, runtime, options, ready, connect);
    notifier.stop();
    // Also after a failure: whoever connected the Vfs handed it over for good.
    let flushed = runtime.block_on(async { tokio::time::timeout(SHUT_DOWN_LIMIT, vfs.shut_down()).await });
    served?;
    match flushed {
        Ok(result) => result.map_err(MountError::Unwritten),
        Err(_elapsed) => Err(MountError::UnwrittenInTime),
    }
}

fn serve(
    vfs: &Vfs,
    notifier: &Arc<KernelNotifier>,
    runtime: &Runtime,
    options: &MountOptions,
    ready: impl FnOnce(),
    connect: impl FnOnce(Adapter) -> Result<Connected, MountError>,
) -> Result<(), MountError> {
    let adapter_options = AdapterOptions {
        read_only: options.read_only,
    };
    let adapter = Adapter::new(vfs.clone(), runtime.clone(), notifier.clone(), adapter_options)
        .map_err(MountError::Connection)?;
    let (session, mount_point) = connect(adapter)?;
    let device = session
        .as_fd()
        .try_clone_to_owned()
        .map_err(MountError::Connection)?;
    notifier.attach(Some(Arc::new(Device::new(session.notifier(), device))));
    info!(path = %options.mount_point.display(), volume = options.volume_name, "mounted");
    ready();
    match session.run() {
        Ok(()) => Ok(()),
        // Somebody cut the connection with `umount -f` or through the control file system: that ends the mount too.
        Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {
            warn!("the connection to the kernel was cut");
            Ok(())
        }
        Err(error) => {
            // A reader thread is gone, and with it the requests that it had read: nothing may wait for them.
            if let Some(mount_point) = mount_point {
                let _ = rustix::mount::unmount(&mount_point, UnmountFlags::DETACH | UnmountFlags::FORCE);
            }
            Err(MountError::Connection(error))
        }
    }
}

fn configuration(options: &MountOptions) -> fuser::Config {
    let mut config = fuser::Config::default();
    config.acl = if options.allow_other {
        fuser::SessionACL::All
    } else {
        fuser::SessionACL::Owner
    };
    config.n_threads = Some(options.reader_threads.max(2));
    config
}

fn connect(
    adapter: Adapter,
    mount_point: &Path,
    options: &MountOptions,
) -> Result<fuser::Session<Adapter>, MountError> {
    let mut config = configuration(options);
    let refused = |source| MountError::Refused {
        path: mount_point.to_owned(),
        source,
    };
    match mount_directly(mount_point, options)? {
        Ok(device) => fuser::Session::from_fd(adapter, device, config.acl, config).map_err(|error| {
            let _ = rustix::mount::unmount(mount_point, UnmountFlags::DETACH);
            MountError::Connection(error)
        }),
        Err(error) if error == rustix::io::Errno::PERM => {
            config.mount_options = helper_options(options);
            fuser::Session::new(adapter, mount_point, &config).map_err(refused)
        }
        Err(error) => Err(refused(error.into())),
    }
}

/// What `fusermount3` is told.
fn helper_options(options: &MountOptions) -> Vec<fuser::MountOption> {
    let mut list = vec![
        fuser::MountOption::FSName(options.volume_name.clone()),
        fuser::MountOption::Subtype("twinshore".to_owned()),
        fuser::MountOption::DefaultPermissions,
    ];
    if options.read_only {
        list.push(fuser::MountOption::RO);
    }
    list
}

/// mount(2), as root. The inner result is the system call's own.
fn mount_directly(
    mount_point: &Path,
    options: &MountOptions,
) -> Result<Result<OwnedFd, rustix::io::Errno>, MountError> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| MountError::NoDevice(error.into()))?;
    let mut data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw()
    );
    if options.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NOSUID, !options.allow_privileges);
    flags.set(MountFlags::NODEV, !options.allow_devices);
    let Ok(data) = std::ffi::CString::new(data) else {
        return Ok(Err(rustix::io::Errno::INVAL));
    };
    let mounted = rustix::mount::mount(
        options.volume_name.as_str(),
        mount_point,
        FILE_SYSTEM_KIND,
        flags,
        &*data,
    );
    Ok(mounted.map(|()| device))
}

/// Without it reads are a third slower, no worse.
fn raise_readahead(mount_point: &Path) {
    let mounted = match find(mount_point) {
        Ok(Some(mounted)) => mounted,
        Ok(None) => return,
        Err(error) => {
            warn!("the table of mounts cannot be read: {error}");
            return;
        }
    };
    let setting = format!("/sys/class/bdi/{}:{}/read_ahead_kb", mounted.major, mounted.minor);
    if let Err(error) = fs::write(&setting, READ_AHEAD_KIB.to_string()) {
        warn!("{setting} cannot be set: {error}");
    }
}

#[cfg(test)]
mod tests;
