//! Tar archives as POSIX.1-1988 has them (`ustar`): no dates, no owners but root.

use std::io::{self, Read, Write};

const BLOCK_BYTES: usize = 512;

/// The largest size that eleven octal digits hold: 8 GiB.
const SIZE_MAX: u64 = 0o777_7777_7777;

/// What an entry is.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// A file of so many bytes, which follow.
    File(u64),
    /// A directory.
    Directory,
    /// A symbolic link to there.
    Link(&'a str),
}

/// Writes an archive.
pub struct Writer<W> {
    to: W,
}

impl<W: Write> Writer<W> {
    /// An empty archive.
    pub fn new(to: W) -> Self {
        Self { to }
    }

    /// A file whose content is at hand.
    pub fn bytes(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.file(path, mode, bytes.len() as u64, bytes)
    }

    /// A file of `size` bytes.
    pub fn file(&mut self, path: &str, mode: u32, size: u64, content: impl Read) -> io::Result<()> {
        self.to.write_all(&header(path, mode, Kind::File(size))?)?;
        let copied = io::copy(&mut content.take(size), &mut self.to)?;
        if copied != size {
            return Err(io::Error::other(format!(
                "{path} became shorter while it was read"
            )));
        }
        // Never more than a block.
        let rest = usize::try_from(size % BLOCK_BYTES as u64).unwrap_or_default();
        if rest > 0 {
            self.to.write_all(&[0; BLOCK_BYTES][rest..])?;
        }
        Ok(())
    }

    /// A directory or a link.
    pub fn entry(&mut self, path: &str, mode: u32, kind: Kind<'_>) -> io::Result<()> {
        self.to.write_all(&header(path, mode, kind)?)
    }

    /// Two empty blocks end an archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.to.write_all(&[0; 2 * BLOCK_BYTES])?;
        self.to.flush()?;
        Ok(self.to)
    }
}

fn header(path: &str, mode: u32, kind: Kind<'_>) -> io::Result<[u8; BLOCK_BYTES]> {
    let (prefix, name) = split(path)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidFilename, format!("{path} is too long")))?;
    let (size, flag, target) = match kind {
        Kind::File(size) => (size, b'0', ""),
        Kind::Directory => (0, b'5', ""),
        Kind::Link(target) => (0, b'2', target),
    };
    if target.len() > 100 || size > SIZE_MAX {
        return Err(io::Error::other(format!("{path} does not fit the archive")));
    }
    let mut block = [0; BLOCK_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| block[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{:07o}", mode & 0o7777).as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{size:011o}").as_bytes());
    put(136, b"00000000000");
    // The sum is taken with blanks in its own place.
    put(148, b"        ");
    put(156, &[flag]);
    put(157, target.as_bytes());
    put(257, b"ustar\x0000");
    put(345, prefix.as_bytes());
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}

/// A path of up to 256 bytes, divided at a slash into a prefix of at most 155 and a name of at most 100.
fn split(path: &str) -> Option<(&str, &str)> {
    if path.len() <= 100 {
        return Some(("", path));
    }
    path.match_indices('/')
        .map(|(slash, _)| (&path[..slash], &path[slash + 1..]))
        .find(|(prefix, name)| prefix.len() <= 155 && name.len() <= 100)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::process::Command;

    use super::*;

    #[test]
    fn other_programs_read_what_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.tar");
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(90));
        let mut archive = Writer::new(std::fs::File::create(&path).unwrap());
        archive.entry("etc", 0o755, Kind::Directory).unwrap();
        archive.bytes("etc/hello", 0o640, b"hello\n").unwrap();
        archive.entry("etc/link", 0o777, Kind::Link("hello")).unwrap();
        archive.bytes(&long, 0o644, &[7; 512]).unwrap();
        archive.finish().unwrap();
        let list = Command::new("tar").arg("-tvf").arg(&path).output().unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        let lines: Vec<&str> = list.lines().collect();
        assert_eq!(lines.len(), 4, "{list}");
        assert!(
            lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with("etc"),
            "{list}"
        );
        assert!(lines[1].starts_with("-rw-r-----"), "{list}");
        assert!(lines[2].ends_with("etc/link -> hello"), "{list}");
        assert!(lines[3].ends_with(&long), "{list}");
        let content = Command::new("tar")
            .arg("-xOf")
            .arg(&path)
            .arg("etc/hello")
            .output()
            .unwrap();
        assert_eq!(content.stdout, b"hello\n");
    }

    #[test]
    fn a_path_that_does_not_fit_is_refused() {
        let mut archive = Writer::new(Vec::new());
        let error = archive.bytes(&"x".repeat(300), 0o644, b"").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidFilename);
    }
}
