//! What is mounted on this node, from `/proc/self/mountinfo`. Reading it asks no file system anything, so it works while one hangs.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

/// The type of our mounts in the kernel's table.
pub const FILE_SYSTEM_KIND: &str = "fuse.twinshore";

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The device: the same for a mount and all that are bound to parts of it.
    pub device: (u32, u32),
    /// Where.
    pub mount_point: PathBuf,
    /// Nothing can be changed through it.
    pub read_only: bool,
    /// Such as `fuse.twinshore`.
    pub kind: String,
}

impl Mounted {
    /// It is of ours.
    pub fn is_ours(&self) -> bool {
        self.kind == FILE_SYSTEM_KIND
    }
}

/// Everything that is mounted. Of several at one place the last is on top.
pub fn read() -> io::Result<Vec<Mounted>> {
    // Not necessarily UTF-8: other mount points may be named anyhow.
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(parse_all(&table))
}

/// What is mounted exactly at a path, on top if several are.
pub fn find(mount_point: &Path) -> io::Result<Option<Mounted>> {
    Ok(read()?
        .into_iter()
        .rfind(|mounted| mounted.mount_point == mount_point))
}

fn parse_all(table: &[u8]) -> Vec<Mounted> {
    table.split(|byte| *byte == b'\n').filter_map(parse).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`, see `proc_pid_mountinfo(5)`.
fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mount_point = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    let read_only = fields
        .next()?
        .split(|byte| *byte == b',')
        .any(|option| option == b"ro");
    // A variable number of optional fields, ended by a dash.
    fields.find(|field| *field == b"-")?;
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(Mounted {
        device: (major.parse().ok()?, minor.parse().ok()?),
        mount_point,
        read_only,
        kind,
    })
}

/// Spaces, tabs, newlines and backslashes stand as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let code = (*first == b'\\')
            .then(|| after.get(..3))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = code {
            bytes.push(byte);
            rest = &after[3..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_escaped_spaces_is_read() {
        let table = b"36 35 0:98 / /mnt/a\\040b ro,nosuid master:1 shared:2 - fuse.twinshore my\\040volume rw,user_id=0\nx\n";
        let all = parse_all(table);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].device, (0, 98));
        assert_eq!(all[0].mount_point, Path::new("/mnt/a b"));
        assert!(all[0].read_only && all[0].is_ours());
    }

    #[test]
    fn the_root_is_mounted_and_an_ordinary_directory_is_not() {
        assert!(find(Path::new("/")).unwrap().is_some());
        assert_eq!(find(Path::new("/no/such/place")).unwrap(), None);
    }
}
