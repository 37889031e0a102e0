//! Snapshots: copies of claimed directories that no name leads to.

use twinshore_protocol::claims::{ClaimKey, Label, Refused, Snapshot, SnapshotKey, SnapshotsPage};
use twinshore_protocol::{InodeNumber, Reply};

use super::super::keys::{self, KeyReader};
use super::super::transaction::{Attempt, Transaction, corrupt, decode};
use super::super::trees::hidden_name;
use super::rows::{CopyGoal, CopyState, SnapshotRow};
use super::{page_limit, unknown};

/// Rows that a page looks at, at most: where few of them are asked for, it may be short.
const LOOKED_AT_MAX: usize = 8192;

impl Transaction<'_> {
    pub(in crate::core) fn snapshot_row(&self, key: &SnapshotKey) -> Attempt<Option<SnapshotRow>> {
        self.get(&keys::snapshot(key))
    }

    pub(super) fn create_snapshot(&mut self, key: &SnapshotKey, source: &ClaimKey) -> Attempt<Reply> {
        if let Some(row) = self.snapshot_row(key)? {
            if row.source != *source {
                return Err(Refused::Differs {
                    key: format!("snapshot {key}"),
                    what: "source".to_owned(),
                    stands: row.source.to_string(),
                    asked: source.to_string(),
                }
                .into());
            }
            return self.snapshot_reply(key, &row);
        }
        let claim = self.claim_row(source)?.ok_or_else(|| unknown(source))?;
        let claimed = self.claimed_row(claim.directory)?;
        match claimed.state {
            CopyState::Ready => {}
            CopyState::Copying => return Err(Refused::BeingCopied(format!("claim {source}")).into()),
            CopyState::Failed { reason } => {
                let what = format!("claim {source}");
                return Err(Refused::CopyFailed { what, reason }.into());
            }
        }
        let goal = CopyGoal::Snapshot(key.clone());
        let copy = self.begin_copy(claim.directory, true, goal, InodeNumber::ROOT)?;
        let row = SnapshotRow {
            source: source.clone(),
            path: claimed.path,
            directory: copy,
            created: self.context.now,
            state: CopyState::Copying,
        };
        self.put(keys::snapshot(key), &row);
        self.copy_on(copy)?;
        self.get_snapshot(key)
    }

    pub(super) fn get_snapshot(&mut self, key: &SnapshotKey) -> Attempt<Reply> {
        let row = self
            .snapshot_row(key)?
            .ok_or_else(|| Refused::UnknownSnapshot(key.clone()))?;
        self.snapshot_reply(key, &row)
    }

    fn snapshot_reply(&mut self, key: &SnapshotKey, row: &SnapshotRow) -> Attempt<Reply> {
        if let CopyState::Failed { reason } = &row.state {
            return Err(Refused::CopyFailed {
                what: format!("snapshot {key}"),
                reason: reason.clone(),
            }
            .into());
        }
        Ok(Reply::Snapshot(Box::new(
            self.snapshot(key.clone(), row.clone())?,
        )))
    }

    fn snapshot(&mut self, key: SnapshotKey, row: SnapshotRow) -> Attempt<Snapshot> {
        let SnapshotRow {
            source,
            path,
            directory,
            created,
            state,
        } = row;
        let (size_bytes, inodes) = match state {
            CopyState::Ready | CopyState::Copying => {
                let usage = self.directory_usage(directory)?;
                (usage.used_bytes, usage.used_inodes)
            }
            CopyState::Failed { .. } => (0, 0),
        };
        Ok(Snapshot {
            key,
            source,
            path,
            created,
            size_bytes,
            inodes,
            ready: state == CopyState::Ready,
        })
    }

    pub(super) fn list_snapshots(
        &mut self,
        region: Option<&Label>,
        source: Option<&ClaimKey>,
        from: Option<&SnapshotKey>,
        limit: u32,
    ) -> Attempt<Reply> {
        let prefix = match region {
            Some(region) => keys::of_region(keys::SNAPSHOT, region.as_str()),
            None => bytes::Bytes::from_static(&[keys::SNAPSHOT]),
        };
        let end = keys::after_prefix(&prefix);
        let start = from.map(keys::snapshot).filter(|start| *start > prefix);
        let mut start = start.unwrap_or(prefix);
        let limit = page_limit(limit);
        let mut page = SnapshotsPage::default();
        let mut looked_at = 0;
        loop {
            let rows = self.scan(&start, &end, limit + 1)?;
            let Some((last, _)) = rows.last() else {
                return Ok(Reply::Snapshots(page));
            };
            start = keys::after(last);
            for (key, value) in rows {
                let snapshot = KeyReader::new(&key)
                    .snapshot()
                    .ok_or_else(|| corrupt(&key, "malformed key"))?;
                looked_at += 1;
                if page.snapshots.len() == limit || looked_at > LOOKED_AT_MAX {
                    page.next = Some(snapshot);
                    return Ok(Reply::Snapshots(page));
                }
                let row: SnapshotRow = decode(&key, &value)?;
                if source.is_none_or(|source| row.source == *source) {
                    page.snapshots.push(self.snapshot(snapshot, row)?);
                }
            }
        }
    }

    pub(super) fn delete_snapshot(&mut self, key: &SnapshotKey) -> Attempt<Reply> {
        let Some(row) = self.snapshot_row(key)? else {
            return Ok(Reply::Done);
        };
        self.remove(keys::snapshot(key));
        match row.state {
            CopyState::Failed { .. } => {}
            CopyState::Copying => self.give_up_copy(row.directory)?,
            CopyState::Ready => {
                self.refuse_while_copied(row.directory, &format_args!("snapshot {key}"))?;
                let copies = self.hidden()?.copies;
                self.raze_tree(row.directory, (copies, &hidden_name(row.directory)?))?;
            }
        }
        Ok(Reply::Done)
    }
}
