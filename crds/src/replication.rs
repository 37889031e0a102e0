//! Copies between the two buckets.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::pods::PodSettings;

/// Copies between the two buckets.
#[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReplicationSpec {
    /// Whether new objects are copied to the other bucket. Reads use both buckets all the same. What was written meanwhile is
    /// copied when it is switched on again.
    #[serde(default = "default_enabled")]
    pub enabled: bool,
    /// Workers in each cluster. They also pack small data and tidy up, so a volume with one region has them too. `0` leaves all of
    /// it to the other cluster and to the mounts.
    #[serde(default = "default_workers")]
    #[schemars(range(min = 0, max = 64))]
    pub workers: i32,
    /// How many objects a worker copies at a time.
    #[serde(default = "default_slots")]
    #[schemars(range(min = 1, max = 1024))]
    pub slots: i32,
    /// Memory of a worker for objects under way.
    #[serde(default = "default_memory")]
    #[schemars(length(min = 1, max = 20), regex(pattern = r"^[0-9]+(k|M|G|Ki|Mi|Gi)?$"))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('64Mi')) >= 0 && quantity(self).compareTo(quantity('1Ti')) <= 0").message("between 64Mi and 1Ti").reason(Reason::FieldValueInvalid))]
    pub memory: String,
    /// Bytes per second that may be copied to each bucket, such as `100Mi`; no limit without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 20), regex(pattern = r"^[0-9]+(k|M|G|T|Ki|Mi|Gi|Ti)?$"))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('64Ki')) >= 0").message("at least 64Ki per second; to stop copies, set enabled to false").reason(Reason::FieldValueInvalid))]
    pub bandwidth_limit: Option<String>,
    /// How long after one comparison of both buckets with the metadata the next begins; `0s` for never.
    #[serde(default = "default_interval")]
    #[schemars(
        length(min = 2, max = 20),
        regex(pattern = r"^([0-9]{1,5}h)?([0-9]{1,6}m)?([0-9]{1,8}s)?$")
    )]
    #[x_kube(validation = Rule::new("duration(self) == duration('0s') || (duration(self) >= duration('1h') && duration(self) <= duration('8760h'))").message("between 1h and 8760h (a year), or 0s for never").reason(Reason::FieldValueInvalid))]
    pub synchronisation_interval: String,
    /// The pods of the workers.
    #[serde(default)]
    pub pod: PodSettings,
}

impl Default for ReplicationSpec {
    fn default() -> Self {
        Self {
            enabled: default_enabled(),
            workers: default_workers(),
            slots: default_slots(),
            memory: default_memory(),
            bandwidth_limit: None,
            synchronisation_interval: default_interval(),
            pod: PodSettings::default(),
        }
    }
}

fn default_enabled() -> bool {
    true
}

fn default_workers() -> i32 {
    1
}

fn default_slots() -> i32 {
    64
}

fn default_memory() -> String {
    "256Mi".to_owned()
}

fn default_interval() -> String {
    "168h".to_owned()
}
