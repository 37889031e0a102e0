//! Looking at a mount point before something is mounted there.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};
use tracing::warn;

use super::{FILE_SYSTEM_KIND, MountError, limited, table};

/// How long a look at a directory may take. A mount whose process hangs answers never.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// The path as the kernel knows it: absolute and without symbolic links, but without asking what is mounted at it, which may be dead.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => {
            let candidate = parent.canonicalize()?.join(name);
            // Only what is no mount point itself may be a symbolic link that has to be followed.
            if table::find(&candidate)?.is_some() {
                Ok(candidate)
            } else {
                candidate.canonicalize()
            }
        }
        // The root, or a path that ends in `..`.
        _ => absolute.canonicalize(),
    }
}

/// Checks that something can be mounted at the path and answers it resolved. A dead mount of ours is cleared away.
pub fn prepare(path: &Path) -> Result<PathBuf, MountError> {
    let problem = |source| MountError::MountPoint {
        path: path.to_owned(),
        source,
    };
    let resolved = resolve(path).map_err(problem)?;
    let mounted = table::find(&resolved).map_err(problem)?;
    let looked_at = resolved.clone();
    let look = limited::call(LOOK_LIMIT, move || std::fs::metadata(looked_at));
    match (look, mounted) {
        (Ok(_), Some(mounted)) if mounted.kind == FILE_SYSTEM_KIND => Err(MountError::AlreadyMounted {
            path: resolved,
            volume: mounted.source,
        }),
        (Ok(found), _) if found.is_dir() => Ok(resolved),
        (Ok(_), _) => Err(MountError::NotDirectory { path: resolved }),
        (Err(error), Some(mounted)) if is_dead(&error) => {
            if mounted.kind != FILE_SYSTEM_KIND {
                return Err(MountError::StaleForeign {
                    path: resolved,
                    kind: mounted.kind,
                });
            }
            warn!(path = %resolved.display(), "the process of an earlier mount is gone: its mount is removed");
            unmount(&resolved, UnmountFlags::DETACH).map_err(|error| problem(error.into()))?;
            // There may be another one below it.
            prepare(&resolved)
        }
        (Err(error), _) if error.kind() == io::ErrorKind::TimedOut => {
            Err(MountError::Hangs { path: resolved })
        }
        (Err(error), _) => Err(problem(error)),
    }
}

/// "Transport endpoint is not connected", or what an aborted connection answers.
pub fn is_dead(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotConnected || error.kind() == io::ErrorKind::ConnectionAborted
}
