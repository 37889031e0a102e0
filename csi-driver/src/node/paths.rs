//! Where things are on a node, and which paths from outside are let in.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};
use twinshore_crds::names::CSI_DRIVER;

use crate::error::CallError;
use crate::volume_key::VolumeKey;

/// The longest path (`PATH_MAX` of Linux, without its zero).
const PATH_MAX_BYTES: usize = 4095;

/// The longest identifier of a volume that the specification allows.
pub const VOLUME_ID_MAX_BYTES: usize = 128;

/// The directories of a node.
#[derive(Clone, Debug)]
pub struct Paths {
    kubelet: PathBuf,
}

impl Paths {
    /// `kubelet` is its directory, `/var/lib/kubelet` by default.
    pub fn new(kubelet: &Path) -> Self {
        Self {
            kubelet: kubelet.to_owned(),
        }
    }

    /// The driver's directory.
    pub fn plugin(&self) -> PathBuf {
        self.kubelet.join("plugins").join(CSI_DRIVER)
    }

    /// The driver's socket.
    pub fn socket(&self) -> PathBuf {
        self.plugin().join("csi.sock")
    }

    /// Where the kubelet looks for plugins.
    pub fn registration(&self) -> PathBuf {
        self.kubelet
            .join("plugins_registry")
            .join(format!("{CSI_DRIVER}-reg.sock"))
    }

    /// Where the plugin listens for the mounter: a directory of its own, as the mounter must see no mount of ours (who sees one holds it).
    pub fn mounter(&self) -> PathBuf {
        self.plugin().join("mounter").join("plugin.sock")
    }

    /// Where volumes are mounted.
    pub fn volumes(&self) -> PathBuf {
        self.plugin().join("volumes")
    }

    /// Where a volume is mounted.
    pub fn volume(&self, key: &VolumeKey) -> PathBuf {
        self.volumes().join(key.namespace()).join(key.name())
    }

    /// The volume that is mounted at a path.
    pub fn volume_at(&self, path: &Path) -> Option<VolumeKey> {
        let below = path.strip_prefix(self.volumes()).ok()?;
        below.to_str()?.parse().ok()
    }

    /// Where it is written down what is staged.
    pub fn records(&self) -> PathBuf {
        self.plugin().join("staged")
    }

    /// The record of a volume. Identifiers are chosen by people too: what is no name of a file becomes one.
    pub fn record(&self, volume_id: &str) -> PathBuf {
        use std::fmt::Write as _;
        let sum = Sha256::digest(volume_id.as_bytes());
        let mut name = String::with_capacity(37);
        for byte in &sum[..16] {
            // Writing to a string does not fail.
            let _ = write!(name, "{byte:02x}");
        }
        self.records().join(format!("{name}.json"))
    }

    /// A path that Kubernetes gives: below the kubelet's directory, and it leads nowhere else.
    pub fn check(&self, what: &str, path: &str) -> Result<PathBuf, CallError> {
        if path.is_empty() {
            return Err(CallError::Invalid(format!("the {what} is missing")));
        }
        let path = PathBuf::from(path);
        let is_plain = path
            .components()
            .all(|component| matches!(component, Component::RootDir | Component::Normal(_)));
        let is_below = path.starts_with(&self.kubelet) && path != self.kubelet;
        if !is_plain || !is_below || path.as_os_str().as_bytes().contains(&0) {
            return Err(CallError::Invalid(format!(
                "the {what} {} is not below {}",
                path.display(),
                self.kubelet.display()
            )));
        }
        if path.as_os_str().len() > PATH_MAX_BYTES {
            return Err(CallError::Invalid(format!("the {what} is too long")));
        }
        // As one writes it: without double slashes and dots that components pass over.
        Ok(path.components().collect())
    }
}

/// An identifier of a volume that Kubernetes gives.
pub fn check_volume_id(id: &str) -> Result<(), CallError> {
    if id.is_empty() {
        return Err(CallError::Invalid("the volume id is missing".to_owned()));
    }
    if id.len() > VOLUME_ID_MAX_BYTES {
        return Err(CallError::Invalid(format!(
            "the volume id is longer than {VOLUME_ID_MAX_BYTES} bytes"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_paths_below_the_kubelets_directory_are_let_in() {
        let paths = Paths::new(Path::new("/var/lib/kubelet"));
        for right in ["/var/lib/kubelet/pods/1/mount", "/var/lib/kubelet//pods/./1"] {
            assert!(paths.check("target path", right).is_ok(), "{right}");
        }
        assert_eq!(
            paths.check("target path", "/var/lib/kubelet//pods/./1/").unwrap(),
            Path::new("/var/lib/kubelet/pods/1")
        );
        for wrong in [
            "",
            "/",
            "/etc",
            "/var/lib/kubelet",
            "/var/lib/kubelet/../x",
            "/var/lib/kubelet/pods/../../../../etc",
            "pods/1",
            "/var/lib/kubelet-other/x",
        ] {
            assert!(paths.check("target path", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_identifier_never_leads_out_of_the_directory_of_records() {
        let paths = Paths::new(Path::new("/k"));
        let record = paths.record("../../etc/passwd");
        assert_eq!(record.parent().unwrap(), paths.records());
        assert_ne!(record, paths.record("other"));
    }

    #[test]
    fn the_place_of_a_mount_tells_its_volume() {
        let paths = Paths::new(Path::new("/k"));
        let key: VolumeKey = "team/documents".parse().unwrap();
        assert_eq!(paths.volume_at(&paths.volume(&key)), Some(key));
        assert_eq!(
            paths.volume_at(Path::new("/k/plugins/csi.twinshore.io/volumes/team")),
            None
        );
    }
}
