//! What a mount process leaves to a successor: everything that programs were told and the service does not know, and what it takes to go on
//! with the session and with the kernel.
//!
//! # Contract
//!
//! * A record is complete before what it tells of has an effect outside of this process: before the kernel is answered, before the
//!   request is sent. It goes when the service, or the kernel's own record, tells the same.
//! * The kernel sends a request again that has not been answered. What was done for it is found by its number ([`Call`]): a request to the service has
//!   been sent or answered, bytes have been taken, a file is open. None of it is done a second time.
//! * What cannot be recorded makes the logbook useless ([`Logbook::give_up`]): the mount goes on, a successor refuses.
//!
//! # Parts
//!
//! [`store`]: records in a file of memory. [`record`]: what they hold. [`written`]: which bytes are in no commit yet, pure. [`calls`]: for whom the
//! code works at the moment. [`legacy`]: what a successor finds.
//!
//! # Failure cases
//!
//! *Killed between two records*: what both tell is told twice, and of two the younger counts; what only gives back (an open that the service counts)
//! may be given back once too late, never too early. *Damaged*: a record that makes no sense ends the take-over; whoever keeps the device then cuts the connection.

pub mod calls;
mod legacy;
mod record;
mod store;
mod written;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::lock::Lock;
use twinshore_protocol::session::Recorder;
use twinshore_protocol::wire::encode;
use twinshore_protocol::{
    Caller, Epoch, Errno, InodeNumber, Operation, Position, Reply, RequestNumber, SessionId, Timestamp,
};

pub use self::calls::{Call, Note, Working};
pub use self::legacy::{Damaged, Legacy, Pending, Restored};
use self::record::{Data, kind};
pub use self::record::{DeferredChange, KernelOffer, OpenHandle};
use self::store::{NUMBERS, Slot, Store};
use self::written::{Change, Write, Writes};

/// A cell of the table of numbers: the request has been answered.
const ANSWERED: u64 = 1;

#[derive(Debug, Default)]
struct State {
    /// The kernel's requests that are worked for, with what is kept until they are answered.
    calls: HashMap<u64, Vec<Slot>>,
    requests: HashMap<u64, (Slot, u64)>,
    opened: HashMap<InodeNumber, Vec<Slot>>,
    handles: HashMap<u64, Slot>,
    locks: HashMap<InodeNumber, Slot>,
    owners: HashMap<(u64, u64), Slot>,
    deferred: HashMap<InodeNumber, Slot>,
    failures: HashMap<InodeNumber, Slot>,
    writes: HashMap<InodeNumber, Writes>,
    session: Option<Slot>,
    kernel: Option<Slot>,
    root: Option<Slot>,
    /// Bytes of writes that count.
    written_bytes: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Logbook {
    store: Store,
    state: Mutex<State>,
    /// Which of the successive processes this is.
    generation: u64,
    next_write: AtomicU64,
    written_max_bytes: AtomicU64,
    room: Notify,
    useless: AtomicBool,
}

/// Is a request to the service recorded in full? Others change nothing.
pub fn is_recorded(operation: &Operation) -> bool {
    match operation {
        // Numbers that nobody has taken are lost with the process.
        Operation::GrantNumbers => false,
        Operation::Open { .. }
        | Operation::Release { .. }
        | Operation::SetLock { .. }
        | Operation::CancelLock { .. } => true,
        other => other.is_mutation(),
    }
}

impl Logbook {
    /// Takes a file that lives in memory. What a predecessor has left in it, if anything.
    pub fn open(file: OwnedFd) -> Result<(Arc<Self>, Option<Legacy>), Damaged> {
        let (store, contents) = match Store::open(File::from(file)).map_err(Damaged::Unreadable)? {
            Ok((store, contents)) if !contents.records.is_empty() => (store, Some(contents)),
            Ok((store, _)) => (store, None),
            Err(file) => {
                let length = file.metadata().map_err(Damaged::Unreadable)?.len();
                if length > 0 {
                    return Err(Damaged::GivenUp);
                }
                (Store::create(file).map_err(Damaged::Unreadable)?, None)
            }
        };
        let mut logbook = Self {
            store,
            state: Mutex::default(),
            generation: 1,
            next_write: AtomicU64::new(1),
            written_max_bytes: AtomicU64::new(u64::MAX),
            room: Notify::new(),
            useless: AtomicBool::new(false),
        };
        let legacy = contents.map(|contents| logbook.take_over(contents)).transpose()?;
        Ok((Arc::new(logbook), legacy))
    }

    /// Writes that are in no commit may take so much.
    pub fn set_limit(&self, bytes: u64) {
        self.written_max_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Numbers of handles begin with this: one that the kernel still names must not mean another file.
    pub fn first_handle(&self) -> u64 {
        self.generation << 40
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on nobody can go on from here.
    pub fn give_up(&self, why: &dyn std::fmt::Display) {
        if !self.useless.swap(true, Ordering::AcqRel) {
            tracing::error!("the mount can no longer be taken over by another process: {why}");
            if let Err(error) = self.store.give_up() {
                tracing::error!("and the logbook cannot say so: {error}");
            }
        }
    }

    fn check<T>(&self, result: io::Result<T>) -> Option<T> {
        result.inspect_err(|error| self.give_up(error)).ok()
    }

    fn put(&self, kind: u8, content: &[u8]) -> Option<Slot> {
        self.check(self.store.put(kind, content, &[]))
    }

    fn remove(&self, slot: Slot) {
        self.check(self.store.remove(slot));
    }

    /// Replaces the record in a place: the new one is there before the old one goes.
    fn replace(&self, place: &mut Option<Slot>, kind: u8, content: &[u8]) {
        let old = std::mem::replace(place, self.put(kind, content));
        if let Some(old) = old {
            self.remove(old);
        }
    }

    /// What the kernel offered.
    pub fn kernel_offers(&self, offer: KernelOffer) {
        let content = encode(&(offer.minor, offer.flags));
        self.replace(&mut self.state().kernel, kind::INIT, &content);
        if !offer.can_resend() {
            self.give_up(&"this kernel does not send requests again (before 6.9)");
        }
    }

    /// The root of the mount.
    pub fn root_is(&self, inode: InodeNumber) {
        self.replace(&mut self.state().root, kind::ROOT, &encode(&inode));
    }

    fn call_begins(&self, call: u64) {
        self.state().calls.entry(call).or_default();
    }

    fn call_answered(&self, call: u64) {
        let kept = self.state().calls.remove(&call);
        for slot in kept.into_iter().flatten() {
            self.remove(slot);
        }
    }

    /// A file or directory is open.
    pub fn handle_opened(&self, handle: OpenHandle) {
        let OpenHandle {
            handle,
            inode,
            flags,
            call,
        } = handle;
        let content = encode(&(handle, inode, flags, call));
        if let Some(slot) = self.put(kind::HANDLE, &content) {
            self.state().handles.insert(handle, slot);
        }
    }

    /// It is no longer.
    pub fn handle_closed(&self, handle: u64) {
        let slot = self.state().handles.remove(&handle);
        if let Some(slot) = slot {
            self.remove(slot);
        }
    }

    /// These are the locks on an inode now.
    pub fn locks_are(&self, inode: InodeNumber, locks: &[Lock]) {
        let mut state = self.state();
        let mut place = state.locks.remove(&inode);
        if locks.is_empty() {
            drop(state);
            if let Some(slot) = place {
                self.remove(slot);
            }
            return;
        }
        self.replace(&mut place, kind::LOCKS, &encode(&(inode, locks)));
        if let Some(slot) = place {
            state.locks.insert(inode, slot);
        }
    }

    /// Somebody takes record locks through a handle.
    pub fn owner_locks(&self, handle: u64, owner: u64) {
        if let Some(slot) = self.put(kind::OWNER, &encode(&(handle, owner))) {
            let old = self.state().owners.insert((handle, owner), slot);
            if let Some(old) = old {
                self.remove(old);
            }
        }
    }

    /// They are given back.
    pub fn owner_gone(&self, handle: u64, owner: u64) {
        let slot = self.state().owners.remove(&(handle, owner));
        if let Some(slot) = slot {
            self.remove(slot);
        }
    }

    /// Attributes wait for written bytes, or no longer.
    pub fn deferred(&self, inode: InodeNumber, change: Option<&DeferredChange>) {
        let content = change.map(|change| {
            encode(&(
                change.inode,
                &change.caller,
                change.changes,
                change.changed,
                change.joined,
            ))
        });
        let mut state = self.state();
        let mut place = state.deferred.remove(&inode);
        match content {
            Some(content) => self.replace(&mut place, kind::DEFERRED, &content),
            None => {
                if let Some(slot) = place.take() {
                    self.remove(slot);
                }
            }
        }
        if let Some(slot) = place {
            state.deferred.insert(inode, slot);
        }
    }

    /// What went wrong with an inode and is not told yet, or no longer.
    pub fn failure(&self, inode: InodeNumber, errno: Option<Errno>) {
        let mut state = self.state();
        if errno.is_none() && !state.failures.contains_key(&inode) {
            return;
        }
        let mut place = state.failures.remove(&inode);
        match errno {
            Some(errno) => self.replace(&mut place, kind::FAILURE, &encode(&(inode, errno))),
            None => {
                if let Some(slot) = place.take() {
                    self.remove(slot);
                }
            }
        }
        if let Some(slot) = place {
            state.failures.insert(inode, slot);
        }
    }

    /// Records written bytes, and answers the number of the write and how many bytes of the inode are recorded; `None` if there is no room.
    /// Called under the lock of the inode. `sealed`: the last write before the youngest piece was sealed.
    pub fn write(
        &self,
        inode: InodeNumber,
        offset: u64,
        content: &[u8],
        (time, clear_privileges): (Timestamp, bool),
        sealed: u64,
    ) -> Option<(u64, u64)> {
        let length = content.len() as u64;
        let limit = self.written_max_bytes.load(Ordering::Relaxed);
        {
            let mut state = self.state();
            // A single write always fits: somebody must be able to go on.
            if state.written_bytes > 0 && state.written_bytes + length > limit {
                return None;
            }
            state.written_bytes += length;
        }
        let number = self.next_write.fetch_add(1, Ordering::Relaxed);
        let call = calls::current();
        let front = record::data_front(&Data {
            inode,
            number,
            offset,
            call,
            time,
            clear_privileges,
            content: Bytes::new(),
        });
        let slot = self.check(self.store.put(kind::DATA, &front, content));
        let mut state = self.state();
        let Some(slot) = slot else {
            state.written_bytes -= length;
            return Some((number, 0));
        };
        let write = Write {
            number,
            slot,
            offset,
            start: offset,
            end: offset + length,
            call,
        };
        let writes = state.writes.entry(inode).or_default();
        let replaced = writes.add(write, sealed);
        let bytes = writes.bytes();
        if let Some(replaced) = replaced {
            state.written_bytes -= replaced.end - replaced.start;
            self.forget_write(&mut state, &replaced);
        }
        Some((number, bytes))
    }

    /// Waits until there may be room for written bytes.
    pub async fn wait_for_room(&self, bytes: u64) {
        loop {
            let room = self.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            let used = self.state().written_bytes;
            if used == 0 || used + bytes <= self.written_max_bytes.load(Ordering::Relaxed) {
                return;
            }
            room.await;
        }
    }

    /// A write is recorded no longer; that the kernel's request has been carried out is, until it is answered.
    fn forget_write(&self, state: &mut State, write: &Write) {
        if let Some(kept) = state.calls.get_mut(&write.call)
            && let Some(slot) = self.put(kind::TAKEN, &encode(&write.call))
        {
            kept.push(slot);
        }
        self.remove(write.slot);
    }

    fn settle(
        &self,
        state: &mut State,
        inode: InodeNumber,
        settle: impl FnOnce(&mut Writes, &mut Vec<Change>),
    ) {
        let Some(writes) = state.writes.get_mut(&inode) else {
            return;
        };
        let before = writes.bytes();
        let mut changes = Vec::new();
        settle(writes, &mut changes);
        let after = writes.bytes();
        if after == 0 {
            state.writes.remove(&inode);
        }
        state.written_bytes -= before - after;
        for change in changes {
            match change {
                Change::Remove(write) => self.forget_write(state, &write),
                Change::Shorten(write) => {
                    self.check(self.store.set_part(write.slot, write.part()));
                }
            }
        }
        self.room.notify_waiters();
    }

    /// The file was cut: nothing beyond is to be stored.
    pub fn cut(&self, inode: InodeNumber, size: u64) {
        self.settle(&mut self.state(), inode, |writes, changes| {
            writes.cut(size, changes);
        });
    }

    /// Nothing written to the inode is to be stored any more.
    pub fn nothing_written(&self, inode: InodeNumber) {
        self.settle(&mut self.state(), inode, |writes, changes| {
            changes.extend(writes.clear().map(Change::Remove));
        });
    }

    /// The request is recorded; what it commits is settled by it.
    fn settled_by(&self, state: &mut State, operation: &Operation, note: &Note) {
        let Operation::Commit { files, .. } = operation else {
            return;
        };
        for (file, (inode, bounds)) in files.iter().zip(&note.commits) {
            self.settle(state, *inode, |writes, changes| {
                for (write, bound) in file.writes.iter().zip(bounds) {
                    let end = write.file_offset + write.length;
                    writes.commit(write.file_offset, end, *bound, changes);
                }
            });
        }
    }
}

impl Recorder for Logbook {
    fn added(&self, number: RequestNumber, caller: &Caller, operation: &Operation, early: bool) {
        let place = usize::try_from(number.0 % NUMBERS as u64).unwrap_or(0);
        let note = calls::take_note();
        if is_recorded(operation) {
            let call = if note.is_for_call() { calls::current() } else { 0 };
            let (front, content) = record::request_parts(number, early, call, &note, (caller, operation));
            if let Some(slot) = self.check(self.store.put(kind::REQUEST, &front, &content)) {
                let mut state = self.state();
                state.requests.insert(number.0, (slot, call));
                self.settled_by(&mut state, operation, &note);
            }
        }
        self.check(self.store.set_number(place, number.0 << 1));
    }

    fn withdrawn(&self, number: RequestNumber) {
        let request = self.state().requests.remove(&number.0);
        if let Some((slot, _)) = request {
            self.remove(slot);
        }
    }

    fn answered(&self, number: RequestNumber, operation: &Operation, result: &Result<Reply, Errno>) {
        let mut state = self.state();
        match (operation, result) {
            (Operation::Open { inode, .. }, Ok(_)) => {
                if let Some(slot) = self.put(kind::OPENED, &encode(inode)) {
                    state.opened.entry(*inode).or_default().push(slot);
                }
            }
            (Operation::Create { .. }, Ok(Reply::Created { attributes, .. })) => {
                if let Some(slot) = self.put(kind::OPENED, &encode(&attributes.inode)) {
                    state.opened.entry(attributes.inode).or_default().push(slot);
                }
            }
            _ => {}
        }
        if let Some((slot, call)) = state.requests.remove(&number.0) {
            if let Some(kept) = state.calls.get_mut(&call)
                && let Some(answer) = self.put(kind::ANSWER, &encode(&(number, call, result)))
            {
                kept.push(answer);
            }
            self.remove(slot);
        }
        if let Operation::Release { inode } = operation
            && let Some(opened) = state.opened.get_mut(inode)
        {
            let released = opened.pop();
            if opened.is_empty() {
                state.opened.remove(inode);
            }
            if let Some(slot) = released {
                self.remove(slot);
            }
        }
        drop(state);
        let cell = usize::try_from(number.0 % NUMBERS as u64).unwrap_or(0);
        self.check(self.store.set_number(cell, (number.0 << 1) | ANSWERED));
    }

    fn opened(&self, session: SessionId, format: &VolumeFormat) {
        self.replace(
            &mut self.state().session,
            kind::SESSION,
            &encode(&(session, format)),
        );
    }

    fn seen(&self, epoch: Epoch, position: Position) {
        self.check(self.store.set_seen(epoch.0, position.0));
    }

    fn expired(&self) {
        // A successor that comes before there is another session hears the same from the service.
        let mut state = self.state();
        let mut void: Vec<Slot> = state.requests.drain().map(|(_, (slot, _))| slot).collect();
        void.extend(state.opened.drain().flat_map(|(_, slots)| slots));
        void.extend(state.locks.drain().map(|(_, slot)| slot));
        void.extend(state.deferred.drain().map(|(_, slot)| slot));
        let writes: Vec<InodeNumber> = state.writes.keys().copied().collect();
        for inode in writes {
            self.settle(&mut state, inode, |writes, changes| {
                changes.extend(writes.clear().map(Change::Remove));
            });
        }
        drop(state);
        for slot in void {
            self.remove(slot);
        }
        self.check(self.store.clear_numbers());
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
