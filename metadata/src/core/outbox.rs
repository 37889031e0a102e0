//! What buckets are owed: copies, deletions, and the watermark that follows from them.
//!
//! # Guarantees
//!
//! * [`watermark`] never overstates: everything that the state at that position needs is on the side, whatever was
//!   quarantined, is only inline, or has not been looked at yet after the target has changed.
//! * A copy that cannot be made stays owed. It is only not handed out for [`QUARANTINE_SECONDS`].
//! * What [`pending_deletions`] names is named by no extent, and never will be.

use twinshore_protocol::format::VolumeFormat;
use twinshore_protocol::replication::{CopyReport, SynchronisationReport, TaskOutcome};
use twinshore_protocol::{ObjectId, Position, Reply, Side, Timestamp};

use super::keys::{self, KeyReader};
use super::transaction::{Attempt, Transaction, corrupt, decode, read};
use super::values::{BackfillRow, InlineRow, Life, OwedRow, QuarantineRow, SynchronisationRow, TotalsRow};
use super::{CoreError, volume};
use crate::view::View;

/// How long a copy that failed for lack of a good source is not tried again: long enough not to fill the logs, short
/// enough that a repaired bucket heals within a coffee.
pub const QUARANTINE_SECONDS: i64 = 600;

/// How many quarantined rows a search for work passes at most before it returns what it has.
const PASS_MAX: usize = 1 << 16;

/// A copy that is owed and may be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwedCopy {
    /// The position that it holds the watermark at.
    pub position: Position,
    /// The object.
    pub object: ObjectId,
    /// Bytes in the bucket.
    pub stored_bytes: u64,
    /// CRC-32C of them.
    pub checksum: u32,
    /// Since when it is owed.
    pub since: Timestamp,
}

/// Sums of what a side is owed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Objects, and inline extents that are in none.
    pub objects: u64,
    /// Bytes of both.
    pub bytes: u64,
    /// Since when the oldest is owed.
    pub oldest: Option<Timestamp>,
}

fn owed_key(key: &[u8]) -> Result<(Position, ObjectId), CoreError> {
    let mut reader = KeyReader::new(key);
    match (reader.side(), reader.number(), reader.object()) {
        (Some(_), Some(position), Some(object)) => Ok((Position(position), object)),
        _ => Err(corrupt(key, "malformed key")),
    }
}

fn side_key(key: &[u8]) -> Result<ObjectId, CoreError> {
    let mut reader = KeyReader::new(key);
    match (reader.side(), reader.object()) {
        (Some(_), Some(object)) => Ok(object),
        _ => Err(corrupt(key, "malformed key")),
    }
}

fn format(view: &dyn View) -> Result<Option<VolumeFormat>, CoreError> {
    volume::format(view)
}

/// Copies owed to a side, oldest first, after a given one, at most `limit`: nothing while replication is switched off.
pub fn pending(
    view: &dyn View,
    side: Side,
    after: Option<(Position, ObjectId)>,
    limit: usize,
) -> Result<Vec<OwedCopy>, CoreError> {
    let settings = format(view)?.map(|format| format.settings);
    if !settings.is_some_and(|settings| settings.replication_enabled && settings.target.is_some()) {
        return Ok(Vec::new());
    }
    let prefix = keys::of_side(keys::OWED, side);
    let end = keys::after_prefix(&prefix);
    let mut start = after.map_or(prefix, |(position, object)| {
        keys::after(&keys::owed(side, position, object))
    });
    let mut copies = Vec::new();
    let mut passed = 0;
    while copies.len() < limit && passed < PASS_MAX {
        let asked = limit - copies.len();
        let rows = view.scan(&start, &end, asked)?;
        for (key, value) in &rows {
            let (position, object) = owed_key(key)?;
            let OwedRow {
                stored_bytes,
                checksum,
                since,
                quarantined,
            } = decode(key, value)?;
            if quarantined {
                passed += 1;
            } else {
                copies.push(OwedCopy {
                    position,
                    object,
                    stored_bytes,
                    checksum,
                    since,
                });
            }
        }
        match rows.last() {
            Some((last, _)) if rows.len() == asked => start = keys::after(last),
            _ => break,
        }
    }
    Ok(copies)
}

fn backfill(view: &dyn View) -> Result<Option<BackfillRow>, CoreError> {
    read(view, keys::BACKFILL)
}

/// The position up to which a side has everything, with `tail` the last position of the journal.
pub fn watermark(view: &dyn View, side: Side, tail: Position) -> Result<Position, CoreError> {
    if side == Side::Target && backfill(view)?.is_some() {
        return Ok(Position::ZERO);
    }
    let prefix = keys::of_side(keys::OWED, side);
    let mut first_owed: Option<Position> = None;
    if let Some((key, _)) = view.scan(&prefix, &keys::after_prefix(&prefix), 1)?.first() {
        first_owed = Some(owed_key(key)?.0);
    }
    if let Some((key, _)) = view.scan(&[keys::INLINE], &[keys::INLINE + 1], 1)?.first() {
        let position = KeyReader::new(key)
            .number()
            .ok_or_else(|| corrupt(key, "malformed key"))?;
        first_owed = Some(first_owed.map_or(Position(position), |first| first.min(Position(position))));
    }
    Ok(first_owed.map_or(tail, |first| Position(first.0.saturating_sub(1)).min(tail)))
}

/// Sums of what a side is owed. While the walk over all objects after a change of the target goes on, all of them count.
pub fn totals(view: &dyn View, side: Side) -> Result<Totals, CoreError> {
    let sums: TotalsRow = read(view, keys::TOTALS)?.unwrap_or_default();
    let mut owed = sums.owed[side as usize];
    let mut oldest: Option<Timestamp> = None;
    let mut note =
        |since: Timestamp| oldest = Some(oldest.map_or(since, |known: Timestamp| known.min(since)));
    let prefix = keys::of_side(keys::OWED, side);
    if let Some((key, value)) = view.scan(&prefix, &keys::after_prefix(&prefix), 1)?.first() {
        note(decode::<OwedRow>(key, value)?.since);
    }
    if let Some((key, value)) = view.scan(&[keys::INLINE], &[keys::INLINE + 1], 1)?.first() {
        note(decode::<InlineRow>(key, value)?.since);
    }
    if side == Side::Target
        && let Some(backfill) = backfill(view)?
    {
        note(backfill.since);
        owed.count = owed.count.max(sums.objects.count);
        owed.bytes = owed.bytes.max(sums.objects.bytes);
    }
    Ok(Totals {
        objects: owed.count + sums.inline.count,
        bytes: owed.bytes + sums.inline.bytes,
        oldest,
    })
}

/// Deletions owed to a side, at most `limit`.
pub fn pending_deletions(view: &dyn View, side: Side, limit: usize) -> Result<Vec<ObjectId>, CoreError> {
    let prefix = keys::of_side(keys::DELETION, side);
    let rows = view.scan(&prefix, &keys::after_prefix(&prefix), limit)?;
    rows.iter().map(|(key, _)| side_key(key)).collect()
}

/// How many deletions a side is owed.
pub fn deletions_owed(view: &dyn View, side: Side) -> Result<u64, CoreError> {
    let sums: TotalsRow = read(view, keys::TOTALS)?.unwrap_or_default();
    Ok(sums.deletions[side as usize])
}

/// Copies to a side that are set aside, with the reason, at most `limit`.
pub fn quarantined(view: &dyn View, side: Side, limit: usize) -> Result<Vec<(ObjectId, String)>, CoreError> {
    let prefix = keys::of_side(keys::QUARANTINE, side);
    let rows = view.scan(&prefix, &keys::after_prefix(&prefix), limit)?;
    rows.iter()
        .map(|(key, value)| Ok((side_key(key)?, decode::<QuarantineRow>(key, value)?.reason)))
        .collect()
}

impl Transaction<'_> {
    /// What became of tasks.
    pub(super) fn report_copies(&mut self, reports: &[CopyReport]) -> Attempt<Reply> {
        for CopyReport {
            object,
            side,
            deletion,
            outcome,
        } in reports
        {
            match (deletion, outcome) {
                (false, TaskOutcome::Done) => self.copy_done(*object, *side)?,
                (false, TaskOutcome::SourceMissing) => {
                    self.quarantine(*object, *side, "the other bucket does not have it")?;
                }
                (false, TaskOutcome::SourceDamaged) => {
                    self.quarantine(
                        *object,
                        *side,
                        "in the other bucket it does not match its checksum",
                    )?;
                }
                (true, TaskOutcome::Done) => self.deletion_done(*object, *side)?,
                // It stays owed; the service decides when to try again.
                (_, TaskOutcome::Failed { .. })
                | (true, TaskOutcome::SourceMissing | TaskOutcome::SourceDamaged) => {}
            }
        }
        Ok(Reply::Done)
    }

    fn copy_done(&mut self, id: ObjectId, side: Side) -> Attempt<()> {
        let Some(mut row) = self.object(id)? else {
            // It died, and was deleted, while it was copied. Nothing can name it again, as ids are never reused.
            return self.owe_deletion(id, side);
        };
        if side == Side::Target && self.format()?.settings.target.is_none() {
            // The target was removed meanwhile.
            return Ok(());
        }
        row.present = row.present.with(side);
        self.set_object(id, Some(row))?;
        if row.life == Life::Deleting {
            self.owe_deletion(id, side)
        } else {
            Ok(())
        }
    }

    /// A side has to delete an object.
    pub(super) fn owe_deletion(&mut self, id: ObjectId, side: Side) -> Attempt<()> {
        let key = keys::deletion(side, id);
        if !self.exists(&key)? {
            self.mark(key);
            self.totals()?.deletions[side as usize] += 1;
        }
        Ok(())
    }

    fn deletion_done(&mut self, id: ObjectId, side: Side) -> Attempt<()> {
        let key = keys::deletion(side, id);
        if !self.exists(&key)? {
            return Ok(());
        }
        self.drop_deletion(id, side)
    }

    /// A side has not to delete an object any more. With the last one the object is forgotten.
    pub(super) fn drop_deletion(&mut self, id: ObjectId, side: Side) -> Attempt<()> {
        self.remove(keys::deletion(side, id));
        let deletions = &mut self.totals()?.deletions[side as usize];
        *deletions = deletions.saturating_sub(1);
        let Some(mut row) = self.object(id)? else {
            return Ok(());
        };
        row.present = row.present.without(side);
        let last = !self.exists(&keys::deletion(side.other(), id))?;
        self.set_object(id, if last { None } else { Some(row) })
    }

    fn quarantine(&mut self, id: ObjectId, side: Side, reason: &str) -> Attempt<()> {
        let Some(position) = self.get::<Position>(&keys::owed_position(side, id))? else {
            return Ok(());
        };
        let key = keys::owed(side, position, id);
        let mut owed: OwedRow = self
            .get(&key)?
            .ok_or_else(|| corrupt(&key, "a copy is owed, but not listed"))?;
        owed.quarantined = true;
        self.put(key, &owed);
        let since = self.context.now;
        self.put(
            keys::quarantine(side, id),
            &QuarantineRow {
                reason: reason.into(),
                since,
            },
        );
        Ok(())
    }

    /// Hands copies out again that were set aside long enough ago. Tells how many.
    pub(super) fn release_quarantine(&mut self, limit: usize) -> Attempt<usize> {
        let mut released = 0;
        for (key, value) in self.scan(&[keys::QUARANTINE], &[keys::QUARANTINE + 1], limit)? {
            let row: QuarantineRow = decode(&key, &value)?;
            if row.since.plus_seconds(QUARANTINE_SECONDS) > self.context.now {
                continue;
            }
            let mut reader = KeyReader::new(&key);
            let (Some(side), Some(object)) = (reader.side(), reader.object()) else {
                return Err(corrupt(&key, "malformed key").into());
            };
            if let Some(position) = self.get::<Position>(&keys::owed_position(side, object))? {
                let owed_key = keys::owed(side, position, object);
                if let Some(owed) = self.get::<OwedRow>(&owed_key)? {
                    self.put(
                        owed_key,
                        &OwedRow {
                            quarantined: false,
                            ..owed
                        },
                    );
                }
            }
            self.remove(key);
            released += 1;
        }
        Ok(released)
    }

    /// Findings of a full synchronisation.
    pub(super) fn report_synchronisation(&mut self, report: &SynchronisationReport) -> Attempt<Reply> {
        let has_target = self.format()?.settings.target.is_some();
        for (found, pairs) in [(false, &report.absent), (true, &report.present)] {
            for (id, side) in pairs {
                let Some(mut row) = self.object(*id)? else {
                    continue;
                };
                if *side == Side::Target && !has_target {
                    continue;
                }
                row.present = if found {
                    row.present.with(*side)
                } else {
                    row.present.without(*side)
                };
                self.set_object(*id, Some(row))?;
                if found && row.life == Life::Deleting {
                    self.owe_deletion(*id, *side)?;
                }
            }
        }
        let mut row = self
            .get::<SynchronisationRow>(keys::SYNCHRONISATION)?
            .unwrap_or_default();
        row.counts = report.counts;
        row.running = !report.finished;
        row.checked_until = if report.finished {
            None
        } else {
            report.checked_until
        };
        if report.finished {
            row.finished = Some(self.context.now);
        }
        self.put(bytes::Bytes::from_static(keys::SYNCHRONISATION), &row);
        Ok(Reply::Done)
    }

    /// Asks for a full synchronisation. One that is running goes on.
    pub(super) fn request_synchronisation(&mut self) -> Attempt<Reply> {
        let before = self
            .get::<SynchronisationRow>(keys::SYNCHRONISATION)?
            .unwrap_or_default();
        if !before.running {
            let row = SynchronisationRow {
                running: true,
                finished: before.finished,
                ..SynchronisationRow::default()
            };
            self.put(bytes::Bytes::from_static(keys::SYNCHRONISATION), &row);
        }
        Ok(Reply::Done)
    }
}
