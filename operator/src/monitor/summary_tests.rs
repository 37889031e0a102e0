#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use twinshore_protocol::format::{Encryption, RegionFormat, VolumeFormat};
use twinshore_protocol::message::SessionDescription;
use twinshore_protocol::reply::FileSystemUsage;
use twinshore_protocol::status::{CompactionStatus, ReplicationStatus as Owed, SynchronisationStatus};
use twinshore_protocol::{Epoch, ObjectId, Position, SessionId, VolumeId};

use super::*;

fn usage(bytes: u64, limit_bytes: Option<u64>) -> FileSystemUsage {
    FileSystemUsage {
        used_bytes: bytes,
        limit_bytes,
        used_inodes: 7,
        limit_inodes: None,
    }
}

fn region(name: &str) -> RegionFormat {
    RegionFormat {
        name: name.to_owned(),
        bucket: format!("http://s3/{name}"),
    }
}

fn session(role: Role, purpose: &str, connected: bool) -> SessionStatus {
    SessionStatus {
        session: SessionId(1),
        role,
        description: SessionDescription {
            purpose: purpose.to_owned(),
            ..SessionDescription::default()
        },
        connected,
        silent_seconds: 0,
        open_inodes: 0,
    }
}

fn status() -> VolumeStatus {
    VolumeStatus {
        format: VolumeFormat {
            version: 1,
            volume: VolumeId([1; 16]),
            name: "documents".to_owned(),
            encryption: Encryption::None,
            settings: VolumeSettings {
                primary: region("east"),
                target: Some(region("west")),
                replication_enabled: true,
                compression: Compression::None,
                durability: Durability::Close,
                inline_limit_bytes: 16384,
                trash_retention_seconds: 86_400,
                synchronisation_interval_seconds: 604_800,
                bandwidth_limit_bytes_per_second: [0, 0],
            },
        },
        epoch: Epoch(3),
        position: Position(100),
        usage: usage(123_456_789, None),
        trash: usage(0, None),
        objects: 1,
        object_bytes: 1,
        inline_bytes: 0,
        replication: vec![Owed {
            side: Side::Target,
            watermark: Position(90),
            pending_objects: 1234,
            pending_bytes: 9_999_999,
            lag_seconds: 17,
            quarantined: vec![(
                ObjectId {
                    epoch: Epoch(1),
                    number: 5,
                },
                "damaged in both buckets".to_owned(),
            )],
            pending_deletions: 0,
            copied_objects: 0,
            copied_bytes: 0,
        }],
        sessions: vec![
            session(Role::Client, "/mnt", true),
            session(Role::Client, "/mnt", false),
            session(Role::Client, PURPOSE, true),
            session(Role::Client, CSI_PURPOSES[0], true),
            session(Role::Worker, "worker", true),
            session(Role::Admin, "status", true),
        ],
        synchronisation: SynchronisationStatus::default(),
        checkpoint: Position(1),
        archived: Position(1),
        compaction: CompactionStatus::default(),
    }
}

fn wanted() -> WantedSettings {
    WantedSettings {
        replication_enabled: true,
        compression: twinshore_crds::Compression::None,
        durability: twinshore_crds::Durability::Close,
        trash_retention: Duration::from_hours(24),
        synchronisation_interval: Duration::from_hours(168),
        bandwidth_limit: 0,
        limit_bytes: None,
        limit_inodes: None,
    }
}

#[test]
fn a_summary_counts_mounts_and_workers_and_never_says_less_than_is_owed() {
    let summary = summarise(&status());
    assert_eq!(
        summary.sessions,
        SessionCounts {
            mounts: 2,
            workers: 1,
            disconnected: 1
        }
    );
    let owed = &summary.replication[0];
    assert_eq!(
        (owed.region.as_str(), owed.pending_bytes, owed.pending_objects),
        ("west", 10_000_000, 1240)
    );
    assert_eq!(summary.lag_seconds, Some(17));
    assert!(
        owed.last_error
            .as_ref()
            .unwrap()
            .contains("damaged in both buckets")
    );
}

#[test]
fn a_volume_that_is_at_work_changes_its_summary_only_when_three_digits_change() {
    let mut later = status();
    later.position = Position(200);
    later.usage.used_bytes += 1000;
    assert_eq!(summarise(&later), summarise(&status()));
}

#[test]
fn settings_are_changed_only_where_they_differ() {
    assert_eq!(changes(&status(), &wanted()), []);
    let compressed = WantedSettings {
        compression: twinshore_crds::Compression::Zstd,
        limit_bytes: Some(5),
        ..wanted()
    };
    let changes = changes(&status(), &compressed);
    let [
        Operation::SetSettings { settings },
        Operation::SetQuota { limit_bytes, .. },
    ] = changes.as_slice()
    else {
        panic!("{changes:?}");
    };
    assert_eq!(settings.compression, Compression::Zstd);
    assert_eq!(
        settings.target,
        status().format.settings.target,
        "the target stays as it is"
    );
    assert_eq!(*limit_bytes, Some(5));
}
