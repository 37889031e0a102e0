//! Sockets in the file system that this process serves gRPC on.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;

/// Where a service listens: `unix:///csi/csi.sock`, `unix:/csi/csi.sock`, or a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(PathBuf);

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text
            .strip_prefix("unix://")
            .or_else(|| text.strip_prefix("unix:"))
            .unwrap_or(text);
        if path.starts_with('/') {
            Ok(Self(PathBuf::from(path)))
        } else {
            Err(format!("`{text}` is not unix:///PATH"))
        }
    }
}

impl Endpoint {
    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Listens there; only this user may connect. What an earlier process has left is replaced, if it is a socket.
    pub fn bind(&self) -> io::Result<UnixListenerStream> {
        bind(&self.0, 0o600)
    }
}

/// Listens at a path, with permissions.
pub fn bind(path: &Path, mode: u32) -> io::Result<UnixListenerStream> {
    clear(path)?;
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(UnixListenerStream::new(listener))
}

/// Removes a socket that an earlier process has left. Anything else that is there is an error.
pub fn clear(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} is there and no socket", path.display()),
        )),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn an_endpoint_is_written_in_three_ways() {
        for text in ["unix:///csi/csi.sock", "unix:/csi/csi.sock", "/csi/csi.sock"] {
            assert_eq!(
                text.parse::<Endpoint>().unwrap().path(),
                Path::new("/csi/csi.sock")
            );
        }
        assert!("csi.sock".parse::<Endpoint>().is_err());
        assert!("tcp://host:1".parse::<Endpoint>().is_err());
    }

    #[tokio::test]
    async fn a_socket_that_was_left_is_replaced_and_a_file_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = Endpoint(directory.path().join("csi.sock"));
        drop(endpoint.bind().unwrap());
        drop(endpoint.bind().unwrap());
        let mode = fs::metadata(endpoint.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::remove_file(endpoint.path()).unwrap();
        fs::write(endpoint.path(), "precious").unwrap();
        assert!(endpoint.bind().is_err());
        assert_eq!(fs::read(endpoint.path()).unwrap(), b"precious");
    }
}
