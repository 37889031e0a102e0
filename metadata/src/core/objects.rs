//! Objects: which extents name them, where they are, and what buckets are owed because of that.
//!
//! # States
//!
//! Live while an extent names the object; dead, in `G`, when none does; deleting once buckets are told (`garbage`), then
//! gone. A commit may name a dead object again, a deleting one never.
//!
//! # Invariants
//!
//! * What becomes of an object is decided once, at the end of an operation, from what it was and what it is: within an
//!   operation its live bytes may pass through 0.
//! * If the volume has a target, a live object has a row in `R` and `W` for exactly the sides that it is not present on:
//!   also while replication is switched off, so that the lag stays true and switching it on needs no search.
//! * Neither dead nor deleting objects are owed to anyone.
//! * A live object of which extents name at most half has a row in `K`. Every file that names an object has its number within the
//!   object's `named_by`: so compaction finds those files without an index that every commit would have to keep.
//! * A row in `R` stands at the oldest position whose state needs the object, so that a watermark never passes it.

use twinshore_protocol::operation::NewObject;
use twinshore_protocol::{Errno, InodeNumber, ObjectId, Position, Side, Sides, Timestamp};

use super::keys;
use super::transaction::{Attempt, Transaction, corrupt};
use super::values::{DeadRow, InodeSpan, Life, ObjectRow, OwedRow};

/// An object during an operation.
pub(super) struct ObjectState {
    pub(super) row: Option<ObjectRow>,
    pub(super) original: Option<ObjectRow>,
    /// What is owed has to be compared with the rows there are, although nothing of the object has changed. What turns
    /// out to be owed is so since this time.
    recheck: Option<Timestamp>,
}

impl Transaction<'_> {
    fn object_state(&mut self, id: ObjectId) -> Attempt<&mut ObjectState> {
        if !self.objects.contains_key(&id) {
            let row = self.get(&keys::object(id))?;
            self.objects.insert(
                id,
                ObjectState {
                    row,
                    original: row,
                    recheck: None,
                },
            );
        }
        self.objects
            .get_mut(&id)
            .ok_or_else(|| corrupt(&keys::object(id), "not loaded").into())
    }

    /// An object, if metadata knows it.
    pub(super) fn object(&mut self, id: ObjectId) -> Attempt<Option<ObjectRow>> {
        Ok(self.object_state(id)?.row)
    }

    /// Writes an object, or removes it.
    pub(super) fn set_object(&mut self, id: ObjectId, row: Option<ObjectRow>) -> Attempt<()> {
        self.object_state(id)?.row = row;
        Ok(())
    }

    /// Has what is owed of an object compared with the rows there are.
    pub(super) fn recheck_object(&mut self, id: ObjectId, since: Timestamp) -> Attempt<()> {
        self.object_state(id)?.recheck = Some(since);
        Ok(())
    }

    /// Registers a stored object. The same again is harmless: only where it is can be news.
    pub(super) fn register_object(&mut self, new: &NewObject) -> Attempt<()> {
        let has_target = self.format()?.settings.target.is_some();
        let allowed = if has_target {
            Sides::BOTH
        } else {
            Sides::only(Side::Primary)
        };
        if new.present.is_empty() || new.present.iter().any(|side| !allowed.contains(side)) {
            return Err(Errno::Invalid.into());
        }
        if let Some(mut known) = self.object(new.object)? {
            let same = known.stored_bytes == new.stored_bytes
                && known.content_bytes == new.content_bytes
                && known.checksum == new.checksum;
            if !same || known.life == Life::Deleting {
                return Err(Errno::Invalid.into());
            }
            known.present = new.present.iter().fold(known.present, Sides::with);
            return self.set_object(new.object, Some(known));
        }
        self.require_granted_object(new.object)?;
        let position = self.context.position;
        let row = ObjectRow {
            stored_bytes: new.stored_bytes,
            content_bytes: new.content_bytes,
            checksum: new.checksum,
            present: new.present,
            live_bytes: 0,
            position,
            life: Life::Live,
            registered: position,
            named_by: None,
        };
        self.set_object(new.object, Some(row))
    }

    /// `EINVAL` unless a new extent may name this part of the object.
    pub(super) fn require_object(&mut self, id: ObjectId, offset: u64, length: u64) -> Attempt<()> {
        let row = self.object(id)?.ok_or(Errno::Invalid)?;
        let end = offset.checked_add(length).ok_or(Errno::Invalid)?;
        if end > row.content_bytes || row.life == Life::Deleting {
            return Err(Errno::Invalid.into());
        }
        Ok(())
    }

    /// An extent more, of this file, names so many bytes of an object.
    pub(super) fn name_object(&mut self, id: ObjectId, inode: InodeNumber, bytes: u64) -> Attempt<()> {
        let key = keys::object(id);
        let row = self
            .object_state(id)?
            .row
            .as_mut()
            .ok_or_else(|| corrupt(&key, "an extent names an unknown object"))?;
        row.live_bytes += bytes;
        row.named_by = Some(InodeSpan::with(row.named_by, inode));
        Ok(())
    }

    /// An extent less names so many bytes of an object.
    pub(super) fn forget_object(&mut self, id: ObjectId, bytes: u64) -> Attempt<()> {
        let key = keys::object(id);
        let row = self
            .object_state(id)?
            .row
            .as_mut()
            .ok_or_else(|| corrupt(&key, "an extent names an unknown object"))?;
        row.live_bytes = row
            .live_bytes
            .checked_sub(bytes)
            .ok_or_else(|| corrupt(&key, "more bytes are forgotten than were named"))?;
        Ok(())
    }

    /// The object is needed by the state at an older position.
    pub(super) fn date_object_back(&mut self, id: ObjectId, position: Position) -> Attempt<()> {
        let state = self.object_state(id)?;
        // One that is known already has its rows at its position; the state of that moment needed it then.
        if state.original.is_none()
            && let Some(row) = &mut state.row
        {
            row.position = row.position.min(position);
        }
        Ok(())
    }

    /// Draws the consequences, at the end of an operation.
    pub(super) fn settle_objects(&mut self) -> Attempt<()> {
        let touched: Vec<_> = (self.objects.iter())
            .filter(|(_, state)| state.recheck.is_some() || state.row != state.original)
            .map(|(id, state)| {
                (
                    *id,
                    state.original,
                    state.row,
                    state.recheck.unwrap_or(self.context.now),
                )
            })
            .collect();
        for (id, original, row, since) in touched {
            if let Some(row) = row {
                self.settle_object(id, original, row, since)?;
            }
        }
        Ok(())
    }

    fn settle_object(
        &mut self,
        id: ObjectId,
        original: Option<ObjectRow>,
        mut row: ObjectRow,
        since: Timestamp,
    ) -> Attempt<()> {
        let was_live = original.is_some_and(|original| original.life == Life::Live);
        let is_live = row.live_bytes > 0;
        match (was_live, is_live) {
            (false, true) => {
                if let Life::Dead(position) = row.life {
                    self.remove(keys::dead(position, id));
                    // What named it before is gone: it is needed from now on.
                    row.position = self.context.position;
                    row.life = Life::Live;
                }
                let tally = &mut self.totals()?.objects;
                tally.count += 1;
                tally.bytes += row.stored_bytes;
            }
            (true, false) => {
                let tally = &mut self.totals()?.objects;
                tally.count = tally.count.saturating_sub(1);
                tally.bytes = tally.bytes.saturating_sub(row.stored_bytes);
                self.bury(id, &mut row);
            }
            (false, false) if row.life == Life::Live => self.bury(id, &mut row),
            (true, true) | (false, false) => {}
        }
        self.settle_sparse(id, original.as_ref(), &row)?;
        self.settle_owed(id, &row, since)?;
        self.set_object(id, Some(row))
    }

    fn settle_sparse(&mut self, id: ObjectId, original: Option<&ObjectRow>, row: &ObjectRow) -> Attempt<()> {
        let was = original.map_or(0, ObjectRow::sparse_bytes);
        let is = row.sparse_bytes();
        if was == is {
            return Ok(());
        }
        match (was > 0, is > 0) {
            (false, true) => self.mark(keys::sparse(id)),
            (true, false) => self.remove(keys::sparse(id)),
            (true, true) | (false, false) => {}
        }
        let tally = &mut self.totals()?.sparse;
        tally.count = tally.count + u64::from(is > 0) - u64::from(was > 0).min(tally.count);
        tally.bytes = (tally.bytes + is).saturating_sub(was);
        Ok(())
    }

    fn bury(&mut self, id: ObjectId, row: &mut ObjectRow) {
        let position = self.context.position;
        row.life = Life::Dead(position);
        self.put(
            keys::dead(position, id),
            &DeadRow {
                since: self.context.now,
            },
        );
    }

    fn settle_owed(&mut self, id: ObjectId, row: &ObjectRow, since: Timestamp) -> Attempt<()> {
        let has_target = self.format()?.settings.target.is_some();
        for side in Side::BOTH {
            let wanted = has_target && row.life == Life::Live && !row.present.contains(side);
            let reverse = keys::owed_position(side, id);
            let stands: Option<Position> = self.get(&reverse)?;
            match (wanted, stands) {
                (true, None) => {
                    let (stored_bytes, checksum) = (row.stored_bytes, row.checksum);
                    let owed = OwedRow {
                        stored_bytes,
                        checksum,
                        since,
                        quarantined: false,
                    };
                    self.put(keys::owed(side, row.position, id), &owed);
                    self.put(reverse, &row.position);
                    let tally = &mut self.totals()?.owed[side as usize];
                    tally.count += 1;
                    tally.bytes += stored_bytes;
                }
                (false, Some(position)) => {
                    self.remove(keys::owed(side, position, id));
                    self.remove(reverse);
                    self.remove(keys::quarantine(side, id));
                    let tally = &mut self.totals()?.owed[side as usize];
                    tally.count = tally.count.saturating_sub(1);
                    tally.bytes = tally.bytes.saturating_sub(row.stored_bytes);
                }
                (true, Some(_)) | (false, None) => {}
            }
        }
        Ok(())
    }
}
