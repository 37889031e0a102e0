//! What a successor finds in the logbook.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use bytes::Bytes;
use twinshore_protocol::lock::Lock;
use twinshore_protocol::session::{Resumption, UnansweredRequest};
use twinshore_protocol::wire::{decode, encode};
use twinshore_protocol::{Epoch, Errno, InodeNumber, Operation, Position, Reply, RequestNumber};

use super::record::{self, Answer, Data, DeferredChange, KernelOffer, OpenHandle, Request, kind};
use super::store::{Contents, Found, Slot};
use super::written::{Write, remaining};
use super::{ANSWERED, Logbook, State};

/// What was done for a request of the kernel whose answer may have been written, or not: kept for so many, the youngest.
const PENDING_MAX: usize = 4096;

/// Why nobody can go on from here.
#[derive(Debug, thiserror::Error)]
pub enum Damaged {
    /// The file cannot be read or written.
    #[error("the logbook of the mount cannot be read")]
    Unreadable(#[source] io::Error),
    /// The predecessor could not record something.
    #[error("the mount cannot be taken over: its last process could not record everything")]
    GivenUp,
    /// A record makes no sense.
    #[error("the mount cannot be taken over: a record of kind {0} of its logbook is damaged")]
    Record(u8),
    /// A record is missing.
    #[error("the mount cannot be taken over: its logbook does not tell {0}")]
    Missing(&'static str),
}

/// What was done for a request of the kernel that may come again.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // Nearly all are answers: a box for each would only cost.
pub enum Pending {
    /// A request to the service has no reply yet.
    Asked(RequestNumber),
    /// It has.
    Answered(Result<Reply, Errno>),
    /// Bytes have been taken.
    Taken,
}

/// An inode that programs use.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// Opens that the service counts.
    pub opens_replied: u32,
    /// Opens to be given back in the end.
    pub opens_sent: u32,
    /// Bytes that are in no commit, oldest first.
    pub data: Vec<Data>,
    /// Attributes that wait for them.
    pub deferred: Option<DeferredChange>,
    /// What went wrong.
    pub failure: Option<Errno>,
    /// Requests of which programs were answered early.
    pub early: u32,
}

/// What a predecessor has left.
#[derive(Debug)]
pub struct Legacy {
    /// What the kernel offered.
    pub offer: KernelOffer,
    /// The root of the mount.
    pub root: InodeNumber,
    /// The session.
    pub resumption: Resumption,
    /// What was done for the kernel's requests.
    pub pending: HashMap<u64, Pending>,
    /// What is open, in the order of the numbers.
    pub handles: Vec<OpenHandle>,
    /// Inodes that something is known of.
    pub inodes: BTreeMap<InodeNumber, Restored>,
    /// What was answered early, with the inodes that it concerns.
    pub early: Vec<(RequestNumber, Vec<InodeNumber>)>,
    /// Locks that are held.
    pub locks: Vec<(InodeNumber, Vec<Lock>)>,
    /// Who took record locks through which handle.
    pub owners: Vec<(u64, u64)>,
}

#[derive(Default)]
struct Sorted {
    session: Option<(Slot, record::SessionRecord)>,
    offer: Option<(Slot, KernelOffer)>,
    root: Option<(Slot, InodeNumber)>,
    requests: BTreeMap<u64, (Slot, Request)>,
    answers: HashMap<u64, (Slot, Answer)>,
    taken: Vec<(Slot, u64)>,
    handles: BTreeMap<u64, (Slot, OpenHandle)>,
    opened: Vec<(Slot, InodeNumber)>,
    locks: BTreeMap<InodeNumber, (Slot, Vec<Lock>)>,
    owners: BTreeMap<(u64, u64), Slot>,
    data: BTreeMap<u64, (Slot, (u32, u32), Data)>,
    deferred: BTreeMap<InodeNumber, (Slot, DeferredChange)>,
    failures: BTreeMap<InodeNumber, (Slot, Errno)>,
    /// Older records of what has a younger one.
    replaced: Vec<Slot>,
}

fn read<'b, T: decoding::Decode<'b>>(kind: u8, content: &'b [u8]) -> Result<T, Damaged> {
    T::read(content).ok_or(Damaged::Record(kind))
}

/// Decoding, without naming the library that the protocol uses.
mod decoding {
    use super::decode;

    pub trait Decode<'b>: Sized {
        fn read(content: &'b [u8]) -> Option<Self>;
    }

    macro_rules! readable {
        ($($kind:ty),* $(,)?) => {
            $(impl<'b> Decode<'b> for $kind {
                fn read(content: &'b [u8]) -> Option<Self> {
                    decode(content).ok()
                }
            })*
        };
    }

    readable!(
        super::record::SessionRecord,
        super::record::LocksRecord,
        super::record::DeferredRecord,
        super::record::HandleRecord,
        super::Answer,
        super::InodeNumber,
        (super::InodeNumber, super::Errno),
        (u32, u64),
        (u64, u64),
        u64,
    );
}

impl Sorted {
    fn add(&mut self, found: Found) -> Result<(), Damaged> {
        let Found {
            slot,
            sequence: _,
            kind,
            part,
            content,
        } = found;
        let replaced = match kind {
            kind::SESSION => self
                .session
                .replace((slot, read(kind, &content)?))
                .map(|old| old.0),
            kind::INIT => {
                let (minor, flags) = read(kind, &content)?;
                let offer = KernelOffer { minor, flags };
                self.offer.replace((slot, offer)).map(|old| old.0)
            }
            kind::ROOT => self.root.replace((slot, read(kind, &content)?)).map(|old| old.0),
            kind::REQUEST => {
                let request = record::request(&content).ok_or(Damaged::Record(kind))?;
                (self.requests.insert(request.number.0, (slot, request))).map(|old| old.0)
            }
            kind::ANSWER => {
                let answer: Answer = read(kind, &content)?;
                self.answers.insert(answer.1, (slot, answer)).map(|old| old.0)
            }
            kind::TAKEN => {
                self.taken.push((slot, read(kind, &content)?));
                None
            }
            kind::HANDLE => {
                let (handle, inode, flags, call) = read::<record::HandleRecord>(kind, &content)?;
                let open = OpenHandle {
                    handle,
                    inode,
                    flags,
                    call,
                };
                self.handles.insert(handle, (slot, open)).map(|old| old.0)
            }
            kind::OPENED => {
                self.opened.push((slot, read(kind, &content)?));
                None
            }
            kind::LOCKS => {
                let (inode, locks) = read::<record::LocksRecord>(kind, &content)?;
                self.locks.insert(inode, (slot, locks)).map(|old| old.0)
            }
            kind::OWNER => self.owners.insert(read(kind, &content)?, slot),
            kind::DATA => {
                let data = record::data(content).ok_or(Damaged::Record(kind))?;
                (self.data.insert(data.number, (slot, part, data))).map(|old| old.0)
            }
            kind::DEFERRED => {
                let (inode, caller, changes, time, joined) = read::<record::DeferredRecord>(kind, &content)?;
                let change = DeferredChange {
                    inode,
                    caller,
                    changes,
                    changed: time,
                    joined,
                };
                self.deferred.insert(inode, (slot, change)).map(|old| old.0)
            }
            kind::FAILURE => {
                let (inode, errno) = read::<(InodeNumber, Errno)>(kind, &content)?;
                self.failures.insert(inode, (slot, errno)).map(|old| old.0)
            }
            other => return Err(Damaged::Record(other)),
        };
        self.replaced.extend(replaced);
        Ok(())
    }

    /// A reply is recorded before its request goes.
    fn drop_answered_requests(&mut self) {
        let answered: HashSet<u64> = self.answers.values().map(|(_, answer)| answer.0.0).collect();
        let requests = std::mem::take(&mut self.requests);
        for (number, (slot, request)) in requests {
            if answered.contains(&number) {
                self.replaced.push(slot);
            } else {
                self.requests.insert(number, (slot, request));
            }
        }
    }

    /// Attributes that a request under way stores already.
    fn drop_sent_deferred(&mut self) {
        for (_, request) in self.requests.values() {
            if let Some((inode, joined)) = request.note.deferred
                && self
                    .deferred
                    .get(&inode)
                    .is_some_and(|(_, change)| change.joined <= joined)
                && let Some((slot, _)) = self.deferred.remove(&inode)
            {
                self.replaced.push(slot);
            }
        }
    }
}

/// The ranges of an inode that commits under way store, with their bounds.
type Committing = HashMap<InodeNumber, Vec<(u64, u64, u64)>>;

fn committing(requests: &BTreeMap<u64, (Slot, Request)>) -> Committing {
    let mut all = Committing::new();
    for (_, request) in requests.values() {
        let Operation::Commit { files, .. } = &request.operation else {
            continue;
        };
        for (file, (inode, bounds)) in files.iter().zip(&request.note.commits) {
            let ranges = (file.writes.iter().zip(bounds))
                .map(|(write, bound)| (write.file_offset, write.file_offset + write.length, *bound));
            all.entry(*inode).or_default().extend(ranges);
        }
    }
    all
}

impl Logbook {
    /// Takes over what the file holds, and keeps recording in it.
    #[allow(clippy::too_many_lines)] // One kind of record after the other; what they have in common is in `state`.
    pub(super) fn take_over(&mut self, contents: Contents) -> Result<Legacy, Damaged> {
        let Contents {
            records,
            numbers,
            seen,
        } = contents;
        let mut sorted = Sorted::default();
        for found in records {
            sorted.add(found)?;
        }
        sorted.drop_answered_requests();
        sorted.drop_sent_deferred();
        let Sorted {
            session,
            offer,
            root,
            requests,
            answers,
            taken,
            handles,
            opened,
            locks,
            owners,
            data,
            deferred,
            failures,
            mut replaced,
        } = sorted;
        let (session_slot, (session, format)) = session.ok_or(Damaged::Missing("its session"))?;
        let (offer_slot, offer) = offer.ok_or(Damaged::Missing("what the kernel offers"))?;
        let (root_slot, root) = root.ok_or(Damaged::Missing("its root"))?;
        let mut inodes: BTreeMap<InodeNumber, Restored> = BTreeMap::new();
        let mut state = State {
            session: Some(session_slot),
            kernel: Some(offer_slot),
            root: Some(root_slot),
            ..State::default()
        };
        let opened_by: HashSet<u64> = handles.values().map(|(_, open)| open.call).collect();
        // What was opened for a request of the kernel without a handle: whoever gets that request again counts it.
        let counted_later = |call: u64, early: bool| call != 0 && !early && !opened_by.contains(&call);
        for (slot, inode) in opened {
            state.opened.entry(inode).or_default().push(slot);
            let restored = inodes.entry(inode).or_default();
            restored.opens_replied += 1;
            restored.opens_sent += 1;
        }
        let mut pending = HashMap::new();
        for (slot, call) in taken {
            pending.insert(call, Pending::Taken);
            state.calls.entry(call).or_default().push(slot);
        }
        for (call, (slot, (_, _, result))) in answers {
            if let Ok(Reply::Created { attributes, .. }) = &result
                && counted_later(call, false)
                && let Some(restored) = inodes.get_mut(&attributes.inode)
            {
                restored.opens_sent = restored.opens_sent.saturating_sub(1);
            }
            pending.insert(call, Pending::Answered(result));
            state.calls.entry(call).or_default().push(slot);
        }
        let commits = committing(&requests);
        let mut early = Vec::new();
        let mut releases: Vec<InodeNumber> = Vec::new();
        let mut unanswered: BTreeMap<u64, UnansweredRequest> = BTreeMap::new();
        for cell in &numbers {
            if *cell != 0 && cell & ANSWERED == 0 {
                let number = RequestNumber(cell >> 1);
                let request = UnansweredRequest {
                    number,
                    request: None,
                    early: false,
                };
                unanswered.insert(number.0, request);
            }
        }
        let mut highest = numbers.iter().map(|cell| cell >> 1).max().unwrap_or(0);
        for (number, (slot, request)) in requests {
            highest = highest.max(number);
            state.requests.insert(number, (slot, request.call));
            match &request.operation {
                Operation::Open { inode, .. } if !counted_later(request.call, request.early) => {
                    inodes.entry(*inode).or_default().opens_sent += 1;
                }
                Operation::Create { new, .. } if request.early => {
                    inodes.entry(new.inode).or_default().opens_sent += 1;
                }
                Operation::Release { inode } => releases.push(*inode),
                _ => {}
            }
            if request.early {
                for inode in &request.note.concerned {
                    inodes.entry(*inode).or_default().early += 1;
                }
                early.push((request.number, request.note.concerned));
            }
            if request.call != 0 {
                pending.insert(request.call, Pending::Asked(request.number));
                state.calls.entry(request.call).or_default();
            }
            unanswered.insert(
                number,
                UnansweredRequest {
                    number: request.number,
                    request: Some((request.caller, request.operation)),
                    early: request.early,
                },
            );
        }
        for inode in releases {
            let restored = inodes.entry(inode).or_default();
            restored.opens_sent = restored.opens_sent.saturating_sub(1);
        }
        let mut last_write = 0;
        for (number, (slot, part, data)) in data {
            last_write = number;
            pending.entry(data.call).or_insert(Pending::Taken);
            let (start, end) = (data.offset + u64::from(part.0), data.offset + u64::from(part.1));
            let taken = commits.get(&data.inode).into_iter().flatten();
            let taken = taken
                .filter(|(.., bound)| *bound >= number)
                .map(|(from, to, _)| (*from, *to));
            let left = remaining((start, end), taken);
            let (Some(first), Some(last)) = (left.first(), left.last()) else {
                // A commit under way has it.
                let taken = self.put(kind::TAKEN, &encode(&data.call));
                state.calls.entry(data.call).or_default().extend(taken);
                replaced.push(slot);
                continue;
            };
            let write = Write {
                number,
                slot,
                offset: data.offset,
                start: first.0,
                end: last.1,
                call: data.call,
            };
            if (write.start, write.end) != (start, end) {
                self.store
                    .set_part(slot, write.part())
                    .map_err(Damaged::Unreadable)?;
            }
            state.written_bytes += write.end - write.start;
            state.writes.entry(data.inode).or_default().add(write, u64::MAX);
            let restored = inodes.entry(data.inode).or_default();
            for (from, to) in left {
                let content: Bytes = data
                    .content
                    .slice(index(from - data.offset)..index(to - data.offset));
                restored.data.push(Data {
                    offset: from,
                    content,
                    ..data.clone()
                });
            }
        }
        for (inode, (slot, change)) in deferred {
            state.deferred.insert(inode, slot);
            inodes.entry(inode).or_default().deferred = Some(change);
        }
        for (inode, (slot, errno)) in failures {
            state.failures.insert(inode, slot);
            inodes.entry(inode).or_default().failure = Some(errno);
        }
        let mut generation = 1;
        let mut open = Vec::with_capacity(handles.len());
        for (handle, (slot, found)) in handles {
            generation = generation.max(handle >> 40);
            state.handles.insert(handle, slot);
            if found.flags.is_some() {
                inodes.entry(found.inode).or_default();
            }
            open.push(found);
        }
        let mut held = Vec::with_capacity(locks.len());
        for (inode, (slot, locks)) in locks {
            state.locks.insert(inode, slot);
            held.push((inode, locks));
        }
        state
            .owners
            .extend(owners.iter().map(|(owner, slot)| (*owner, *slot)));
        forget_oldest(&mut state, &mut pending, &mut replaced);
        self.next_write = (last_write + 1).into();
        self.generation = generation + 1;
        *self
            .state
            .get_mut()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = state;
        for slot in replaced {
            self.remove(slot);
        }
        Ok(Legacy {
            offer,
            root,
            resumption: Resumption {
                session,
                seen: (Epoch(seen.0), Position(seen.1)),
                format,
                next: RequestNumber(highest + 1),
                requests: unanswered.into_values().collect(),
            },
            pending,
            handles: open,
            inodes,
            early,
            locks: held,
            owners: owners.into_keys().collect(),
        })
    }
}

/// Requests of the kernel that were answered just before the end do not come again. Of those nobody can tell.
fn forget_oldest(state: &mut State, pending: &mut HashMap<u64, Pending>, removed: &mut Vec<Slot>) {
    let mut calls: Vec<u64> = state.calls.keys().copied().collect();
    calls.sort_unstable();
    let excess = calls.len().saturating_sub(PENDING_MAX);
    for call in calls.into_iter().take(excess) {
        removed.extend(state.calls.remove(&call).into_iter().flatten());
        pending.remove(&call);
    }
}

fn index(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
