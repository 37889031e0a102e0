//! What a person wants to know of volumes, from their resources. Pure.

use std::fmt::Write as _;

use twinshore_crds::conditions::{self, ConditionType};
use twinshore_crds::status::{ReplicatedVolumeStatus, ReplicationStatus, Role};
use twinshore_crds::volume::ReplicatedVolume;

use crate::output::columns;
use crate::units::show_size;

/// A line for each volume.
pub fn table(volumes: &[ReplicatedVolume]) -> String {
    let header = [
        "NAMESPACE",
        "NAME",
        "READY",
        "ROLE",
        "ACTIVE",
        "LAG",
        "USED",
        "MOUNTS",
        "PROBLEM",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for volume in volumes {
        let status = volume.status.clone().unwrap_or_default();
        rows.push(vec![
            or_dash(volume.metadata.namespace.as_deref()),
            or_dash(volume.metadata.name.as_deref()),
            state_of(&status, ConditionType::Ready).to_owned(),
            role_of(&status).to_owned(),
            or_dash(status.active_region.as_deref()),
            or_dash(status.lag.as_deref()),
            status
                .usage
                .as_ref()
                .map_or_else(|| or_dash(None), |usage| size(usage.used_bytes)),
            status
                .sessions
                .as_ref()
                .map_or_else(|| or_dash(None), |sessions| sessions.mounts.to_string()),
            problems(&status)
                .first()
                .map_or_else(String::new, |(reason, _)| reason.clone()),
        ]);
    }
    columns(&rows)
}

/// Everything about one.
pub fn details(volume: &ReplicatedVolume) -> String {
    let status = volume.status.clone().unwrap_or_default();
    let mut text = format!(
        "Volume      {}/{}{}\n",
        or_dash(volume.metadata.namespace.as_deref()),
        or_dash(volume.metadata.name.as_deref()),
        if volume.spec.paused { " (paused)" } else { "" }
    );
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<12}{value}");
    };
    line("Identity", or_dash(status.volume_id.as_deref()));
    line(
        "Metadata",
        format!(
            "{}, epoch {}, {}",
            or_dash(status.endpoint.as_deref()),
            status
                .epoch
                .map_or_else(|| or_dash(None), |epoch| epoch.to_string()),
            status.active_region.as_deref().map_or_else(
                || "no region leads".to_owned(),
                |region| format!("led by {region}")
            ),
        ),
    );
    if let Some(usage) = &status.usage {
        let limit = |limit: Option<String>| limit.map_or_else(String::new, |limit| format!(" of {limit}"));
        line(
            "Usage",
            format!(
                "{}{}, {} files and directories{}",
                size(usage.used_bytes),
                limit(usage.limit_bytes.map(size)),
                usage.used_inodes,
                limit(usage.limit_inodes.map(|limit| limit.to_string()))
            ),
        );
    }
    if let Some(sessions) = &status.sessions {
        line(
            "Connected",
            format!(
                "{} mounts, {} workers ({} of both with a broken line)",
                sessions.mounts, sessions.workers, sessions.disconnected
            ),
        );
    }
    text.push('\n');
    text.push_str(&regions(volume, &status));
    text.push('\n');
    text.push_str(&health(&status));
    text
}

fn regions(volume: &ReplicatedVolume, status: &ReplicatedVolumeStatus) -> String {
    let header = ["REGION", "ROLE", "BUCKET", "LAG", "OWED", "SET ASIDE"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    let named = std::iter::once((&volume.spec.primary, "primary"))
        .chain(volume.spec.target.as_ref().map(|target| (target, "target")));
    for (region, role) in named {
        let here = status.region.as_deref() == Some(region.region.as_str());
        let owed = status
            .replication
            .iter()
            .find(|replication| replication.region == region.region);
        let figure =
            |figure: &dyn Fn(&ReplicationStatus) -> String| owed.map_or_else(|| or_dash(None), figure);
        rows.push(vec![
            format!("{}{}", region.region, if here { " (here)" } else { "" }),
            role.to_owned(),
            region.bucket.url(),
            figure(&|owed| format!("{} s", owed.lag_seconds)),
            figure(&|owed| format!("{} objects, {}", owed.pending_objects, size(owed.pending_bytes))),
            figure(&|owed| owed.set_aside_objects.to_string()),
        ]);
    }
    let mut text = columns(&rows);
    for owed in &status.replication {
        if let Some(error) = &owed.last_error {
            let _ = writeln!(text, "  {}: {error}", owed.region);
        }
    }
    text
}

fn health(status: &ReplicatedVolumeStatus) -> String {
    if status.conditions.is_empty() {
        return "No operator has looked at this volume yet: is the chart installed in this cluster, and does it look after this namespace?\n"
            .to_owned();
    }
    let mut rows = Vec::new();
    for kind in ConditionType::ALL {
        if let Some(condition) = conditions::get(&status.conditions, *kind) {
            rows.push(vec![
                condition.type_.clone(),
                condition.status.clone(),
                condition.reason.clone(),
            ]);
        }
    }
    let mut text = columns(&rows);
    let problems = problems(status);
    if problems.is_empty() {
        text.push_str("\nNothing is wrong.\n");
    }
    for (reason, message) in problems {
        let _ = write!(text, "\n{reason}\n  {message}\n");
    }
    text
}

/// What is not as it should be: reason, and what to do. The most important first.
fn problems(status: &ReplicatedVolumeStatus) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for kind in ConditionType::ALL {
        let Some(condition) = conditions::get(&status.conditions, *kind) else {
            continue;
        };
        let wrong = match kind {
            ConditionType::Degraded => condition.status == "True",
            ConditionType::Ready | ConditionType::MetadataReady | ConditionType::Replicating => {
                condition.status == "False"
            }
            // Copies that are owed for a moment, or a comparison that was not made yet, are everyday life.
            ConditionType::InSync | ConditionType::Verified => false,
        };
        let problem = (condition.reason.clone(), condition.message.clone());
        if wrong && !found.contains(&problem) {
            found.push(problem);
        }
    }
    found
}

fn state_of(status: &ReplicatedVolumeStatus, kind: ConditionType) -> &str {
    conditions::get(&status.conditions, kind).map_or("Unknown", |condition| condition.status.as_str())
}

fn role_of(status: &ReplicatedVolumeStatus) -> &'static str {
    match status.role {
        Some(Role::Primary) => "primary",
        Some(Role::Target) => "target",
        Some(Role::None) => "none",
        None => "-",
    }
}

/// Bytes in a resource are signed; none are negative.
fn size(bytes: i64) -> String {
    show_size(u64::try_from(bytes).unwrap_or(0))
}

fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn volume(conditions: &serde_json::Value) -> ReplicatedVolume {
        serde_json::from_value(json!({
            "apiVersion": "twinshore.io/v1alpha1",
            "kind": "ReplicatedVolume",
            "metadata": {"name": "documents", "namespace": "storage"},
            "spec": {
                "primary": {"region": "east", "bucket": {"name": "documents-east", "endpoint": "https://s3.east.example.org"}},
                "target": {"region": "west", "bucket": {"name": "documents-west", "endpoint": "https://s3.west.example.org"}},
                "metadata": {"exposure": {"type": "NodePort"}},
            },
            "status": {
                "region": "west",
                "role": "Target",
                "activeRegion": "east",
                "lag": "3m20s",
                "epoch": 7,
                "usage": {"usedBytes": 3_i64 << 30, "usedInodes": 12, "limitBytes": 10_i64 << 30},
                "sessions": {"mounts": 3, "workers": 2, "disconnected": 1},
                "replication": [
                    {"region": "west", "lagSeconds": 200, "pendingBytes": 4096, "pendingObjects": 2, "setAsideObjects": 1,
                     "lastError": "object 1: the source is damaged"},
                ],
                "conditions": conditions,
            },
        }))
        .unwrap()
    }

    fn condition(kind: &str, status: &str, reason: &str, message: &str) -> serde_json::Value {
        json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    #[test]
    fn a_volume_that_works_says_that_nothing_is_wrong() {
        let text = details(&volume(&json!([condition("Ready", "True", "AsExpected", "")])));
        assert!(text.contains("Nothing is wrong."), "{text}");
        assert!(
            text.contains("3.0 GiB of 10.0 GiB, 12 files and directories"),
            "{text}"
        );
        assert!(text.contains("west (here)  target"), "{text}");
        assert!(text.contains("200 s"), "{text}");
        assert!(text.contains("west: object 1: the source is damaged"), "{text}");
    }

    #[test]
    fn what_is_wrong_is_told_with_what_to_do() {
        let conditions = json!([
            condition("InSync", "False", "CopiesOwed", "2 objects are owed"),
            condition("Ready", "False", "SecretNotFound", "create Secret keys-west"),
        ]);
        let text = details(&volume(&conditions));
        assert!(
            text.contains("SecretNotFound\n  create Secret keys-west"),
            "{text}"
        );
        assert!(!text.contains("2 objects are owed"), "{text}");
    }

    #[test]
    fn the_table_has_a_line_for_each_volume_and_names_the_first_problem() {
        let broken = volume(&json!([condition(
            "Ready",
            "False",
            "JoinBundleMissing",
            "hand it over"
        )]));
        let text = table(&[volume(&json!([])), broken]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].contains("Unknown"), "{text}");
        assert!(
            lines[2].contains("3m20s") && lines[2].ends_with("JoinBundleMissing"),
            "{text}"
        );
    }

    #[test]
    fn a_volume_without_an_operator_says_so() {
        assert!(details(&volume(&json!([]))).contains("No operator has looked at this volume"));
    }
}
