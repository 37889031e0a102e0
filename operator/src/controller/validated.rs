//! A volume after validation: every reference is resolved, every value means something.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Affinity, LocalObjectReference, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use twinshore_crds::client_secret::PartBucket;
use twinshore_crds::names::{
    COMPONENT_LABEL, MANAGED_BY_LABEL, MANAGER, NAME_LABEL, PRODUCT, VOLUME_LABEL, VolumeNames,
};
use twinshore_crds::{Compression, Durability, ExposureSpec, PodSettings};
use twinshore_protocol::Side;

use crate::trust::{Authority, JoinBundle, Pair};

/// A bucket with its keys.
#[derive(Clone, PartialEq, Eq)]
pub struct ValidatedBucket {
    /// Where and how.
    pub bucket: PartBucket,
    /// Content of its credentials file; none if an identity opens it.
    pub credentials: Option<String>,
}

/// Where the other region reaches the metadata service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Nobody shall.
    No,
    /// Not known yet.
    Waiting,
    /// There.
    At {
        /// Name or IP address.
        host: String,
        /// Port.
        port: u16,
    },
}

/// Whose trust signs the certificates of this cluster.
#[derive(Clone, PartialEq, Eq)]
pub enum TrustSource {
    /// The volume's own authority, if it is there yet.
    Authority(Option<Box<Authority>>),
    /// The intermediate of the join bundle.
    Bundle(Box<JoinBundle>),
}

/// The settings of the volume that the metadata service keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedSettings {
    /// Whether objects are copied.
    pub replication_enabled: bool,
    /// Compression of new objects.
    pub compression: Compression,
    /// When `close` returns.
    pub durability: Durability,
    /// How long removed files can be restored.
    pub trash_retention: Duration,
    /// Between two full synchronisations; zero for never.
    pub synchronisation_interval: Duration,
    /// Bytes per second to each bucket; 0 for no limit.
    pub bandwidth_limit: u64,
    /// Limit of bytes.
    pub limit_bytes: Option<u64>,
    /// Limit of inodes.
    pub limit_inodes: Option<u64>,
}

/// Where pods run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValidatedPod {
    /// As it is written.
    pub spec: PodSettings,
    /// Affinity.
    pub affinity: Option<Affinity>,
    /// How they spread.
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
}

/// The metadata service.
#[derive(Clone, PartialEq)]
pub struct ValidatedMetadata {
    /// Size of its disk, as it is written.
    pub storage_size: String,
    /// Class of its disk.
    pub storage_class: Option<String>,
    /// How it is exposed, as it is written.
    pub exposure_spec: ExposureSpec,
    /// Where it is reached.
    pub exposure: Exposure,
    /// Its pod.
    pub pod: ValidatedPod,
}

/// The workers.
#[derive(Clone, PartialEq)]
pub struct ValidatedWorkers {
    /// How many.
    pub count: i32,
    /// Copies at a time.
    pub slots: i32,
    /// Memory for objects under way.
    pub memory_bytes: u64,
    /// Their pods.
    pub pod: ValidatedPod,
}

/// Certificates that are there.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PresentLeaves {
    /// Of the metadata service.
    pub metadata: Option<Pair>,
    /// Of the workers.
    pub worker: Option<Pair>,
    /// Of the mounts.
    pub client: Option<Pair>,
    /// Of the controller plugin.
    pub controller: Option<Pair>,
    /// Of administration.
    pub admin: Option<Pair>,
}

/// A volume of which everything is known that this cluster needs.
#[derive(Clone, PartialEq)]
pub struct Validated {
    /// What its objects are called.
    pub names: VolumeNames,
    /// Where they are.
    pub namespace: String,
    /// Whose they are.
    pub owner: OwnerReference,
    /// The identity of the resource: that of a volume that is made for it.
    pub uid: String,
    /// The region of this cluster.
    pub region: String,
    /// Which side that is.
    pub side: Side,
    /// The primary region's bucket.
    pub primary: ValidatedBucket,
    /// The target region's.
    pub target: Option<ValidatedBucket>,
    /// Authorities of the buckets' endpoints (PEM).
    pub bucket_authorities: Option<String>,
    /// What the metadata service shall keep.
    pub settings: WantedSettings,
    /// The metadata service.
    pub metadata: ValidatedMetadata,
    /// The workers.
    pub workers: ValidatedWorkers,
    /// Disk cache of a mount.
    pub cache_bytes: u64,
    /// Memory of a mount.
    pub memory_bytes: u64,
    /// Identity of the pods.
    pub service_account: Option<String>,
    /// To pull the image.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Whose trust signs.
    pub trust: TrustSource,
    /// Certificates that are there.
    pub present: PresentLeaves,
}

impl Validated {
    /// Names under which the metadata service is reached within its cluster.
    pub fn metadata_hosts(&self) -> BTreeSet<String> {
        let service = self.names.metadata();
        let namespace = &self.namespace;
        let mut hosts = BTreeSet::from([
            // It opens a session with itself.
            "localhost".to_owned(),
            "127.0.0.1".to_owned(),
            format!("{service}.{namespace}.svc"),
            format!("{service}.{namespace}.svc.cluster.local"),
            format!("{service}-0.{service}.{namespace}.svc"),
            format!("{}.{namespace}.svc", self.names.exposed()),
        ]);
        if let Exposure::At { host, .. } = &self.metadata.exposure {
            hosts.insert(host.clone());
        }
        hosts
    }

    /// Labels of an object of a part.
    pub fn labels(&self, component: &str) -> BTreeMap<String, String> {
        BTreeMap::from(
            [
                (NAME_LABEL, PRODUCT),
                (MANAGED_BY_LABEL, MANAGER),
                (COMPONENT_LABEL, component),
                (VOLUME_LABEL, self.names.volume()),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        )
    }
}
