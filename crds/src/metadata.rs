//! The metadata service of a volume.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pods::PodSettings;

/// The metadata service. It runs in the primary region.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MetadataSpec {
    /// Where its journal and state are.
    #[serde(default)]
    pub storage: StorageSpec,
    /// How the other region reaches it.
    #[serde(default)]
    pub exposure: ExposureSpec,
    /// Its pod.
    #[serde(default)]
    pub pod: PodSettings,
}

/// The disk of the metadata service.
#[derive(KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("(has(self.className) ? self.className : '') == (has(oldSelf.className) ? oldSelf.className : '')").message("a disk cannot move to another storage class").reason(Reason::FieldValueForbidden))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StorageSpec {
    /// Its size. It can grow, if the storage class allows it, and never shrinks.
    #[serde(default = "default_storage_size")]
    #[schemars(
        length(min = 1, max = 20),
        regex(pattern = r"^[0-9]+(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")
    )]
    #[x_kube(
        validation = Rule::new("isQuantity(self) && quantity(self).compareTo(quantity('256Mi')) >= 0").message("at least 256Mi").reason(Reason::FieldValueInvalid),
        validation = Rule::new("quantity(self).compareTo(quantity(oldSelf)) >= 0").message("a disk can grow, but not shrink").reason(Reason::FieldValueForbidden),
    )]
    pub size: String,
    /// Its storage class; the cluster's default without it. Choose one whose disks survive the loss of a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub class_name: Option<String>,
}

impl Default for StorageSpec {
    fn default() -> Self {
        Self {
            size: default_storage_size(),
            class_name: None,
        }
    }
}

fn default_storage_size() -> String {
    "10Gi".to_owned()
}

/// How the other region reaches the metadata service.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.type != 'Address' || has(self.address)").message("the type Address needs an address").reason(Reason::FieldValueRequired),
    validation = Rule::new("self.type != 'NodePort' || has(self.address)").message("the type NodePort needs an address: a node's, or a name that leads to all nodes").reason(Reason::FieldValueRequired),
    validation = Rule::new("!has(self.address) || self.type in ['Address', 'NodePort', 'LoadBalancer']").message("nothing is exposed, so an address means nothing").reason(Reason::FieldValueInvalid).field_path(".address"),
    validation = Rule::new("!has(self.port) || self.type in ['Address', 'NodePort']").message("a port can be chosen for the types NodePort and Address").reason(Reason::FieldValueInvalid).field_path(".port"),
    validation = Rule::new("self.type != 'NodePort' || !has(self.port) || self.port >= 1024").message("a node port is 1024 or above, mostly 30000 to 32767").reason(Reason::FieldValueInvalid).field_path(".port"),
    validation = Rule::new("!has(self.annotations) || self.type in ['LoadBalancer', 'NodePort']").message("annotations are those of the Service, which the types LoadBalancer and NodePort make").reason(Reason::FieldValueInvalid).field_path(".annotations"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExposureSpec {
    /// `LoadBalancer`: a Service of that type. `NodePort`: a Service of that type, reached under `address`. `Address`: you route
    /// `address` to the Service `<volume>-metadata` yourself. `None`: only from within the cluster, for volumes without a target.
    #[serde(default, rename = "type")]
    pub kind: ExposureType,
    /// A host name or IP address under which the other region reaches it. With `LoadBalancer`, instead of the address that the
    /// load balancer reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[A-Za-z0-9]([A-Za-z0-9.\-]*[A-Za-z0-9])?$|^[0-9A-Fa-f:]+$")
    )]
    pub address: Option<String>,
    /// The port there. With `NodePort` the cluster chooses one without it; with `Address` it is 7700.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// Annotations of the Service, as load balancers want them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub annotations: Option<BTreeMap<String, String>>,
}

/// How the metadata service is exposed.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExposureType {
    /// By a Service of type `LoadBalancer`.
    #[default]
    LoadBalancer,
    /// By a Service of type `NodePort`.
    NodePort,
    /// By something outside of the operator's care.
    Address,
    /// Not at all.
    None,
}
