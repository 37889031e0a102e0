//! What the operator knows of a volume, as seen from its cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator of this cluster knows of the volume.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicatedVolumeStatus {
    /// The generation of the spec that this status belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What this cluster is to the volume: `Primary` runs its metadata service, `Target` is the other region, `None` is neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The region of this cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The region whose metadata service leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_region: Option<String>,
    /// The volume's identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_id: Option<String>,
    /// Where mounts of this cluster reach the metadata service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The reign of the metadata service: grows at each of its starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<i64>,
    /// How far the bucket that is further behind is behind, for people: such as `0s` or `3m20s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<String>,
    /// Each bucket that is owed copies. None without a target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["region".into()]))]
    pub replication: Vec<ReplicationStatus>,
    /// What the volume holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageStatus>,
    /// Who is connected to the metadata service, from both regions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<SessionCounts>,
    /// When both buckets were last compared with the metadata to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_synchronisation: Option<Time>,
    /// The state in the vocabulary of Kubernetes: `Ready`, `MetadataReady`, `Replicating`, `InSync`, `Degraded`, `Verified`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What a cluster is to a volume.
#[derive(JsonSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// It runs the metadata service.
    Primary,
    /// It is the other region.
    Target,
    /// The volume does not name its region.
    None,
}

/// How far a bucket is behind. Numbers above a thousand are rounded up to three digits: they never say less than is owed.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReplicationStatus {
    /// The region whose bucket is owed.
    pub region: String,
    /// Age of the oldest copy that it is owed, in seconds.
    pub lag_seconds: i64,
    /// Bytes owed.
    pub pending_bytes: i64,
    /// Objects owed, those that are only in the metadata yet included.
    pub pending_objects: i64,
    /// Objects set aside because they cannot be copied.
    pub set_aside_objects: i64,
    /// Why the first of them cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// What a volume holds. Numbers above a thousand are rounded up to three digits.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UsageStatus {
    /// Bytes of all files.
    pub used_bytes: i64,
    /// Files and directories.
    pub used_inodes: i64,
    /// The limit of bytes that is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_bytes: Option<i64>,
    /// The limit of inodes that is in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_inodes: Option<i64>,
}

/// Who is connected.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionCounts {
    /// Mounts.
    pub mounts: i64,
    /// Workers.
    pub workers: i64,
    /// Of both, those whose line is broken at the moment.
    pub disconnected: i64,
}
