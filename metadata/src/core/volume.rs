//! What the service and its status read of a volume as a whole.

use twinshore_protocol::format::{FORMAT_VERSION, VolumeFormat, VolumeSettings};
use twinshore_protocol::reply::FileSystemUsage;
use twinshore_protocol::{Attributes, Epoch, Errno, FileType, InodeNumber, ObjectId, Reply, Timestamp};

use super::claims::rows::HiddenRow;
use super::keys::{self, KeyReader};
use super::transaction::{Attempt, Transaction, corrupt, decode, read};
use super::values::{
    BackfillRow, CountersRow, InodeRow, Life, ObjectRow, Place, QuotaRow, SessionRow, SynchronisationRow,
    TotalsRow, UsageRow,
};
use super::{CoreError, VolumeLimits};
use crate::view::View;

/// The largest inline write that a setting may allow: a record carries many of them.
pub const INLINE_LIMIT_MAX_BYTES: u32 = 1 << 20;

/// The format record, or `None` in an empty view.
pub fn format(view: &dyn View) -> Result<Option<VolumeFormat>, CoreError> {
    read(view, keys::FORMAT)
}

/// The epoch of the last leader.
pub fn epoch(view: &dyn View) -> Result<Epoch, CoreError> {
    Ok(read(view, keys::EPOCH)?.unwrap_or_default())
}

/// All sessions that have not ended.
pub fn sessions(view: &dyn View) -> Result<Vec<SessionRow>, CoreError> {
    let rows = view.scan(&[keys::SESSION], &[keys::SESSION + 1], usize::MAX)?;
    rows.iter().map(|(key, value)| decode(key, value)).collect()
}

/// Sums over the volume: objects, inline extents, trash, orphans, what is owed.
pub fn totals(view: &dyn View) -> Result<TotalsRow, CoreError> {
    Ok(read(view, keys::TOTALS)?.unwrap_or_default())
}

/// Usage of the whole tree, the root included, and the volume's limits.
pub fn usage(view: &dyn View) -> Result<FileSystemUsage, CoreError> {
    let usage: Option<UsageRow> = read(view, &keys::usage(InodeNumber::ROOT))?;
    let quota: Option<QuotaRow> = read(view, &keys::quota(InodeNumber::ROOT))?;
    Ok(FileSystemUsage {
        used_bytes: usage.map_or(0, |usage| usage.bytes),
        limit_bytes: quota.and_then(|quota| quota.limit_bytes),
        used_inodes: usage.map_or(0, |usage| usage.inodes + 1),
        limit_inodes: quota.and_then(|quota| quota.limit_inodes),
    })
}

/// Usage of the trash, whole trees included, and of what of them is being taken apart.
pub fn trash(view: &dyn View) -> Result<FileSystemUsage, CoreError> {
    let tally = totals(view)?.trash;
    let hidden: Option<HiddenRow> = read(view, keys::HIDDEN)?;
    let trees: Option<UsageRow> = match hidden {
        Some(hidden) => read(view, &keys::usage(hidden.removed))?,
        None => None,
    };
    Ok(FileSystemUsage {
        used_bytes: tally.bytes + trees.map_or(0, |trees| trees.bytes),
        limit_bytes: None,
        used_inodes: tally.count + trees.map_or(0, |trees| trees.inodes),
        limit_inodes: None,
    })
}

/// The state of the full synchronisation.
pub fn synchronisation(view: &dyn View) -> Result<SynchronisationRow, CoreError> {
    Ok(read(view, keys::SYNCHRONISATION)?.unwrap_or_default())
}

/// Is the walk over all objects after a change of the target still going on?
pub fn is_backfilling(view: &dyn View) -> Result<bool, CoreError> {
    Ok(read::<BackfillRow>(view, keys::BACKFILL)?.is_some())
}

/// All objects that extents name, in order. For checks: it reads every object.
pub fn objects(view: &dyn View) -> Result<Vec<ObjectId>, CoreError> {
    let mut live = Vec::new();
    for (key, value) in view.scan(&[keys::OBJECT], &[keys::OBJECT + 1], usize::MAX)? {
        let row: ObjectRow = decode(&key, &value)?;
        if row.life == Life::Live {
            live.push(
                KeyReader::new(&key)
                    .object()
                    .ok_or_else(|| corrupt(&key, "malformed key"))?,
            );
        }
    }
    Ok(live)
}

fn settings_make_sense(settings: &VolumeSettings) -> bool {
    let same_bucket = settings.target.as_ref().is_some_and(|target| {
        target.bucket == settings.primary.bucket || target.name == settings.primary.name
    });
    !same_bucket && settings.inline_limit_bytes <= INLINE_LIMIT_MAX_BYTES
}

impl Transaction<'_> {
    /// Makes an empty volume.
    pub(super) fn create_volume(&mut self, format: &VolumeFormat, limits: VolumeLimits) -> Attempt<Reply> {
        if self.exists(keys::FORMAT)? {
            return Err(Errno::Exists.into());
        }
        if format.version != FORMAT_VERSION || !settings_make_sense(&format.settings) {
            return Err(Errno::Invalid.into());
        }
        let now: Timestamp = self.context.now;
        let root = InodeNumber::ROOT;
        let attributes = Attributes {
            inode: root,
            kind: FileType::Directory,
            mode: 0o755,
            links: 2,
            user: 0,
            group: 0,
            device: 0,
            size_bytes: 0,
            allocated_bytes: 0,
            accessed: now,
            modified: now,
            changed: now,
            content_version: self.context.position,
            has_extended_attributes: false,
        };
        self.put_inode(InodeRow {
            attributes,
            place: Place::Named { parent: root },
            has_access_acl: false,
            has_default_acl: false,
            has_capability: false,
            xattr_names_bytes: 0,
            extents: 0,
            fragmented: false,
        });
        self.set_usage(
            root,
            Some(UsageRow {
                bytes: 0,
                inodes: 0,
                parent: root,
                limited: false,
                claimed: 0,
            }),
        )?;
        let counters = CountersRow {
            next_inode: root.0 + 1,
            next_object: 1,
        };
        self.put(bytes::Bytes::from_static(keys::COUNTERS), &counters);
        self.set_format(format.clone());
        self.set_quota(root, limits.bytes, limits.inodes)
    }

    /// A leader begins its reign.
    pub(super) fn start_epoch(&mut self, epoch: Epoch) -> Attempt<Reply> {
        let last: Option<Epoch> = self.get(keys::EPOCH)?;
        if last.is_some_and(|last| epoch <= last) {
            return Err(Errno::Invalid.into());
        }
        self.put(bytes::Bytes::from_static(keys::EPOCH), &epoch);
        Ok(Reply::Done)
    }

    /// Changes the settings.
    ///
    /// Taking a target away, or putting another bucket in its place, is refused with `EBUSY` while the primary lacks
    /// anything: what only the target has would be lost. Replication has to catch up first.
    pub(super) fn set_settings(&mut self, settings: &VolumeSettings) -> Attempt<Reply> {
        self.require_root()?;
        if !settings_make_sense(settings) {
            return Err(Errno::Invalid.into());
        }
        let mut format = self.format()?.clone();
        let bucket = |settings: &VolumeSettings| settings.target.as_ref().map(|target| target.bucket.clone());
        let (old, new) = (bucket(&format.settings), bucket(settings));
        if old != new {
            let prefix = keys::of_side(keys::OWED, twinshore_protocol::Side::Primary);
            if old.is_some() && !self.scan_prefix(&prefix, 1)?.is_empty() {
                return Err(Errno::Busy.into());
            }
            self.begin_backfill();
        }
        format.settings = settings.clone();
        self.set_format(format);
        Ok(Reply::Done)
    }

    /// Sets or lifts the limits of a directory.
    pub(super) fn set_quota(
        &mut self,
        directory: InodeNumber,
        limit_bytes: Option<u64>,
        limit_inodes: Option<u64>,
    ) -> Attempt<Reply> {
        self.require_root()?;
        self.directory(directory)?;
        let mut usage = self.usage(directory)?;
        usage.limited = limit_bytes.is_some() || limit_inodes.is_some();
        self.set_usage(directory, Some(usage))?;
        let key = keys::quota(directory);
        if usage.limited {
            self.put(
                key,
                &QuotaRow {
                    limit_bytes,
                    limit_inodes,
                },
            );
        } else {
            self.remove(key);
        }
        Ok(Reply::Done)
    }

    /// `statfs`: of the nearest directory with limits, or of the volume.
    pub(super) fn file_system_usage(&mut self, inode: InodeNumber) -> Attempt<Reply> {
        let row = self.inode(inode)?;
        let directory = match row.place {
            Place::Named { .. } if row.is_directory() => inode,
            Place::Named { parent } => parent,
            Place::Trash { .. } | Place::Orphan { .. } => InodeNumber::ROOT,
        };
        let nearest = self.quota_directory(directory)?;
        Ok(Reply::FileSystem(self.directory_usage(nearest)?))
    }

    /// `GetUsage`.
    pub(super) fn usage_of(&mut self, directory: InodeNumber) -> Attempt<Reply> {
        self.directory(directory)?;
        Ok(Reply::DirectoryUsage(self.directory_usage(directory)?))
    }
}
