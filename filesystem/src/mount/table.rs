//! What is mounted, from `/proc/self/mountinfo`. Reading it asks no file system anything, so it works while one hangs.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounted {
    /// The device number.
    pub major: u32,
    /// The device number; of a FUSE mount also the number of its connection.
    pub minor: u32,
    /// Where.
    pub mount_point: PathBuf,
    /// Such as `fuse.twinshore`.
    pub kind: String,
    /// What: of ours the name of the volume.
    pub source: String,
}

/// What is mounted exactly at a path, on top if several are. The path must be absolute and without symbolic links.
pub fn find(mount_point: &Path) -> io::Result<Option<Mounted>> {
    // Not necessarily UTF-8: other mount points may be named anyhow.
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(table
        .split(|byte| *byte == b'\n')
        .filter_map(parse)
        .rfind(|mounted| mounted.mount_point == mount_point))
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`, see `proc_pid_mountinfo(5)`.
fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = std::str::from_utf8(fields.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let mount_point = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    // A variable number of optional fields, ended by a dash.
    fields.find(|field| *field == b"-")?;
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    let source = String::from_utf8_lossy(&unescape(fields.next()?)).into_owned();
    Some(Mounted {
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        mount_point,
        kind,
        source,
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
            .and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
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
        let line = br"36 35 0:98 / /mnt/a\040b rw,nosuid master:1 shared:2 - fuse.twinshore my\040volume rw,user_id=0";
        let mounted = parse(line).unwrap();
        assert_eq!((mounted.major, mounted.minor), (0, 98));
        assert_eq!(mounted.mount_point, Path::new("/mnt/a b"));
        assert_eq!(
            (mounted.kind.as_str(), mounted.source.as_str()),
            ("fuse.twinshore", "my volume")
        );
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        for line in [
            &b""[..],
            b"36 35",
            b"36 35 x / /mnt rw - ext4 a rw",
            b"36 35 0:1 / /mnt rw ext4 a rw",
        ] {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn the_root_is_mounted_and_an_ordinary_directory_is_not() {
        assert!(find(Path::new("/")).unwrap().is_some());
        assert_eq!(find(Path::new("/no/such/place")).unwrap(), None);
    }
}
