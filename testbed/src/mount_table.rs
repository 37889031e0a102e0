//! What is mounted where, and how to get rid of a mount whose process is gone.

use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::UnmountFlags;

/// A line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// Where.
    pub mount_point: PathBuf,
    /// `major:minor` of its device.
    pub device: String,
    /// Such as `fuse.twinshore`.
    pub file_system: String,
}

/// What is mounted at a path (the topmost, if there are several), without touching it: a dead mount would answer with an error, a
/// hanging one not at all.
pub fn mounted_at(path: &Path) -> io::Result<Option<Mounted>> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(parse(&table).filter(|mounted| mounted.mount_point == path).last())
}

/// Takes a mount out of the tree at once, even if it is used or its process is gone. Nothing happens if nothing is mounted.
/// Only for what this process mounted itself.
pub fn detach(path: &Path) -> io::Result<()> {
    // Several can be on top of each other after failed runs; a limit, in case that one cannot be removed.
    for _ in 0..16 {
        if mounted_at(path)?.is_none() {
            return Ok(());
        }
        rustix::mount::unmount(path, UnmountFlags::DETACH)?;
    }
    Err(io::Error::other(format!("{} is still mounted", path.display())))
}

/// Lines of `/proc/self/mountinfo` (proc(5)): `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`.
fn parse(table: &str) -> impl Iterator<Item = Mounted> {
    table.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(2);
        let device = fields.next()?.to_owned();
        let mount_point = unescape(fields.nth(1)?);
        let file_system = after.split(' ').next()?.to_owned();
        Some(Mounted {
            mount_point,
            device,
            file_system,
        })
    })
}

/// Undoes `\040` and the like.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if let (b'\\', [a, b, c, beyond @ ..]) = (first, tail)
            && [a, b, c].iter().all(|digit| (b'0'..=b'7').contains(digit))
        {
            bytes.push(((a & 3) << 6) | ((b & 7) << 3) | (c & 7));
            rest = beyond;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn lines_are_understood_with_spaces_and_optional_fields() {
        let table = "36 35 0:55 / /tmp/with\\040space rw,relatime shared:3 master:1 - fuse.twinshore twinshore rw\n\
                     22 1 8:1 / / rw - ext4 /dev/root rw\n";
        let mounts: Vec<Mounted> = parse(table).collect();
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].mount_point, Path::new("/tmp/with space"));
        assert_eq!(
            (mounts[0].device.as_str(), mounts[0].file_system.as_str()),
            ("0:55", "fuse.twinshore")
        );
        assert_eq!(mounts[1].mount_point, Path::new("/"));
    }

    #[test]
    fn proc_is_mounted_and_a_new_directory_is_not() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(
            mounted_at(Path::new("/proc")).unwrap().unwrap().file_system,
            "proc"
        );
        assert_eq!(mounted_at(directory.path()).unwrap(), None);
        detach(directory.path()).unwrap();
    }
}
