//! Settings of a volume that are one value each.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// When `close` and `fsync` return.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Durability {
    /// Both when data and metadata are durable in the near region.
    #[default]
    Close,
    /// Only `fsync` waits.
    Fsync,
}

/// How content is compressed.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Compression {
    /// Not at all.
    #[default]
    None,
    /// Fast.
    Lz4,
    /// Smaller.
    Zstd,
}

/// What becomes of the data when the resource is deleted.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeletionPolicy {
    /// It stays.
    #[default]
    Retain,
    /// It is removed.
    Delete,
}

/// Limits of a volume.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.size) || has(self.inodes)").message("a quota limits the size, the inodes, or both").reason(Reason::FieldValueRequired))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QuotaSpec {
    /// Bytes of content, such as `500Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 20),
        regex(pattern = r"^[0-9]+(k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$")
    )]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))").message("more than 0, such as 500Gi").reason(Reason::FieldValueInvalid))]
    pub size: Option<String>,
    /// Files and directories.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub inodes: Option<i64>,
}

/// The disk cache of a mount.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CacheSpec {
    /// How much of a node's disk the cache of this volume may take; `0` for none.
    #[serde(default = "default_cache_size")]
    #[schemars(
        length(min = 1, max = 20),
        regex(pattern = r"^[0-9]+(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")
    )]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('100Ti')) <= 0").message("at most 100Ti").reason(Reason::FieldValueInvalid))]
    pub size: String,
    /// Memory of a mount for writing, reading ahead and caching.
    #[serde(default = "default_cache_memory")]
    #[schemars(length(min = 1, max = 20), regex(pattern = r"^[0-9]+(k|M|G|Ki|Mi|Gi)?$"))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('64Mi')) >= 0 && quantity(self).compareTo(quantity('1Ti')) <= 0").message("between 64Mi and 1Ti").reason(Reason::FieldValueInvalid))]
    pub memory: String,
}

impl Default for CacheSpec {
    fn default() -> Self {
        Self {
            size: default_cache_size(),
            memory: default_cache_memory(),
        }
    }
}

fn default_cache_size() -> String {
    "10Gi".to_owned()
}

fn default_cache_memory() -> String {
    "300Mi".to_owned()
}
