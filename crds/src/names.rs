//! What the objects of a volume are called, and how they are labelled.

/// Label with the name of the volume, on everything that belongs to one.
pub const VOLUME_LABEL: &str = "twinshore.io/volume";
/// Label with the part: one of the `..._COMPONENT` below.
pub const COMPONENT_LABEL: &str = "app.kubernetes.io/component";
/// Label with the product.
pub const NAME_LABEL: &str = "app.kubernetes.io/name";
/// Label with who made it.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";
/// Value of [`NAME_LABEL`].
pub const PRODUCT: &str = "twinshore";
/// Value of [`MANAGED_BY_LABEL`], and the field manager of the operator.
pub const MANAGER: &str = "twinshore-operator";
/// The finalizer of a volume.
pub const FINALIZER: &str = "twinshore.io/operator";
/// A value that differs from the last one makes the operator look at the volume again.
pub const RECONCILE_ANNOTATION: &str = "twinshore.io/reconcile-requested";
/// The CSI driver, and the key of a PersistentVolume's attributes that names the volume as `<namespace>/<name>`.
pub const CSI_DRIVER: &str = "csi.twinshore.io";
/// Key of the attributes of a PersistentVolume: `<namespace>/<name>` of its `ReplicatedVolume`.
pub const CSI_VOLUME_ATTRIBUTE: &str = "twinshore.io/volume";

/// What the sessions of the CSI plugins say they are for. They are no mounts.
pub const CSI_PURPOSES: [&str; 2] = ["csi node", "csi controller"];

/// The metadata service.
pub const METADATA_COMPONENT: &str = "metadata";
/// The workers.
pub const WORKER_COMPONENT: &str = "worker";
/// What is about trust.
pub const TRUST_COMPONENT: &str = "trust";
/// What mounts need.
pub const CLIENT_COMPONENT: &str = "client";
/// What is done once.
pub const JOB_COMPONENT: &str = "job";

/// Port of the metadata service.
pub const METADATA_PORT: i32 = 7700;
/// Port of its metrics and health.
pub const METADATA_HTTP_PORT: i32 = 7701;

/// The names of the objects of one volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeNames {
    volume: String,
}

impl VolumeNames {
    /// Of the volume with this name.
    pub fn new(volume: impl Into<String>) -> Self {
        Self {
            volume: volume.into(),
        }
    }

    /// The volume's own name.
    pub fn volume(&self) -> &str {
        &self.volume
    }

    /// StatefulSet, headless Service, NetworkPolicy and PodDisruptionBudget of the metadata service.
    pub fn metadata(&self) -> String {
        self.with("metadata")
    }

    /// The claim of the disk of the metadata service: as a StatefulSet would call it, so that it could adopt it.
    pub fn metadata_claim(&self) -> String {
        format!("data-{}-metadata-0", self.volume)
    }

    /// Service through which the other region reaches the metadata service.
    pub fn exposed(&self) -> String {
        self.with("metadata-exposed")
    }

    /// Deployment and PodDisruptionBudget of the workers.
    pub fn worker(&self) -> String {
        self.with("worker")
    }

    /// Secret: the volume's certificate authority and its identity.
    pub fn authority(&self) -> String {
        self.with("ca")
    }

    /// Secret of the metadata service.
    pub fn metadata_secret(&self) -> String {
        self.with("metadata-tls")
    }

    /// Secret of the workers.
    pub fn worker_secret(&self) -> String {
        self.with("worker-tls")
    }

    /// Secret of the mounts, and the Role and RoleBinding that let the node plugin read it.
    pub fn client(&self) -> String {
        self.with("client")
    }

    /// Secret of the controller plugin, and the Role and RoleBinding that let it read it.
    pub fn controller(&self) -> String {
        self.with("controller")
    }

    /// Secret of who may change the volume: the operator's jobs.
    pub fn admin(&self) -> String {
        self.with("admin")
    }

    /// Secret that is handed over to the other cluster.
    pub fn join(&self) -> String {
        self.with("join")
    }

    /// Job that takes the target's bucket into use.
    pub fn target_job(&self) -> String {
        self.with("set-target")
    }

    /// Job that empties both buckets.
    pub fn destroy_job(&self) -> String {
        self.with("destroy")
    }

    fn with(&self, part: &str) -> String {
        format!("{}-{part}", self.volume)
    }
}

#[cfg(test)]
mod tests {
    use super::VolumeNames;

    #[test]
    fn the_longest_name_of_a_volume_leaves_room_for_all_others() {
        let names = VolumeNames::new("v".repeat(40));
        // Pods of a StatefulSet get a label with the name and a hash: at most 52 characters of it.
        assert!(names.metadata().len() <= 52);
        assert!(names.exposed().len() <= 63);
        assert!(names.metadata_claim().len() <= 63);
    }
}
