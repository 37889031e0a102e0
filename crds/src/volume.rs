//! `ReplicatedVolume`.

use k8s_openapi::api::core::v1::LocalObjectReference;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::metadata::MetadataSpec;
use crate::region::RegionSpec;
use crate::replication::ReplicationSpec;
use crate::settings::{CacheSpec, Compression, DeletionPolicy, Durability, QuotaSpec};
use crate::status::ReplicatedVolumeStatus;

/// One file system over two buckets in two regions. The same manifest is applied in both clusters.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "twinshore.io",
    version = "v1alpha1",
    kind = "ReplicatedVolume",
    namespaced,
    status = "ReplicatedVolumeStatus",
    derive = "PartialEq",
    shortname = "rvol",
    category = "twinshore",
    doc = "One POSIX file system whose data sits in two buckets, one per region. Apply the same manifest in both clusters: each \
           operator knows its own region.",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#, description = "Whether the volume can be mounted in this cluster."),
    printcolumn(name = "Role", type_ = "string", json_path = ".status.role", description = "What this cluster is to the volume."),
    printcolumn(name = "Active", type_ = "string", json_path = ".status.activeRegion", description = "The region whose metadata service leads."),
    printcolumn(name = "Lag", type_ = "string", json_path = ".status.lag", description = "How far the bucket that is further behind is behind."),
    printcolumn(name = "Last-Sync", type_ = "date", json_path = ".status.lastSynchronisation", priority = 1, description = "When both buckets were last compared with the metadata."),
    printcolumn(name = "Epoch", type_ = "integer", json_path = ".status.epoch", priority = 1, description = "The reign of the metadata service."),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#, priority = 1, description = "Why it is ready or not, in one word."),
    printcolumn(name = "Message", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].message"#, priority = 1, description = "The same for people."),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')").message("the name of a volume is part of the names of Services: at most 40 lower case letters, digits and `-`, beginning with a letter and not ending with `-`").reason(Reason::FieldValueInvalid),
)]
#[x_kube(
    validation = Rule::new("!has(self.target) || self.target.region != self.primary.region").message("primary and target are two regions: give them different names").reason(Reason::FieldValueInvalid).field_path(".target.region"),
    validation = Rule::new("!has(self.target) || self.target.bucket.name != self.primary.bucket.name || (has(self.target.bucket.endpoint) ? self.target.bucket.endpoint : '') != (has(self.primary.bucket.endpoint) ? self.primary.bucket.endpoint : '') || (has(self.target.bucket.prefix) ? self.target.bucket.prefix : '') != (has(self.primary.bucket.prefix) ? self.primary.bucket.prefix : '')").message("primary and target need buckets of their own: with one bucket nothing is replicated").reason(Reason::FieldValueInvalid).field_path(".target.bucket"),
    validation = Rule::new("!has(oldSelf.target) || has(self.target)").message("a target cannot be removed yet: set replication.enabled to false instead").reason(Reason::FieldValueForbidden),
    validation = Rule::new("!has(self.target) || self.metadata.exposure.type != 'None'").message("the other region must reach the metadata service: choose another metadata.exposure.type").reason(Reason::FieldValueInvalid).field_path(".metadata.exposure.type"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplicatedVolumeSpec {
    /// The region where the metadata service runs.
    pub primary: RegionSpec,
    /// The other region. It can be added later, while the volume is in use; what exists is then copied in the background.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<RegionSpec>,
    /// The metadata service.
    #[serde(default)]
    pub metadata: MetadataSpec,
    /// Copies between the two buckets.
    #[serde(default)]
    pub replication: ReplicationSpec,
    /// When `close` and `fsync` return. `Close`: both return when data and metadata are durable in the near region. `Fsync`: only
    /// `fsync` does; closing a new file does not wait, and who reads it elsewhere waits until it is stored.
    #[serde(default)]
    pub durability: Durability,
    /// How content is compressed before it is stored: `None`, `Lz4` (fast) or `Zstd` (smaller). Objects that exist stay as they are.
    #[serde(default)]
    pub compression: Compression,
    /// Limits of the whole volume. None by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<QuotaSpec>,
    /// The disk cache of each mount.
    #[serde(default)]
    pub cache: CacheSpec,
    /// How long removed files can be restored, in hours, minutes and seconds, such as `24h`; `0s` removes at once.
    #[serde(default = "default_trash_retention")]
    #[schemars(
        length(min = 2, max = 20),
        regex(pattern = r"^([0-9]{1,5}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$")
    )]
    #[x_kube(validation = Rule::new("duration(self) <= duration('8760h')").message("at most a year: 8760h").reason(Reason::FieldValueInvalid))]
    pub trash_retention: String,
    /// The service account of the metadata service and the workers, for buckets that are opened with the identity of a service
    /// account instead of keys. It must exist in the namespace of the volume in both clusters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub service_account_name: Option<String>,
    /// Secrets to pull the image with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// What becomes of the data when this resource is deleted. `Retain` keeps both buckets and the metadata: the same resource,
    /// made again, finds them. `Delete` removes everything, once no PersistentVolume uses the volume.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
    /// The operator leaves everything as it is, for a repair by hand.
    #[serde(default)]
    pub paused: bool,
}

fn default_trash_retention() -> String {
    "24h".to_owned()
}
