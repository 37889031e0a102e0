//! What it takes to go on with a mount whose process has ended: the open `/dev/fuse`, and the logbook, a file in memory in which the process records what
//! programs were told and the metadata service does not know yet. Mounter and plugin both have them: one of the two may end.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::MemfdFlags;

/// See the module.
#[derive(Debug)]
pub struct Kept {
    device: OwnedFd,
    logbook: OwnedFd,
}

impl Kept {
    /// Of a mount that was just made.
    pub fn new(device: OwnedFd) -> io::Result<Self> {
        let logbook = rustix::fs::memfd_create("twinshore-logbook", MemfdFlags::CLOEXEC)?;
        Ok(Self { device, logbook })
    }

    /// As they came with a message.
    pub fn received(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let [device, logbook] = <[OwnedFd; 2]>::try_from(descriptors).ok()?;
        Some(Self { device, logbook })
    }

    /// To be sent with a message.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.device.as_fd(), self.logbook.as_fd()]
    }

    /// The same once more.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            device: self.device.try_clone()?,
            logbook: self.logbook.try_clone()?,
        })
    }

    /// The device, for a process that is to serve it.
    pub fn device(&self) -> io::Result<OwnedFd> {
        self.device.try_clone()
    }

    /// Where a process that this one starts finds the logbook. It is not inherited: other processes would have it too.
    pub fn logbook_path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.logbook.as_raw_fd())
    }
}
