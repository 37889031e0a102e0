//! Advisory locks: `fcntl` record locks and `flock`, with queues.
//!
//! A pure table. An owner is a session and a number that is unique within it. Ranges of one owner are split and merged as
//! POSIX asks: a new lock replaces what the owner held in its range. A request that has to wait stands in a first-in,
//! first-out queue of its file; whenever something is given back, the queue is walked in order and what is free is granted.
//!
//! A waiting record lock that would close a circle of owners waiting for each other is refused (`EDEADLK`), over all
//! files. `flock` has no such rule on Linux, so it has none here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use twinshore_protocol::lock::{Lock, LockFamily, LockKind};
use twinshore_protocol::{InodeNumber, RequestNumber, SessionId};

#[cfg(test)]
mod tests;

/// Held ranges and waiting requests of one session at most: a bound on memory.
pub const LOCKS_PER_SESSION_MAX: usize = 1 << 16;

/// Who holds or wants a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// The session.
    pub session: SessionId,
    /// The owner within it.
    pub owner: u64,
}

/// A request that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// The session that asked.
    pub session: SessionId,
    /// Its request, to be answered later.
    pub number: RequestNumber,
    /// What it wants.
    pub lock: Lock,
}

impl Waiter {
    const fn owner(&self) -> Owner {
        Owner {
            session: self.session,
            owner: self.lock.owner,
        }
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOutcome {
    /// Done.
    Granted,
    /// Another owner is in the way, and the request did not want to wait.
    Conflict,
    /// It stands in the queue.
    Waiting,
    /// Waiting would never end.
    Deadlock,
    /// The session has too many locks.
    TooMany,
    /// The range makes no sense.
    Invalid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    owner: Owner,
    process: u32,
    write: bool,
    start: u64,
    /// Inclusive.
    end: u64,
}

#[derive(Debug, Default)]
struct FileLocks {
    held: Vec<Held>,
    queue: VecDeque<Waiter>,
}

/// All locks of the volume.
#[derive(Debug, Default)]
pub struct Locks {
    files: BTreeMap<(InodeNumber, LockFamily), FileLocks>,
    /// Where each session has locks or waits, with the number of ranges and requests.
    by_session: BTreeMap<SessionId, BTreeMap<(InodeNumber, LockFamily), usize>>,
}

impl Locks {
    /// Held ranges and waiting requests of all sessions.
    pub fn count_all(&self) -> usize {
        self.by_session.values().flat_map(BTreeMap::values).sum()
    }

    /// The first lock in the way of this one (`F_GETLK`).
    pub fn conflict(&self, inode: InodeNumber, session: SessionId, lock: &Lock) -> Option<Lock> {
        let owner = Owner {
            session,
            owner: lock.owner,
        };
        let file = self.files.get(&(inode, lock.family))?;
        let in_the_way = conflicts(&file.held, owner, lock).min_by_key(|held| held.start)?;
        Some(Lock {
            family: lock.family,
            kind: if in_the_way.write {
                LockKind::Write
            } else {
                LockKind::Read
            },
            start: in_the_way.start,
            end: in_the_way.end,
            owner: in_the_way.owner.owner,
            process: in_the_way.process,
        })
    }

    /// Takes, changes or gives back a lock. Requests that are granted by that are added to `granted`.
    pub fn set(
        &mut self,
        inode: InodeNumber,
        waiter: Waiter,
        wait: bool,
        granted: &mut Vec<Waiter>,
    ) -> SetOutcome {
        let Waiter { session, lock, .. } = waiter;
        if lock.start > lock.end {
            return SetOutcome::Invalid;
        }
        let owner = waiter.owner();
        let key = (inode, lock.family);
        if lock.kind != LockKind::Unlock {
            let used: usize = self
                .by_session
                .get(&session)
                .map_or(0, |files| files.values().sum());
            if used >= LOCKS_PER_SESSION_MAX {
                return SetOutcome::TooMany;
            }
            let blocked = self
                .files
                .get(&key)
                .is_some_and(|file| conflicts(&file.held, owner, &lock).next().is_some());
            if blocked && !wait {
                return SetOutcome::Conflict;
            }
            if blocked {
                if lock.family == LockFamily::Record && self.would_deadlock(inode, owner, &lock) {
                    return SetOutcome::Deadlock;
                }
                self.files.entry(key).or_default().queue.push_back(waiter);
                self.recount(key, session);
                return SetOutcome::Waiting;
            }
        }
        let file = self.files.entry(key).or_default();
        place(&mut file.held, owner, &lock);
        self.grant_waiting(key, granted);
        self.recount(key, session);
        self.forget_if_empty(key);
        SetOutcome::Granted
    }

    /// Takes the waiting requests of an owner out of the queues of a file.
    pub fn cancel(&mut self, inode: InodeNumber, owner: Owner) -> Vec<Waiter> {
        let mut cancelled = Vec::new();
        for family in [LockFamily::Record, LockFamily::Flock] {
            let key = (inode, family);
            if let Some(file) = self.files.get_mut(&key) {
                file.queue.retain(|waiter| {
                    let stays = waiter.owner() != owner;
                    if !stays {
                        cancelled.push(*waiter);
                    }
                    stays
                });
                self.recount(key, owner.session);
                self.forget_if_empty(key);
            }
        }
        cancelled
    }

    /// Takes the waiting requests of a session out of all queues, and answers their numbers.
    pub fn withdraw(&mut self, session: SessionId) -> Vec<RequestNumber> {
        let keys: Vec<_> = self
            .by_session
            .get(&session)
            .map(|files| files.keys().copied().collect())
            .unwrap_or_default();
        let mut withdrawn = Vec::new();
        for key in keys {
            if let Some(file) = self.files.get_mut(&key) {
                file.queue.retain(|waiter| {
                    let stays = waiter.session != session;
                    if !stays {
                        withdrawn.push(waiter.number);
                    }
                    stays
                });
            }
            self.recount(key, session);
            self.forget_if_empty(key);
        }
        withdrawn
    }

    /// Exchanges what a session holds for what it claims to hold. Claims that exclude locks of others are dropped and
    /// counted. What others get by that is added to `granted`.
    pub fn reclaim(
        &mut self,
        session: SessionId,
        claims: &[(InodeNumber, Lock)],
        granted: &mut Vec<Waiter>,
    ) -> usize {
        let mut keys: BTreeSet<_> = self
            .by_session
            .get(&session)
            .map(|files| files.keys().copied().collect())
            .unwrap_or_default();
        for key in &keys {
            if let Some(file) = self.files.get_mut(key) {
                file.held.retain(|held| held.owner.session != session);
            }
        }
        let mut dropped = 0;
        // Claims come before waiting requests of others: they are older.
        for (inode, lock) in claims.iter().take(LOCKS_PER_SESSION_MAX) {
            let owner = Owner {
                session,
                owner: lock.owner,
            };
            let file = self.files.entry((*inode, lock.family)).or_default();
            keys.insert((*inode, lock.family));
            if lock.start > lock.end || conflicts(&file.held, owner, lock).next().is_some() {
                dropped += 1;
            } else {
                place(&mut file.held, owner, lock);
            }
        }
        for key in keys {
            self.grant_waiting(key, granted);
            self.recount(key, session);
            self.forget_if_empty(key);
        }
        dropped
    }

    /// Gives back what a session holds, and takes its waiting requests away. What others get by that is added to `granted`.
    pub fn release_session(&mut self, session: SessionId, granted: &mut Vec<Waiter>) {
        let keys: Vec<_> = self
            .by_session
            .get(&session)
            .map(|files| files.keys().copied().collect())
            .unwrap_or_default();
        for key in keys {
            if let Some(file) = self.files.get_mut(&key) {
                file.held.retain(|held| held.owner.session != session);
                file.queue.retain(|waiter| waiter.session != session);
            }
            self.grant_waiting(key, granted);
            self.recount(key, session);
            self.forget_if_empty(key);
        }
    }

    /// Walks the queue of a file in order and grants what is free.
    fn grant_waiting(&mut self, key: (InodeNumber, LockFamily), granted: &mut Vec<Waiter>) {
        let Some(file) = self.files.get_mut(&key) else {
            return;
        };
        let mut changed = BTreeSet::new();
        let mut index = 0;
        while let Some(waiter) = file.queue.get(index).copied() {
            if conflicts(&file.held, waiter.owner(), &waiter.lock)
                .next()
                .is_some()
            {
                index += 1;
                continue;
            }
            file.queue.remove(index);
            place(&mut file.held, waiter.owner(), &waiter.lock);
            granted.push(waiter);
            changed.insert(waiter.session);
            // A write lock that became a read lock may free what stands before.
            index = 0;
        }
        for session in changed {
            self.recount(key, session);
        }
    }

    /// Would the owner wait, over any number of others, for itself?
    fn would_deadlock(&self, inode: InodeNumber, owner: Owner, lock: &Lock) -> bool {
        let blockers = |inode: InodeNumber, owner: Owner, lock: &Lock| -> Vec<Owner> {
            let file = self.files.get(&(inode, lock.family));
            file.into_iter()
                .flat_map(|file| conflicts(&file.held, owner, lock))
                .map(|held| held.owner)
                .collect()
        };
        let mut seen = BTreeSet::new();
        let mut open = blockers(inode, owner, lock);
        while let Some(next) = open.pop() {
            if next == owner {
                return true;
            }
            if !seen.insert(next) {
                continue;
            }
            let places = self.by_session.get(&next.session);
            for key in places
                .into_iter()
                .flat_map(BTreeMap::keys)
                .filter(|key| key.1 == LockFamily::Record)
            {
                let queue = self.files.get(key).into_iter().flat_map(|file| file.queue.iter());
                for waiter in queue.filter(|waiter| waiter.owner() == next) {
                    open.extend(blockers(key.0, next, &waiter.lock));
                }
            }
        }
        false
    }

    fn recount(&mut self, key: (InodeNumber, LockFamily), session: SessionId) {
        let count = self.files.get(&key).map_or(0, |file| {
            file.held
                .iter()
                .filter(|held| held.owner.session == session)
                .count()
                + file
                    .queue
                    .iter()
                    .filter(|waiter| waiter.session == session)
                    .count()
        });
        let files = self.by_session.entry(session).or_default();
        if count == 0 {
            files.remove(&key);
            if files.is_empty() {
                self.by_session.remove(&session);
            }
        } else {
            files.insert(key, count);
        }
    }

    fn forget_if_empty(&mut self, key: (InodeNumber, LockFamily)) {
        if self
            .files
            .get(&key)
            .is_some_and(|file| file.held.is_empty() && file.queue.is_empty())
        {
            self.files.remove(&key);
        }
    }
}

/// The locks of others that exclude this one.
fn conflicts<'a>(held: &'a [Held], owner: Owner, lock: &'a Lock) -> impl Iterator<Item = &'a Held> {
    held.iter().filter(move |held| {
        held.owner != owner
            && held.start <= lock.end
            && lock.start <= held.end
            && (held.write || lock.kind == LockKind::Write)
    })
}

/// Replaces what the owner holds in the range, and joins what touches.
fn place(held: &mut Vec<Held>, owner: Owner, lock: &Lock) {
    let mut kept = Vec::with_capacity(held.len() + 1);
    for old in held.drain(..) {
        if old.owner != owner || old.end < lock.start || lock.end < old.start {
            kept.push(old);
            continue;
        }
        if old.start < lock.start {
            kept.push(Held {
                end: lock.start - 1,
                ..old
            });
        }
        if old.end > lock.end {
            kept.push(Held {
                start: lock.end + 1,
                ..old
            });
        }
    }
    if lock.kind != LockKind::Unlock {
        let mut new = Held {
            owner,
            process: lock.process,
            write: lock.kind == LockKind::Write,
            start: lock.start,
            end: lock.end,
        };
        kept.retain(|old| {
            let touches = old.owner == owner
                && old.write == new.write
                && (old.end.checked_add(1) == Some(new.start) || new.end.checked_add(1) == Some(old.start));
            if touches {
                new.start = new.start.min(old.start);
                new.end = new.end.max(old.end);
            }
            !touches
        });
        kept.push(new);
    }
    *held = kept;
}
