//! Two things about locks that have to be found out here.
//!
//! *Family.* `flock` and record locks come as the same request; a flag tells them apart, which fuser 0.18 does not pass on. It is read from
//! the request itself, behind the header that fuser shows.
//!
//! *Owners.* The kernel does not say when the owner of an open-file-description lock is gone: closing sends `FLUSH` with the process' owner only. So
//! each open file remembers who took record locks through it, and its release gives back what is left.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fuser::{FileHandle, LockOwner, Request};
use twinshore_protocol::lock::LockFamily;

use crate::logbook::Logbook;

/// `FUSE_LK_FLOCK`.
const LK_FLOCK: u32 = 1;

/// `struct fuse_in_header` and `struct fuse_lk_in`, as the kernel sends them.
#[repr(C)]
#[derive(Clone, Copy)]
struct LockRequest {
    length: u32,
    opcode: u32,
    unique: u64,
    node: u64,
    user: u32,
    group: u32,
    process: u32,
    extensions: u32,
    handle: u64,
    owner: u64,
    start: u64,
    end: u64,
    kind: u32,
    lock_process: u32,
    flags: u32,
    padding: u32,
}

/// The family of a `GETLK` or `SETLK` request.
pub fn family(request: &Request, handle: FileHandle, owner: LockOwner) -> LockFamily {
    let request: *const Request = request;
    // SAFETY: fuser makes `Request` a transparent view of the header at the start of the buffer into which it has read the whole
    // request; the buffer is 16 MiB and aligned for the header, and for these opcodes fuser has checked that the body is there. The
    // buffer outlives this call, in which the request is borrowed, and nothing writes to it meanwhile. What is read is checked below.
    #[allow(unsafe_code)]
    let raw = unsafe { request.cast::<LockRequest>().read_unaligned() };
    let is_what_fuser_parsed =
        raw.length as usize >= size_of::<LockRequest>() && raw.handle == handle.0 && raw.owner == owner.0;
    if is_what_fuser_parsed && raw.flags & LK_FLOCK != 0 {
        LockFamily::Flock
    } else {
        LockFamily::Record
    }
}

/// Who took record locks through which open file.
#[derive(Default)]
pub struct RecordLockOwners {
    owners: Mutex<HashMap<u64, BTreeSet<u64>>>,
    logbook: Option<Arc<Logbook>>,
}

impl RecordLockOwners {
    /// Nobody yet. What is known is kept for a successor of this process, if one is thought of.
    pub fn new(logbook: Option<Arc<Logbook>>) -> Self {
        Self {
            owners: Mutex::default(),
            logbook,
        }
    }

    fn owners(&self) -> MutexGuard<'_, HashMap<u64, BTreeSet<u64>>> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody asks for a record lock through a handle.
    pub fn remember(&self, handle: u64, owner: u64) {
        let is_new = self.owners().entry(handle).or_default().insert(owner);
        if let (true, Some(logbook)) = (is_new, &self.logbook) {
            logbook.owner_locks(handle, owner);
        }
    }

    /// A flush gives the owner's locks back.
    pub fn flushed(&self, handle: u64, owner: u64) {
        let mut owners = self.owners();
        if let Some(set) = owners.get_mut(&handle) {
            if let (true, Some(logbook)) = (set.remove(&owner), &self.logbook) {
                logbook.owner_gone(handle, owner);
            }
            if set.is_empty() {
                owners.remove(&handle);
            }
        }
    }

    /// The handle is released: whoever is left. A successor must know them until their locks are given back.
    pub fn released(&self, handle: u64) -> BTreeSet<u64> {
        let mut owners = self.owners();
        if owners.is_empty() {
            return BTreeSet::new();
        }
        owners.remove(&handle).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_that_was_not_flushed_is_left_at_the_release() {
        let owners = RecordLockOwners::default();
        owners.remember(7, 1);
        owners.remember(7, 2);
        owners.remember(8, 2);
        owners.flushed(7, 1);
        assert_eq!(owners.released(7), BTreeSet::from([2]));
        assert_eq!(owners.released(7), BTreeSet::new());
        assert_eq!(owners.released(8), BTreeSet::from([2]));
    }
}
