//! The custom resources, and what every part in a cluster must agree on: names, labels, conditions, and the Secret that a mount
//! needs.
//!
//! | module | what |
//! |---|---|
//! | [`volume`] | `ReplicatedVolume`: its root and its spec |
//! | [`region`], [`metadata`], [`replication`], [`pods`], [`settings`] | the parts of the spec |
//! | [`status`] | what the operator writes |
//! | [`conditions`] | the vocabulary of conditions and reasons; there is no other |
//! | [`names`] | what a volume's objects are called |
//! | [`client_secret`] | the Secret `<volume>-client`: everything a mount needs |
//! | [`yaml`] | the resource definition as the chart ships it |

pub mod client_secret;
pub mod conditions;
pub mod metadata;
pub mod names;
pub mod pods;
pub mod region;
pub mod replication;
pub mod settings;
pub mod status;
pub mod volume;
pub mod yaml;

pub use metadata::{ExposureSpec, ExposureType, MetadataSpec, StorageSpec};
pub use pods::PodSettings;
pub use region::{AddressingStyle, BucketSpec, RegionSpec, SecretReference};
pub use replication::ReplicationSpec;
pub use settings::{CacheSpec, Compression, DeletionPolicy, Durability, QuotaSpec};
pub use status::{ReplicatedVolumeStatus, ReplicationStatus, Role, SessionCounts, UsageStatus};
pub use volume::{ReplicatedVolume, ReplicatedVolumeSpec};

/// The API group.
pub const GROUP: &str = "twinshore.io";
/// The version of the API.
pub const VERSION: &str = "v1alpha1";
