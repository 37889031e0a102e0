//! The records of a logbook: their kinds and contents.

use bytes::Bytes;
use twinshore_protocol::attributes::AttributeChanges;
use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::lock::Lock;
use twinshore_protocol::wire::{decode, encode};
use twinshore_protocol::{Caller, Errno, InodeNumber, Operation, Reply, RequestNumber, SessionId, Timestamp};

use super::calls::Note;

/// Of which kind a record is.
pub mod kind {
    /// The session, and the volume.
    pub const SESSION: u8 = 1;
    /// What the kernel offered.
    pub const INIT: u8 = 2;
    /// The inode that is the root of the mount.
    pub const ROOT: u8 = 3;
    /// A request to the service without a reply.
    pub const REQUEST: u8 = 4;
    /// A reply that the kernel's request was not answered with yet.
    pub const ANSWER: u8 = 5;
    /// Bytes were written; the kernel's request was not answered yet.
    pub const TAKEN: u8 = 6;
    /// An open file or directory.
    pub const HANDLE: u8 = 7;
    /// The service counts an open.
    pub const OPENED: u8 = 8;
    /// The locks on an inode.
    pub const LOCKS: u8 = 9;
    /// Who took record locks through an open file.
    pub const OWNER: u8 = 10;
    /// Written bytes.
    pub const DATA: u8 = 11;
    /// Attributes that wait for written bytes.
    pub const DEFERRED: u8 = 12;
    /// What went wrong, and is not told yet.
    pub const FAILURE: u8 = 13;
}

/// What the kernel offered at the beginning of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelOffer {
    /// The minor version of its interface.
    pub minor: u32,
    /// Its capabilities.
    pub flags: u64,
}

/// From here on the kernel sends requests again when it is asked to (`FUSE_NOTIFY_RESEND`, kernel 6.9). It has a flag too, which fuser does not
/// pass on.
const RESEND_MINOR: u32 = 40;

impl KernelOffer {
    /// Can another process go on with the mount?
    pub const fn can_resend(self) -> bool {
        self.minor >= RESEND_MINOR
    }
}

/// An open file or directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenHandle {
    /// Its number.
    pub handle: u64,
    /// What is open.
    pub inode: InodeNumber,
    /// How: bits of the adapter's flags; `None` for a directory.
    pub flags: Option<u8>,
    /// The kernel's request that opened it.
    pub call: u64,
}

/// Attributes that wait for written bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeferredChange {
    /// Of what.
    pub inode: InodeNumber,
    /// On whose behalf.
    pub caller: Caller,
    /// What.
    pub changes: AttributeChanges,
    /// When the last one was made.
    pub changed: Timestamp,
    /// How many were joined.
    pub joined: u32,
}

/// A request of the predecessor.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its number.
    pub number: RequestNumber,
    /// Its program was answered early.
    pub early: bool,
    /// The kernel's request that it was made for, or 0.
    pub call: u64,
    /// What it settles.
    pub note: Note,
    /// On whose behalf.
    pub caller: Caller,
    /// What to do.
    pub operation: Operation,
}

/// A reply, and the kernel's request that it is for.
pub type Answer = (RequestNumber, u64, Result<Reply, Errno>);

/// Written bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// To what.
    pub inode: InodeNumber,
    /// In which order.
    pub number: u64,
    /// Where.
    pub offset: u64,
    /// The kernel's request.
    pub call: u64,
    /// When.
    pub time: Timestamp,
    /// Not by root: privileges are cleared.
    pub clear_privileges: bool,
    /// The bytes.
    pub content: Bytes,
}

/// The front of a record of [`kind::DATA`].
pub const DATA_FRONT: usize = 48;

/// See [`Data`].
pub fn data_front(data: &Data) -> [u8; DATA_FRONT] {
    let mut front = [0; DATA_FRONT];
    for (at, value) in [data.inode.0, data.number, data.offset, data.call]
        .into_iter()
        .enumerate()
    {
        front[at * 8..at * 8 + 8].copy_from_slice(&value.to_ne_bytes());
    }
    front[32..40].copy_from_slice(&data.time.seconds.to_ne_bytes());
    front[40..44].copy_from_slice(&data.time.nanoseconds.to_ne_bytes());
    front[44] = u8::from(data.clear_privileges);
    front
}

/// The other way round.
pub fn data(record: Vec<u8>) -> Option<Data> {
    let front: &[u8; DATA_FRONT] = record.first_chunk()?;
    let word = |at: usize| -> [u8; 8] {
        let mut word = [0; 8];
        word.copy_from_slice(&front[at..at + 8]);
        word
    };
    let mut nanoseconds = [0; 4];
    nanoseconds.copy_from_slice(&front[40..44]);
    Some(Data {
        inode: InodeNumber(u64::from_ne_bytes(word(0))),
        number: u64::from_ne_bytes(word(8)),
        offset: u64::from_ne_bytes(word(16)),
        call: u64::from_ne_bytes(word(24)),
        time: Timestamp {
            seconds: i64::from_ne_bytes(word(32)),
            nanoseconds: u32::from_ne_bytes(nanoseconds),
        },
        clear_privileges: front[44] != 0,
        content: Bytes::from(record).slice(DATA_FRONT..),
    })
}

/// A request in two parts: what was noted of it, and it itself.
pub fn request_parts(
    number: RequestNumber,
    early: bool,
    call: u64,
    note: &Note,
    request: (&Caller, &Operation),
) -> (Vec<u8>, Bytes) {
    let noted = encode(&(number, early, call, &note.commits, note.deferred, &note.concerned));
    let mut front = u32::try_from(noted.len())
        .unwrap_or(u32::MAX)
        .to_ne_bytes()
        .to_vec();
    front.extend_from_slice(&noted);
    (front, encode(&request))
}

type Noted = (
    RequestNumber,
    bool,
    u64,
    Vec<(InodeNumber, Vec<u64>)>,
    Option<(InodeNumber, u32)>,
    Vec<InodeNumber>,
);

/// The other way round.
pub fn request(record: &[u8]) -> Option<Request> {
    let (length, rest) = record.split_first_chunk::<4>()?;
    let (noted, rest) = rest.split_at_checked(usize::try_from(u32::from_ne_bytes(*length)).ok()?)?;
    let (number, early, call, commits, deferred, concerned): Noted = decode(noted).ok()?;
    let (caller, operation): (Caller, Operation) = decode(rest).ok()?;
    Some(Request {
        number,
        early,
        call,
        note: Note {
            commits,
            deferred,
            concerned,
        },
        caller,
        operation,
    })
}

/// See [`kind::SESSION`].
pub type SessionRecord = (SessionId, VolumeFormat);

/// See [`kind::LOCKS`].
pub type LocksRecord = (InodeNumber, Vec<Lock>);

/// See [`kind::DEFERRED`].
pub type DeferredRecord = (InodeNumber, Caller, AttributeChanges, Timestamp, u32);

/// See [`kind::HANDLE`]: number, inode, flags, call.
pub type HandleRecord = (u64, InodeNumber, Option<u8>, u64);
