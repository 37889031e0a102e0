//! Files whose every error is heard, that of `close` too: a file system over a network tells some errors only there, and
//! `std::fs::write` does not listen.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

/// Writes a file and closes it, with an `fsync` before or without.
pub fn write_and_hear(path: &Path, content: &[u8], with_sync: bool) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    if with_sync {
        file.sync_all()?;
    }
    close(file)
}

/// Closes a file and hears what `close` says, which dropping does not.
pub fn close(file: File) -> io::Result<()> {
    use std::os::fd::IntoRawFd as _;
    let descriptor = file.into_raw_fd();
    close_descriptor(descriptor)
}

#[allow(unsafe_code)]
fn close_descriptor(descriptor: i32) -> io::Result<()> {
    // SAFETY: the descriptor was taken out of its owner just before, so nothing else closes or uses it.
    let result = unsafe { rustix::io::try_close(descriptor) };
    result.map_err(io::Error::from)
}
