//! Unmounting, with limits.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount as system_unmount};
use tracing::{info, warn};

use super::table::Mounted;
use super::{FILE_SYSTEM_KIND, limited, point, table};

/// How long writing everything out may take: as long as the adapter gives a flush.
const FLUSH_LIMIT: Duration = Duration::from_mins(15);

/// How long the system call may take once everything is written.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// How to unmount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnmountMode {
    /// Writes everything out; refuses while a program uses the mount or something could not be written.
    #[default]
    Clean,
    /// Writes everything out, then takes the mount away from its place; programs that use it may go on until they close.
    Lazy,
    /// The same for a mount's own process, which has written everything out itself: asks the mount nothing. (Opening its root would
    /// come back as a request to this very process, which can answer only while the metadata service answers it.)
    Written,
    /// Cuts the connection: every waiting program gets an error, what is not written is lost.
    Force,
}

/// Why it is still mounted.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// There is nothing.
    #[error("nothing is mounted at {path}")]
    NotMounted {
        /// The path.
        path: PathBuf,
    },
    /// Not ours.
    #[error("what is mounted at {path} is {kind}, not twinshore: use umount(8)")]
    Foreign {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: String,
    },
    /// Programs use it.
    #[error("{path} is in use{users}: stop them, or unmount with --lazy")]
    Busy {
        /// The path.
        path: PathBuf,
        /// Some of them.
        users: String,
    },
    /// Data could not be written.
    #[error(
        "not everything could be written, so {path} stays mounted: repair the cause and try again, or give the data up with --force"
    )]
    Unwritten {
        /// The path.
        path: PathBuf,
        /// What the file system said.
        #[source]
        source: io::Error,
    },
    /// Something else.
    #[error("{path} cannot be unmounted")]
    System {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Unmounts what is mounted at a path. A mount whose process is gone is removed in any mode.
pub fn unmount(path: &Path, mode: UnmountMode) -> Result<(), UnmountError> {
    let system = |source| UnmountError::System {
        path: path.to_owned(),
        source,
    };
    let resolved = point::resolve(path).map_err(system)?;
    let Some(mounted) = table::find(&resolved).map_err(system)? else {
        return Err(UnmountError::NotMounted { path: resolved });
    };
    if mounted.kind != FILE_SYSTEM_KIND {
        return Err(UnmountError::Foreign {
            path: resolved,
            kind: mounted.kind,
        });
    }
    if mode == UnmountMode::Force {
        abort(&mounted);
        return detach(&resolved);
    }
    if mode == UnmountMode::Written {
        return detach(&resolved);
    }
    match write_everything_out(&resolved) {
        Ok(()) => {}
        Err(error) if point::is_dead(&error) => {
            info!(path = %resolved.display(), "its process is gone already");
            return detach(&resolved);
        }
        Err(source) => {
            return Err(UnmountError::Unwritten {
                path: resolved,
                source,
            });
        }
    }
    if mode == UnmountMode::Lazy {
        return detach(&resolved);
    }
    let called = resolved.clone();
    match limited::call(CALL_LIMIT, move || {
        Ok(system_unmount(&called, UnmountFlags::NOFOLLOW)?)
    }) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let users = users(&resolved);
            Err(UnmountError::Busy {
                path: resolved,
                users,
            })
        }
        Err(source) => Err(UnmountError::System {
            path: resolved,
            source,
        }),
    }
}

/// `fsync` of the root directory means "everything" to our adapter; umount(2) alone tells a FUSE file system nothing in time.
fn write_everything_out(mount_point: &Path) -> io::Result<()> {
    let path = mount_point.to_owned();
    limited::call(FLUSH_LIMIT, move || match File::open(path)?.sync_all() {
        // Nothing can be written to a read-only mount, so nothing waits.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        result => result,
    })
}

fn detach(mount_point: &Path) -> Result<(), UnmountError> {
    let path = mount_point.to_owned();
    limited::call(CALL_LIMIT, move || {
        Ok(system_unmount(
            &path,
            UnmountFlags::DETACH | UnmountFlags::NOFOLLOW,
        )?)
    })
    .map_err(|source| UnmountError::System {
        path: mount_point.to_owned(),
        source,
    })
}

/// Cuts the connection, so that nothing that waits for it hangs.
fn abort(mounted: &Mounted) {
    let control = format!("/sys/fs/fuse/connections/{}/abort", mounted.minor);
    if let Err(error) = fs::write(&control, "1") {
        // Without the control file system the connection ends with its process.
        warn!("{control} cannot be used: {error}");
    }
}

/// Some processes that have their working directory or an open file below the mount, for the message.
fn users(mount_point: &Path) -> String {
    const SHOWN_MAX: usize = 5;
    let uses = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(mount_point));
    let Ok(processes) = fs::read_dir("/proc") else {
        return String::new();
    };
    let mut found = Vec::new();
    for process in processes.flatten() {
        let name = process.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let files = fs::read_dir(process.path().join("fd"))
            .into_iter()
            .flatten()
            .flatten();
        if uses(process.path().join("cwd")) || files.map(|file| file.path()).any(uses) {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(format!("{} ({name})", command.trim()));
            if found.len() == SHOWN_MAX {
                break;
            }
        }
    }
    if found.is_empty() {
        String::new()
    } else {
        format!(" by {}", found.join(", "))
    }
}
