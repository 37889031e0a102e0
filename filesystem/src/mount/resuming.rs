//! A mount whose process has ended goes on in this one.
//!
//! # Flow of [`run_resumed`]
//!
//! 1. The kernel does not say twice what it offers, and fuser waits for it: it is told over a pair of sockets what the logbook remembers.
//!    Then the device takes the place of the socket.
//! 2. The kernel is told to drop what it has cached. Only then is the session resumed: that everything is dropped is what its service waits for.
//! 3. `FUSE_NOTIFY_RESEND` (kernels from 6.9): what the last process had read and not answered comes again, before everything new.
//!
//! The last process must have ended: two that read one device would share the requests.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use tokio::runtime::Handle as Runtime;

use super::{MountError, MountOptions, configuration, run_with};
use crate::fuse::{Adapter, Device, KernelNotifier};
use crate::logbook::KernelOffer;
use crate::vfs::{KernelInvalidator as _, Resumed};

/// `FUSE_INIT`, and the major version of the interface that has it.
const INIT: u32 = 26;
const MAJOR: u32 = 7;

/// `FUSE_INIT_EXT`: there are more than 32 flags.
const INIT_EXT: u64 = 1 << 30;

/// What the kernel reads ahead at first. It has been told long ago what it gets.
const READ_AHEAD_BYTES: u32 = 128 << 10;

/// `FUSE_NOTIFY_RESEND`.
const NOTIFY_RESEND: i32 = 7;

/// `struct fuse_in_header` and `struct fuse_init_in`.
fn init_request(offer: KernelOffer) -> Vec<u8> {
    const LENGTH: u32 = 40 + 64;
    let flags = if offer.flags >> 32 == 0 {
        offer.flags
    } else {
        offer.flags | INIT_EXT
    };
    let mut request = Vec::new();
    for word in [LENGTH, INIT] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    // The request's number, and no node.
    request.extend_from_slice(&1_u64.to_ne_bytes());
    request.extend_from_slice(&0_u64.to_ne_bytes());
    let low = u32::try_from(flags & u64::from(u32::MAX)).unwrap_or(0);
    let high = u32::try_from(flags >> 32).unwrap_or(0);
    // User, group, process, extensions; then the offer, and eleven words without meaning.
    for word in [0, 0, 0, 0, MAJOR, offer.minor, READ_AHEAD_BYTES, low, high] {
        request.extend_from_slice(&word.to_ne_bytes());
    }
    request.resize(LENGTH as usize, 0);
    request
}

/// A session of fuser with a device whose kernel has said long ago what it offers.
fn connect(
    adapter: Adapter,
    device: &OwnedFd,
    offer: KernelOffer,
    options: &MountOptions,
) -> std::io::Result<fuser::Session<Adapter>> {
    let (ours, theirs) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let mut ours = File::from(ours);
    ours.write_all(&init_request(offer))?;
    let config = configuration(options);
    let session = fuser::Session::from_fd(adapter, theirs, config.acl, config)?;
    // The answer, which the kernel has had from the first process.
    let mut answer = [0; 256];
    let _ = ours.read(&mut answer)?;
    let number = session.as_fd().as_raw_fd();
    // SAFETY: the number is that of the descriptor that the session owns and keeps for as long as it lives. It is not closed here, as what stands for
    // it is never dropped. `dup3` exchanges what it refers to, in one step; nobody else uses it before `run`.
    #[allow(unsafe_code)]
    let mut place = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    rustix::io::dup3(device, &mut place, rustix::io::DupFlags::CLOEXEC)?;
    Ok(session)
}

/// Has the kernel send again what nobody has answered.
fn resend(device: &OwnedFd) -> std::io::Result<()> {
    // struct fuse_out_header: length, code, and a request number of 0 for a notification.
    let mut message = [0; 16];
    message[0..4].copy_from_slice(&16_u32.to_ne_bytes());
    message[4..8].copy_from_slice(&NOTIFY_RESEND.to_ne_bytes());
    File::from(device.try_clone()?).write_all(&message)
}

/// Serves a mount that another process has served, until it is gone. Must not be called on a thread of the runtime.
pub fn run_resumed(
    device: &OwnedFd,
    offer: KernelOffer,
    resumed: Resumed<impl Future<Output = ()> + Send + 'static>,
    notifier: &Arc<KernelNotifier>,
    runtime: &Runtime,
    options: &MountOptions,
    ready: impl FnOnce(),
) -> Result<(), MountError> {
    let Resumed {
        vfs,
        session,
        open,
        owners,
    } = resumed;
    let spawner = runtime.clone();
    let connect = |adapter: Adapter| {
        adapter.take_over_owners(owners);
        let connected = connect(adapter, device, offer, options).map_err(MountError::Connection)?;
        let copy = device.try_clone().map_err(MountError::Connection)?;
        notifier.attach(Some(Arc::new(Device::new(connected.notifier(), copy))));
        for inode in open {
            notifier.opened(inode);
        }
        notifier.drop_everything();
        spawner.spawn(session);
        resend(device).map_err(MountError::Connection)?;
        Ok((connected, None))
    };
    run_with(&vfs, notifier, runtime, options, ready, connect)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_offer_is_told_as_the_kernel_tells_it() {
        let request = init_request(KernelOffer {
            minor: 45,
            flags: (1 << 39) | 1,
        });
        assert_eq!(request.len(), 104);
        let word = |at: usize| request[at..at + 4].to_vec();
        assert_eq!(word(0), 104_u32.to_ne_bytes());
        assert_eq!(word(4), 26_u32.to_ne_bytes());
        assert_eq!(word(40), 7_u32.to_ne_bytes());
        assert_eq!(word(44), 45_u32.to_ne_bytes());
        assert_eq!(word(52), ((1_u32 << 30) | 1).to_ne_bytes());
        assert_eq!(word(56), (1_u32 << 7).to_ne_bytes());
    }
}
