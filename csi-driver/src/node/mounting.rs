//! mount(2) and its relatives. Each of these may hang, and is called with a limit.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use twinshore_protocol::claims::DirectoryPath;

use super::table::{self, FILE_SYSTEM_KIND, Mounted};

/// What the kernel reads ahead: 1 MiB reads in 1 MiB requests; the default of 128 KiB costs a third of the speed.
const READ_AHEAD_KIB: u32 = 1024;

/// More mounts over each other than anything but a mistake makes.
const LAYERS_MAX: usize = 16;

/// Opens `/dev/fuse` and mounts it. Until somebody serves the device, whoever looks at the mount waits.
pub fn mount_volume(name: &str, mount_point: &Path) -> io::Result<OwnedFd> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    let data = std::ffi::CString::new(data)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount(name, mount_point, FILE_SYSTEM_KIND, flags, &*data)?;
    if let Err(error) = raise_readahead(mount_point) {
        tracing::warn!(
            "the readahead of {} cannot be raised: {error}",
            mount_point.display()
        );
    }
    Ok(device)
}

/// Without it reads are a third slower, no worse.
fn raise_readahead(mount_point: &Path) -> io::Result<()> {
    let Some(Mounted {
        device: (major, minor),
        ..
    }) = table::find(mount_point)?
    else {
        return Ok(());
    };
    fs::write(
        format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"),
        READ_AHEAD_KIB.to_string(),
    )
}

/// A directory of a mount, opened without following a link and without leaving the mount. `NotConnected` if the mount is dead.
pub fn open_directory(mount: &Mounted, directory: Option<&DirectoryPath>) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let root = rustix::fs::open(&mount.mount_point, flags, Mode::empty())?;
    // The mount may be gone since the table was read: nothing is ever done to what is below it.
    if device_of(&root)? != mount.device {
        return Err(io::Error::new(
            io::ErrorKind::NotConnected,
            format!("{} is no longer mounted", mount.mount_point.display()),
        ));
    }
    let Some(directory) = directory else {
        return Ok(root);
    };
    let mut path = Vec::new();
    for name in directory.names() {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name.as_bytes());
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(rustix::fs::openat2(
        &root,
        &path[..],
        flags,
        Mode::empty(),
        resolve,
    )?)
}

/// The device of the file system that a directory lies in.
fn device_of(directory: &OwnedFd) -> io::Result<(u32, u32)> {
    let status = rustix::fs::fstat(directory)?;
    Ok((rustix::fs::major(status.st_dev), rustix::fs::minor(status.st_dev)))
}

/// Asks the process behind a mount something that the kernel never answers for it. `NotConnected` if there is none.
pub fn ask(mount: &Mounted) -> io::Result<()> {
    let root = open_directory(mount, None)?;
    rustix::fs::fstatvfs(&root)?;
    Ok(())
}

/// Whether what is mounted at a path is alive and shows this very directory.
pub fn shows(path: &Path, directory: &OwnedFd) -> io::Result<bool> {
    let wanted = rustix::fs::fstat(directory)?;
    match rustix::fs::stat(path) {
        Ok(found) => Ok((found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino)),
        Err(error) if is_dead(&error.into()) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Binds a directory to a path, which must be a directory too.
pub fn bind(directory: &OwnedFd, target: &Path, read_only: bool, flags: MountFlags) -> io::Result<()> {
    let source = format!("/proc/self/fd/{}", directory.as_raw_fd());
    rustix::mount::mount_bind(source.as_str(), target)?;
    // A bind takes no options: they are set on what it made.
    let mut flags = flags | MountFlags::BIND | MountFlags::NOSUID | MountFlags::NODEV;
    flags.set(MountFlags::RDONLY, read_only);
    rustix::mount::mount_remount(target, flags, "").inspect_err(|_| {
        // Not with fewer restrictions than were asked for.
        let _ = rustix::mount::unmount(target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    })?;
    Ok(())
}

/// Takes away everything that is mounted at a path. What is in use goes on until it is closed.
pub fn unmount_all(path: &Path) -> io::Result<()> {
    for _ in 0..LAYERS_MAX {
        if table::find(path)?.is_none() {
            return Ok(());
        }
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            // Not mounted, or not there: somebody else was faster.
            Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::other("something is mounted there again and again"))
}

/// "Transport endpoint is not connected", or what a connection that was cut answers.
pub fn is_dead(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotConnected | io::ErrorKind::ConnectionAborted
    )
}

/// Makes a directory for a mount, unless it is there. A dead mount that is there is no reason to fail.
pub fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if table::find(path)?.is_some() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Removes the directory of a mount that is gone. Only an empty one: never what lies in it.
pub fn remove_directory(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Gives a directory to a group: its members may do what its owner may, and what is made in it belongs to the group too. Nothing in it is
/// changed, however much it holds.
pub fn give_to_group(directory: &OwnedFd, group: u32) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    // It was opened to be named only, and can be changed by that name.
    let directory = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let directory = Path::new(&directory);
    let found = fs::metadata(directory)?;
    if found.gid() != group {
        std::os::unix::fs::chown(directory, None, Some(group))?;
    }
    let mode = found.mode() & 0o7777;
    let wanted = mode | 0o2070;
    // A change of the group may have taken the bit away.
    if wanted != mode || found.gid() != group {
        fs::set_permissions(directory, fs::Permissions::from_mode(wanted))?;
    }
    Ok(())
}

/// Has everything written out: `fsync` of the root means that to our file system.
pub fn write_everything_out(mount_point: &Path) -> io::Result<()> {
    match fs::File::open(mount_point)?.sync_all() {
        Err(error) if is_dead(&error) || error.kind() == io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        result => result,
    }
}

/// The bytes of a path, for a name in the metadata service.
pub fn name_of(path: &Path) -> String {
    String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned()
}
