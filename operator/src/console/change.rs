//! What a person may change of a volume in the console. Everything else is refused before it reaches the API server.

use serde::{Deserialize, Serialize};
use twinshore_crds::{ExposureType, RegionSpec};

/// A change, as a merge patch of the resource.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Of its spec.
    pub spec: SpecChange,
}

/// What of the spec.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpecChange {
    /// A second region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<RegionSpec>,
    /// Whether copies are made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<ReplicationChange>,
    /// How the other region reaches the metadata service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<MetadataChange>,
}

/// What of replication.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicationChange {
    /// Whether copies are made.
    pub enabled: bool,
}

/// What of the metadata service.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetadataChange {
    /// How the other region reaches it.
    pub exposure: ExposureChange,
}

/// What of the exposure.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExposureChange {
    /// The kind.
    #[serde(rename = "type")]
    pub kind: ExposureType,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn a_change_names_only_what_it_changes() {
        let disable = json!({"spec": {"replication": {"enabled": false}}});
        let change: Change = from_value(disable.clone()).unwrap();
        assert_eq!(to_value(&change).unwrap(), disable);
    }

    #[test]
    fn other_changes_are_refused() {
        for other in [
            json!({"spec": {"deletionPolicy": "Delete"}}),
            json!({"spec": {"primary": {"region": "a", "bucket": {"name": "b"}}}}),
            json!({"spec": {"metadata": {"image": "x", "exposure": {"type": "None"}}}}),
            json!({"spec": {}, "metadata": {"finalizers": []}}),
        ] {
            assert!(from_value::<Change>(other.clone()).is_err(), "{other}");
        }
    }
}
