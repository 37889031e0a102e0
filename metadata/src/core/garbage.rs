//! The work in the background, piece by piece: what was removed leaves the metadata, then the buckets.
//!
//! # Invariant
//!
//! Nothing reachable is ever deleted: a row in `g` is made only for an object that no extent names, in the same step that
//! makes the object `Deleting`, after which no operation can name it.
//!
//! An object waits in `G` for [`COLLECT_AFTER_SECONDS`]: when it died, every session that had extents of it in its cache
//! was told before the change was answered, or lost its lease; the wait covers reads that were under way.
//!
//! It also waits until the archive in every bucket holds the record by which it died: whoever restores the volume from one of them
//! must not find a file that names an object which is gone. While a bucket does not answer, dead objects stay in both.

use twinshore_protocol::message::SESSION_SECONDS;
use twinshore_protocol::{InodeNumber, Position, Reply, Side, Sides, Timestamp};

use super::keys::{self, KeyReader};
use super::transaction::{Attempt, Transaction, corrupt, decode};
use super::trash::trash_key;
use super::values::{BackfillRow, DeadRow, Life};

/// How long a dead object stays in the buckets: as long as a silent session lives, which is far longer than its lease.
#[allow(clippy::cast_possible_wrap)] // A minute.
pub const COLLECT_AFTER_SECONDS: i64 = SESSION_SECONDS as i64;

/// How many orphans one search passes because they are open, before the others get their turn next time.
const PASS_MAX: usize = 1 << 16;

impl Transaction<'_> {
    /// One piece. Tells how many rows it removed or looked at.
    pub(super) fn clean_up(&mut self, limit: usize, archived: Position) -> Attempt<Reply> {
        let limit = limit.max(1);
        let mut done = self.expire_trash(limit)?;
        done += self.raze(limit.saturating_sub(done))?;
        done += self.clean_orphans(limit.saturating_sub(done))?;
        done += self.collect(limit.saturating_sub(done), archived)?;
        done += self.backfill(limit.saturating_sub(done))?;
        done += self.release_quarantine(limit.saturating_sub(done))?;
        Ok(Reply::Offset(done as u64))
    }

    fn expire_trash(&mut self, limit: usize) -> Attempt<usize> {
        let Some(first) = self.scan(&[keys::TRASH], &[keys::TRASH + 1], 1)?.pop() else {
            return Ok(0);
        };
        let retention = i64::try_from(self.format()?.settings.trash_retention_seconds).unwrap_or(i64::MAX);
        let expired = self.context.now.plus_seconds(retention.saturating_neg());
        let purged: Option<Timestamp> = self.get(keys::PURGE)?;
        let before = purged.map_or(expired, |purged| purged.max(expired));
        if trash_key(&first.0)?.0 >= before {
            return Ok(0);
        }
        let end = keys::trash(before, InodeNumber(0));
        let rows = self.scan(&[keys::TRASH], &end, limit)?;
        for (key, _) in &rows {
            let (removed, inode) = trash_key(key)?;
            self.expire(removed, inode)?;
        }
        Ok(rows.len())
    }

    fn clean_orphans(&mut self, limit: usize) -> Attempt<usize> {
        let mut done = 0;
        let mut passed = 0;
        let mut start = bytes::Bytes::from_static(&[keys::ORPHAN]);
        while done < limit && passed < PASS_MAX {
            let page = self.scan(&start, &[keys::ORPHAN + 1], 256)?;
            let Some((last, _)) = page.last() else { break };
            start = keys::after(last);
            for (key, _) in &page {
                let inode = KeyReader::new(key)
                    .inode()
                    .ok_or_else(|| corrupt(key, "malformed key"))?;
                if self.context.open.is_open(inode) {
                    passed += 1;
                    continue;
                }
                done += self.clean_orphan(inode, limit - done)?;
                if done >= limit {
                    break;
                }
            }
        }
        Ok(done)
    }

    fn collect(&mut self, limit: usize, archived: Position) -> Attempt<usize> {
        let mut collected = 0;
        let has_target = self.format()?.settings.target.is_some();
        for (key, value) in self.scan(&[keys::DEAD], &[keys::DEAD + 1], limit)? {
            let DeadRow { since } = decode(&key, &value)?;
            if since.plus_seconds(COLLECT_AFTER_SECONDS) > self.context.now {
                break;
            }
            let mut reader = KeyReader::new(&key);
            let (Some(died), Some(id)) = (reader.number(), reader.object()) else {
                return Err(corrupt(&key, "malformed key").into());
            };
            if Position(died) > archived {
                break;
            }
            let Some(mut row) = self.object(id)? else {
                return Err(corrupt(&key, "a dead object is unknown").into());
            };
            if row.live_bytes > 0 {
                return Err(corrupt(&key, "a dead object is named").into());
            }
            self.remove(key);
            row.life = Life::Deleting;
            self.set_object(id, Some(row))?;
            // Also where it is not known to be: a copy may have been under way.
            let sides = if has_target {
                Sides::BOTH
            } else {
                Sides::only(Side::Primary)
            };
            for side in sides.iter() {
                self.owe_deletion(id, side)?;
            }
            collected += 1;
        }
        Ok(collected)
    }

    /// Goes on with the walk over all objects that a change of the target began.
    fn backfill(&mut self, limit: usize) -> Attempt<usize> {
        let Some(walk) = self.get::<BackfillRow>(keys::BACKFILL)? else {
            return Ok(0);
        };
        if limit == 0 {
            return Ok(0);
        }
        let start = walk
            .after
            .map_or(bytes::Bytes::from_static(&[keys::OBJECT]), |after| {
                keys::after(&keys::object(after))
            });
        let rows = self.scan(&start, &[keys::OBJECT + 1], limit)?;
        let has_target = self.format()?.settings.target.is_some();
        let mut last = None;
        for (key, _) in &rows {
            let id = KeyReader::new(key)
                .object()
                .ok_or_else(|| corrupt(key, "malformed key"))?;
            last = Some(id);
            // A step before may have changed it in this very transaction.
            let Some(mut row) = self.object(id)? else { continue };
            if row.registered < walk.changed {
                row.present = row.present.without(Side::Target);
                self.set_object(id, Some(row))?;
            }
            self.recheck_object(id, walk.since)?;
            if !has_target && self.exists(&keys::deletion(Side::Target, id))? {
                self.drop_deletion(id, Side::Target)?;
            }
        }
        if rows.len() < limit {
            self.remove(bytes::Bytes::from_static(keys::BACKFILL));
        } else {
            self.put(
                bytes::Bytes::from_static(keys::BACKFILL),
                &BackfillRow { after: last, ..walk },
            );
        }
        Ok(rows.len().max(1))
    }

    /// The target has changed: every object has to be looked at again.
    pub(super) fn begin_backfill(&mut self) {
        let (changed, since): (Position, Timestamp) = (self.context.position, self.context.now);
        self.put(
            bytes::Bytes::from_static(keys::BACKFILL),
            &BackfillRow {
                changed,
                since,
                after: None,
            },
        );
    }
}
