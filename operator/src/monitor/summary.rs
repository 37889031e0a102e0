//! What of a volume's status is shown, and what of its settings has to change. Pure.

use jiff::Timestamp;
use twinshore_crds::names::CSI_PURPOSES;
use twinshore_crds::{ReplicationStatus, SessionCounts, UsageStatus};
use twinshore_protocol::format::{Compression, Durability, VolumeSettings};
use twinshore_protocol::message::Role;
use twinshore_protocol::status::{SessionStatus, VolumeStatus};
use twinshore_protocol::{InodeNumber, Operation, Side};

use crate::controller::validate::WantedSettings;
use crate::units::three_digits_up;

/// How the operator's own sessions describe themselves; they are not counted.
pub const PURPOSE: &str = "operator";
/// Longest error of an object that is shown.
const ERROR_MAX: usize = 300;

/// What of a volume's status is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The reign.
    pub epoch: i64,
    /// Of the bucket that is further behind; none without a target.
    pub lag_seconds: Option<u64>,
    /// Each bucket that is owed.
    pub replication: Vec<ReplicationStatus>,
    /// What it holds.
    pub usage: UsageStatus,
    /// Who is connected.
    pub sessions: SessionCounts,
    /// When both buckets were last compared.
    pub last_synchronisation: Option<Timestamp>,
    /// It has a target.
    pub has_target: bool,
    /// Objects that the last comparison found in neither bucket.
    pub lost_objects: u64,
}

/// Sums up a status.
pub fn summarise(status: &VolumeStatus) -> Summary {
    let settings = &status.format.settings;
    let region = |side: Side| {
        settings
            .region(side)
            .map(|region| region.name.clone())
            .unwrap_or_default()
    };
    let replication: Vec<ReplicationStatus> = status
        .replication
        .iter()
        .map(|side| ReplicationStatus {
            region: region(side.side),
            lag_seconds: i64::try_from(side.lag_seconds).unwrap_or(i64::MAX),
            pending_bytes: three_digits_up(side.pending_bytes),
            pending_objects: three_digits_up(side.pending_objects),
            set_aside_objects: three_digits_up(side.quarantined.len() as u64),
            last_error: side
                .quarantined
                .first()
                .map(|(object, reason)| format!("{object}: {reason}").chars().take(ERROR_MAX).collect()),
        })
        .collect();
    let limit = |limit: Option<u64>| limit.map(|limit| i64::try_from(limit).unwrap_or(i64::MAX));
    Summary {
        epoch: i64::try_from(status.epoch.0).unwrap_or(i64::MAX),
        lag_seconds: status.replication.iter().map(|side| side.lag_seconds).max(),
        replication,
        usage: UsageStatus {
            used_bytes: three_digits_up(status.usage.used_bytes),
            used_inodes: three_digits_up(status.usage.used_inodes),
            limit_bytes: limit(status.usage.limit_bytes),
            limit_inodes: limit(status.usage.limit_inodes),
        },
        sessions: count(&status.sessions),
        last_synchronisation: status
            .synchronisation
            .finished
            .and_then(|finished| Timestamp::from_second(finished.seconds).ok()),
        has_target: settings.target.is_some(),
        lost_objects: status.synchronisation.counts.lost,
    }
}

fn count(sessions: &[SessionStatus]) -> SessionCounts {
    let mut counts = SessionCounts::default();
    for session in sessions {
        let purpose = session.description.purpose.as_str();
        if purpose == PURPOSE || CSI_PURPOSES.contains(&purpose) {
            continue;
        }
        match session.role {
            Role::Client => counts.mounts += 1,
            Role::Worker => counts.workers += 1,
            Role::Mirror | Role::Admin => continue,
        }
        if !session.connected {
            counts.disconnected += 1;
        }
    }
    counts
}

/// What has to be asked of the service so that its settings are as wanted. The target is not among it: its bucket has to be taken into
/// use before.
pub fn changes(status: &VolumeStatus, wanted: &WantedSettings) -> Vec<Operation> {
    let WantedSettings {
        replication_enabled,
        compression,
        durability,
        trash_retention,
        synchronisation_interval,
        bandwidth_limit,
        limit_bytes,
        limit_inodes,
    } = wanted;
    let present = &status.format.settings;
    let settings = VolumeSettings {
        replication_enabled: *replication_enabled,
        compression: match compression {
            twinshore_crds::Compression::None => Compression::None,
            twinshore_crds::Compression::Lz4 => Compression::Lz4,
            twinshore_crds::Compression::Zstd => Compression::Zstd,
        },
        durability: match durability {
            twinshore_crds::Durability::Close => Durability::Close,
            twinshore_crds::Durability::Fsync => Durability::Fsync,
        },
        trash_retention_seconds: trash_retention.as_secs(),
        synchronisation_interval_seconds: synchronisation_interval.as_secs(),
        bandwidth_limit_bytes_per_second: [*bandwidth_limit; 2],
        ..present.clone()
    };
    let mut changes = Vec::new();
    if settings != *present {
        changes.push(Operation::SetSettings { settings });
    }
    if status.usage.limit_bytes != *limit_bytes || status.usage.limit_inodes != *limit_inodes {
        changes.push(Operation::SetQuota {
            directory: InodeNumber::ROOT,
            limit_bytes: *limit_bytes,
            limit_inodes: *limit_inodes,
        });
    }
    changes
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
