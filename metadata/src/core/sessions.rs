//! Sessions and the numbers that they give to new inodes and objects.
//!
//! # Invariants
//!
//! * A number is granted once: the counters only grow. Numbers of a session that is over are lost, never granted again.
//! * An object's name is its number and the epoch of the grant, so that names stay unique after a restore from an older
//!   checkpoint, which turns the counters back but starts a higher epoch.

use twinshore_protocol::identifiers::NumberRange;
use twinshore_protocol::message::{REQUEST_WINDOW, Role, SessionDescription};
use twinshore_protocol::{Epoch, Errno, InodeNumber, ObjectId, Reply, SessionId, Side};

use super::keys;
use super::transaction::{Attempt, Transaction, corrupt};
use super::values::{CountersRow, ObjectRange, SessionRow};

/// Inode numbers in one grant: some seconds of creating files at full speed.
pub const INODES_PER_GRANT: u64 = 16_384;

/// Object numbers in one grant.
pub const OBJECTS_PER_GRANT: u64 = 4_096;

/// How many ranges of each kind a session keeps; the oldest goes. A client asks for more when its last range runs out, so
/// it uses two at a time; the rest is for requests that were under way. Adjacent ranges count as one.
const RANGES_MAX: usize = 64;

fn extend(ranges: &mut Vec<NumberRange>, new: NumberRange) {
    match ranges.last_mut() {
        Some(last) if last.end == new.start => last.end = new.end,
        _ => ranges.push(new),
    }
    if ranges.len() > RANGES_MAX {
        ranges.remove(0);
    }
}

impl Transaction<'_> {
    fn session(&self) -> Attempt<SessionRow> {
        Ok(self
            .get(&keys::session(self.context.session))?
            .ok_or(Errno::Invalid)?)
    }

    /// `EINVAL` unless the inode number is one of the session's and not in use.
    pub(super) fn require_new_inode(&mut self, inode: InodeNumber) -> Attempt<()> {
        let granted = self.session()?.inodes.iter().any(|range| range.contains(inode.0));
        if !granted || self.any_inode(inode)?.is_some() {
            return Err(Errno::Invalid.into());
        }
        Ok(())
    }

    /// `EINVAL` unless the object's name is one of the session's.
    pub(super) fn require_granted_object(&mut self, id: ObjectId) -> Attempt<()> {
        let ranges = self.session()?.objects;
        let granted = ranges
            .iter()
            .any(|range| range.epoch == id.epoch && range.numbers.contains(id.number));
        if granted {
            Ok(())
        } else {
            Err(Errno::Invalid.into())
        }
    }

    /// Grants more numbers to a session.
    fn grant(&mut self, mut row: SessionRow) -> Attempt<Reply> {
        let mut counters: CountersRow = self
            .get(keys::COUNTERS)?
            .ok_or_else(|| corrupt(keys::COUNTERS, "there is no volume"))?;
        let inodes = NumberRange {
            start: counters.next_inode,
            end: counters.next_inode + INODES_PER_GRANT,
        };
        let objects = NumberRange {
            start: counters.next_object,
            end: counters.next_object + OBJECTS_PER_GRANT,
        };
        counters = CountersRow {
            next_inode: inodes.end,
            next_object: objects.end,
        };
        self.put(bytes::Bytes::from_static(keys::COUNTERS), &counters);

        extend(&mut row.inodes, inodes);
        let epoch: Epoch = self.context.epoch;
        match row.objects.last_mut() {
            Some(last) if last.epoch == epoch && last.numbers.end == objects.start => {
                last.numbers.end = objects.end;
            }
            _ => row.objects.push(ObjectRange {
                epoch,
                numbers: objects,
            }),
        }
        if row.objects.len() > RANGES_MAX {
            row.objects.remove(0);
        }
        self.put(keys::session(row.session), &row);
        Ok(Reply::Granted { inodes, objects })
    }

    /// `GrantNumbers`.
    pub(super) fn grant_numbers(&mut self) -> Attempt<Reply> {
        let row = self.session()?;
        self.grant(row)
    }

    /// A session begins.
    pub(super) fn open_session(
        &mut self,
        session: SessionId,
        role: Role,
        near: Side,
        description: &SessionDescription,
    ) -> Attempt<Reply> {
        if self.exists(&keys::session(session))? {
            return Err(Errno::Exists.into());
        }
        let description = description.clone();
        self.grant(SessionRow {
            session,
            role,
            near,
            description,
            inodes: Vec::new(),
            objects: Vec::new(),
        })
    }

    /// A session is over.
    pub(super) fn close_session(&mut self, session: SessionId) -> Attempt<Reply> {
        let slots = usize::try_from(REQUEST_WINDOW).unwrap_or(usize::MAX);
        for (key, _) in self.scan_prefix(&keys::of(keys::RESULT, session.0), slots)? {
            self.remove(key);
        }
        let key = keys::session(session);
        if self.exists(&key)? {
            self.remove(key);
        }
        Ok(Reply::Done)
    }
}
