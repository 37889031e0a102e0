//! What `twinshore status --json` says, as far as tests and the demo look at it.

use serde::Deserialize;

/// The volume.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Objects that metadata names.
    pub objects: u64,
    /// Their bytes in one bucket.
    pub object_bytes: u64,
    /// Bytes that are inline in the metadata and not yet in any object.
    pub inline_bytes: u64,
    /// The last committed record.
    pub position: u64,
    /// One for each side that is owed copies.
    pub replication: Vec<Replication>,
    /// Compaction.
    #[serde(default)]
    pub compaction: Compaction,
}

/// What compaction could gain, and what it did.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Compaction {
    /// A pass was asked for or is running.
    pub running: bool,
    /// Objects of which files name at most half.
    pub sparse_objects: u64,
    /// Bytes of content in them that no file names.
    pub sparse_bytes: u64,
    /// Files that lie in many small extents.
    pub fragmented_files: u64,
    /// Extents that were written anew.
    pub rewritten_extents: u64,
    /// Their bytes.
    pub rewritten_bytes: u64,
}

/// How far a side is behind.
#[derive(Clone, Debug, Deserialize)]
pub struct Replication {
    /// `primary` or `target`.
    pub side: String,
    /// Objects owed.
    pub pending_objects: u64,
    /// Bytes owed.
    pub pending_bytes: u64,
    /// Age of the oldest.
    pub lag_seconds: u64,
    /// Objects that cannot be copied. Each is an identifier and a reason; only their number matters here.
    pub quarantined: Vec<serde_json::Value>,
    /// Objects waiting to be deleted here.
    pub pending_deletions: u64,
    /// Objects copied to this side.
    pub copied_objects: u64,
    /// Bytes copied to this side.
    pub copied_bytes: u64,
}

impl Status {
    /// Understands the output of the command.
    pub fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// What a side is owed.
    pub fn side(&self, side: &str) -> Option<&Replication> {
        self.replication
            .iter()
            .find(|replication| replication.side == side)
    }

    /// Whether both sides have everything.
    pub fn is_in_step(&self) -> bool {
        self.replication.len() == 2
            && self
                .replication
                .iter()
                .all(|side| side.pending_objects == 0 && side.lag_seconds == 0)
    }

    /// The lag of both sides in a few words.
    pub fn lag(&self) -> String {
        let sides: Vec<String> = self
            .replication
            .iter()
            .map(|side| {
                format!(
                    "{} is owed {} objects, {} ({} s behind)",
                    side.side,
                    side.pending_objects,
                    crate::progress::bytes(side.pending_bytes),
                    side.lag_seconds
                )
            })
            .collect();
        sides.join("; ")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn status(pending: u64, lag: u64) -> Status {
        let side = |name: &str, pending: u64, lag: u64| {
            serde_json::json!({
                "side": name, "watermark": 7, "pending_objects": pending, "pending_bytes": pending * 4096,
                "lag_seconds": lag, "quarantined": [], "pending_deletions": 0, "copied_objects": 5, "copied_bytes": 9
            })
        };
        let json = serde_json::json!({
            "position": 12, "objects": 5, "object_bytes": 9, "inline_bytes": 0, "usage": {"bytes": 1},
            "replication": [side("primary", 0, 0), side("target", pending, lag)]
        });
        Status::parse(json.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn in_step_means_that_nothing_is_owed_to_either_side() {
        assert!(status(0, 0).is_in_step());
        assert!(!status(3, 2).is_in_step());
        let mut one_sided = status(0, 0);
        one_sided.replication.pop();
        assert!(!one_sided.is_in_step());
    }

    #[test]
    fn the_lag_names_both_sides() {
        let lag = status(3, 2).lag();
        assert!(
            lag.contains("target is owed 3 objects, 12.0 KiB (2 s behind)"),
            "{lag}"
        );
    }
}
