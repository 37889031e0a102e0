//! A volume's status for people and for programs.

use std::fmt::Write as _;

use serde_json::{Value, json};
use twinshore_protocol::Timestamp;
use twinshore_protocol::reply::FileSystemUsage;
use twinshore_protocol::status::{CompactionStatus, ReplicationStatus, SessionStatus, VolumeStatus};

use crate::units::show_size;

/// How many objects that were set aside are named to a person: the first ones tell what is wrong.
const SET_ASIDE_SHOWN: usize = 10;

/// The status as JSON, with the names of `twinshore_protocol::status`.
pub fn status_json(status: &VolumeStatus) -> Value {
    let settings = &status.format.settings;
    let region = |region: &twinshore_protocol::format::RegionFormat| json!({"name": region.name, "bucket": region.bucket});
    json!({
        "volume": {
            "id": status.format.volume.to_string(),
            "name": status.format.name,
            "primary": region(&settings.primary),
            "target": settings.target.as_ref().map(region),
            "replication_enabled": settings.replication_enabled,
            "compression": format!("{:?}", settings.compression).to_lowercase(),
            "durability": format!("{:?}", settings.durability).to_lowercase(),
            "inline_limit_bytes": settings.inline_limit_bytes,
            "trash_retention_seconds": settings.trash_retention_seconds,
            "synchronisation_interval_seconds": settings.synchronisation_interval_seconds,
        },
        "epoch": status.epoch.0,
        "position": status.position.0,
        "usage": usage_json(&status.usage),
        "trash": usage_json(&status.trash),
        "objects": status.objects,
        "object_bytes": status.object_bytes,
        "inline_bytes": status.inline_bytes,
        "replication": status.replication.iter().map(replication_json).collect::<Vec<_>>(),
        "sessions": status.sessions.iter().map(session_json).collect::<Vec<_>>(),
        "synchronisation": synchronisation_json(status),
        "compaction": compaction_json(&status.compaction),
        "checkpoint": status.checkpoint.0,
        "archived": status.archived.0,
    })
}

fn usage_json(usage: &FileSystemUsage) -> Value {
    json!({
        "used_bytes": usage.used_bytes,
        "limit_bytes": usage.limit_bytes,
        "used_inodes": usage.used_inodes,
        "limit_inodes": usage.limit_inodes,
    })
}

fn replication_json(side: &ReplicationStatus) -> Value {
    json!({
        "side": side.side.to_string(),
        "watermark": side.watermark.0,
        "pending_objects": side.pending_objects,
        "pending_bytes": side.pending_bytes,
        "lag_seconds": side.lag_seconds,
        "quarantined": side.quarantined.iter().map(|(object, reason)| json!({"object": object.to_string(), "reason": reason})).collect::<Vec<_>>(),
        "pending_deletions": side.pending_deletions,
        "copied_objects": side.copied_objects,
        "copied_bytes": side.copied_bytes,
    })
}

fn session_json(session: &SessionStatus) -> Value {
    json!({
        "session": session.session.0,
        "role": format!("{:?}", session.role).to_lowercase(),
        "host": session.description.host,
        "process": session.description.process,
        "purpose": session.description.purpose,
        "connected": session.connected,
        "silent_seconds": session.silent_seconds,
        "open_inodes": session.open_inodes,
    })
}

fn compaction_json(compaction: &CompactionStatus) -> Value {
    json!({
        "running": compaction.running,
        "passes": compaction.passes,
        "sparse_objects": compaction.sparse_objects,
        "sparse_bytes": compaction.sparse_bytes,
        "fragmented_files": compaction.fragmented_files,
        "rewritten_extents": compaction.rewritten_extents,
        "rewritten_bytes": compaction.rewritten_bytes,
        "rows_looked_at": compaction.rows_looked_at,
    })
}

/// What compaction could gain, and what it did, in one line.
pub fn compaction_text(compaction: &CompactionStatus) -> String {
    let running = if compaction.running { "running; " } else { "" };
    format!(
        "{running}{} sparse objects with {} that no file names; {} fragmented files; rewritten {} extents, {}",
        compaction.sparse_objects,
        show_size(compaction.sparse_bytes),
        compaction.fragmented_files,
        compaction.rewritten_extents,
        show_size(compaction.rewritten_bytes)
    )
}

fn synchronisation_json(status: &VolumeStatus) -> Value {
    let synchronisation = &status.synchronisation;
    let counts = &synchronisation.counts;
    json!({
        "running": synchronisation.running,
        "objects_checked": counts.objects_checked,
        "objects_total": synchronisation.objects_total,
        "missing": counts.missing,
        "damaged": counts.damaged,
        "lost": counts.lost,
        "orphans_removed": counts.orphans_removed,
        "checksums_verified": counts.checksums_verified,
        "finished_seconds": synchronisation.finished.map(|finished| finished.seconds),
    })
}

/// The status as a person reads it.
pub fn status_text(status: &VolumeStatus) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{label:<12} {value}");
    };
    let settings = &status.format.settings;
    line(
        "volume",
        format!("{} ({})", status.format.name, status.format.volume),
    );
    line(
        "primary",
        format!("{}  {}", settings.primary.name, settings.primary.bucket),
    );
    match &settings.target {
        Some(target) => line("target", format!("{}  {}", target.name, target.bucket)),
        None => line(
            "target",
            "none: `twinshore volume set-target` adds the second region".to_owned(),
        ),
    }
    line("usage", usage_text(&status.usage));
    line("trash", usage_text(&status.trash));
    line(
        "data",
        format!(
            "{} objects, {}; {} inline",
            status.objects,
            show_size(status.object_bytes),
            show_size(status.inline_bytes)
        ),
    );
    line("compaction", compaction_text(&status.compaction));
    line(
        "journal",
        format!(
            "epoch {}, record {}; in the buckets: records up to {}, checkpoint at {}",
            status.epoch, status.position, status.archived, status.checkpoint
        ),
    );
    for side in &status.replication {
        let name = settings
            .region(side.side)
            .map_or("", |region| region.name.as_str());
        line(
            &format!("to {name}"),
            replication_text(side, settings.replication_enabled),
        );
        for (object, reason) in side.quarantined.iter().take(SET_ASIDE_SHOWN) {
            line("", format!("set aside: {object}: {reason}"));
        }
        if let Some(more @ 1..) = side.quarantined.len().checked_sub(SET_ASIDE_SHOWN) {
            line("", format!("set aside: {more} more; --json lists all"));
        }
    }
    let synchronisation = &status.synchronisation;
    if synchronisation.running {
        let counts = &synchronisation.counts;
        line(
            "sync",
            format!(
                "running: {} of {} objects",
                counts.objects_checked, synchronisation.objects_total
            ),
        );
    } else if let Some(Timestamp { seconds, .. }) = synchronisation.finished {
        let counts = &synchronisation.counts;
        line(
            "sync",
            format!(
                "finished at {seconds} (Unix time): {} objects, {} missing, {} damaged, {} lost, {} orphans removed",
                counts.objects_checked, counts.missing, counts.damaged, counts.lost, counts.orphans_removed
            ),
        );
    }
    for session in &status.sessions {
        let state = if session.connected {
            "connected".to_owned()
        } else {
            format!("silent for {} s", session.silent_seconds)
        };
        line(
            "session",
            format!(
                "{} {:?} {} ({} pid {}): {state}, {} open",
                session.session,
                session.role,
                session.description.purpose,
                session.description.host,
                session.description.process,
                session.open_inodes
            ),
        );
    }
    text
}

fn replication_text(side: &ReplicationStatus, enabled: bool) -> String {
    let state = if side.pending_objects == 0 && side.pending_bytes == 0 {
        "in sync".to_owned()
    } else {
        format!(
            "{} objects, {} behind, lag {} s",
            side.pending_objects,
            show_size(side.pending_bytes),
            side.lag_seconds
        )
    };
    let off = if enabled { "" } else { " (replication is off)" };
    format!(
        "{state}{off}; watermark {}; copied {} objects, {}; {} deletions owed",
        side.watermark,
        side.copied_objects,
        show_size(side.copied_bytes),
        side.pending_deletions
    )
}

/// Usage and limits on one line.
pub fn usage_text(usage: &FileSystemUsage) -> String {
    let limit = |limit: Option<String>| limit.map_or_else(String::new, |limit| format!(" of {limit}"));
    format!(
        "{}{}, {} inodes{}",
        show_size(usage.used_bytes),
        limit(usage.limit_bytes.map(show_size)),
        usage.used_inodes,
        limit(usage.limit_inodes.map(|limit| limit.to_string()))
    )
}

/// Rows as columns, each as wide as its longest text, two spaces apart.
pub fn columns(rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        for (index, text) in row.iter().enumerate() {
            let length = text.chars().count();
            match widths.get_mut(index) {
                Some(width) => *width = (*width).max(length),
                None => widths.push(length),
            }
        }
    }
    let mut shown = String::new();
    for row in rows {
        let padded = row
            .iter()
            .zip(&widths)
            .map(|(text, width)| format!("{text:<width$}"));
        shown.push_str(padded.collect::<Vec<_>>().join("  ").trim_end());
        shown.push('\n');
    }
    shown
}
