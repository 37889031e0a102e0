//! A Unix socket for messages that may carry file descriptors. `SOCK_SEQPACKET`: a message arrives whole or not at all, with its descriptors.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net as standard;
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

use crate::endpoint;

/// The longest message: a Secret with a bundle of certificates. Less than the kernel's default for what waits in a socket (208 KiB).
const MESSAGE_MAX_BYTES: usize = 128 * 1024;

/// Descriptors of a message at most: a mount's device and its logbook.
const DESCRIPTORS_MAX: usize = 2;

const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX));

/// Listens.
pub struct Listener(UnixListener);

/// One end of a line. The library's type for streams serves as well: what is sent and received is said here.
pub struct Socket(UnixStream);

fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

impl Listener {
    /// Listens at a path. Everybody may connect: who it is, is asked afterwards.
    pub fn bind(path: &Path) -> io::Result<Self> {
        endpoint::clear(path)?;
        let socket = open()?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
        rustix::net::listen(&socket, 4)?;
        Ok(Self(UnixListener::from_std(standard::UnixListener::from(
            socket,
        ))?))
    }

    /// The next line, and the user at its other end.
    pub async fn accept(&self) -> io::Result<(Socket, u32)> {
        let (line, _) = self.0.accept().await?;
        let peer = line.peer_cred()?;
        Ok((Socket(line), peer.uid()))
    }
}

impl Socket {
    /// Connects.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = open()?;
        // A local connection is there at once, or refused.
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(UnixStream::from_std(standard::UnixStream::from(socket))?))
    }

    /// Sends a message.
    pub async fn send<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MESSAGE_MAX_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "a message of {} bytes: at most {MESSAGE_MAX_BYTES} are possible",
                    bytes.len()
                ),
            ));
        }
        self.0
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
                    return Err(io::Error::other("there is no room for so many descriptors"));
                }
                let flags = SendFlags::NOSIGNAL;
                rustix::net::sendmsg(self.0.as_fd(), &[IoSlice::new(&bytes)], &mut control, flags)?;
                Ok(())
            })
            .await
    }

    /// The next message; none if the other end has closed the line.
    pub async fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_MAX_BYTES];
        let (count, descriptors) = self
            .0
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let received = rustix::net::recvmsg(
                    self.0.as_fd(),
                    &mut [IoSliceMut::new(&mut bytes)],
                    &mut control,
                    RecvFlags::CMSG_CLOEXEC,
                )?;
                if received
                    .flags
                    .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
                {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a message is too long",
                    ));
                }
                let mut descriptors = Vec::new();
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = message {
                        descriptors.extend(rights);
                    }
                }
                Ok((received.bytes, descriptors))
            })
            .await?;
        if count == 0 {
            return Ok(None);
        }
        Ok(Some((serde_json::from_slice(&bytes[..count])?, descriptors)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::{Read as _, Write as _};

    use super::*;

    #[tokio::test]
    async fn descriptors_arrive_with_their_message() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = Listener::bind(&path).unwrap();
        let sender = Socket::connect(&path).unwrap();
        let (receiver, user) = listener.accept().await.unwrap();
        assert_eq!(user, rustix::process::geteuid().as_raw());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        let other = tempfile::tempfile().unwrap();
        sender.send(&"one", &[file.as_fd(), other.as_fd()]).await.unwrap();
        sender.send(&"two", &[]).await.unwrap();
        let (text, descriptors) = receiver.receive::<String>().await.unwrap().unwrap();
        assert_eq!((text.as_str(), descriptors.len()), ("one", 2));
        let mut same = std::fs::File::from(descriptors.into_iter().next().unwrap());
        std::io::Seek::rewind(&mut same).unwrap();
        let mut content = String::new();
        same.read_to_string(&mut content).unwrap();
        assert_eq!(content, "content");
        let (text, descriptors) = receiver.receive::<String>().await.unwrap().unwrap();
        assert!(text == "two" && descriptors.is_empty());
        drop(sender);
        assert!(receiver.receive::<String>().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let _listener = Listener::bind(&path).unwrap();
        let sender = Socket::connect(&path).unwrap();
        let long = "x".repeat(MESSAGE_MAX_BYTES);
        assert!(sender.send(&long, &[]).await.is_err());
    }
}
