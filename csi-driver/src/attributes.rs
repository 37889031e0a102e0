//! The attributes of a PersistentVolume: what the controller writes, or an administrator by hand, and the node reads. Pure.
//!
//! | key | what |
//! |---|---|
//! | `twinshore.io/volume` | `<namespace>/<name>` of the `ReplicatedVolume`; required |
//! | `twinshore.io/directory` | the directory in it; the root if it is missing |
//! | `twinshore.io/claim` | the name of the claim on that directory, of a volume that was provisioned |

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use twinshore_crds::names::CSI_VOLUME_ATTRIBUTE;
use twinshore_protocol::claims::{AccessTo, ClaimKey, DirectoryPath};

use crate::error::CallError;
use crate::volume_key::VolumeKey;

/// Key of the directory.
pub const DIRECTORY: &str = "twinshore.io/directory";
/// Key of the claim.
pub const CLAIM: &str = "twinshore.io/claim";

/// What others add: about the pod, and about the provisioner.
const FOREIGN: [&str; 2] = ["csi.storage.k8s.io/", "storage.kubernetes.io/"];

/// What a PersistentVolume shows, as text that was checked; also the form in which a node keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    volume: String,
    directory: Option<String>,
    claim: Option<String>,
}

impl Attributes {
    /// Of a claim.
    pub fn of_claim(volume: &VolumeKey, directory: &DirectoryPath, claim: &str) -> Self {
        Self {
            volume: volume.to_string(),
            directory: Some(directory.to_string()),
            claim: Some(claim.to_owned()),
        }
    }

    /// As a PersistentVolume holds them.
    pub fn to_context(&self) -> HashMap<String, String> {
        let Self {
            volume,
            directory,
            claim,
        } = self;
        [
            (CSI_VOLUME_ATTRIBUTE, Some(volume)),
            (DIRECTORY, directory.as_ref()),
            (CLAIM, claim.as_ref()),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?.clone())))
        .collect()
    }

    /// Reads those of a PersistentVolume.
    pub fn from_context(context: &HashMap<String, String>) -> Result<Self, CallError> {
        for key in context.keys() {
            let is_known = [CSI_VOLUME_ATTRIBUTE, DIRECTORY, CLAIM].contains(&key.as_str());
            if !is_known && !FOREIGN.iter().any(|prefix| key.starts_with(prefix)) {
                return Err(CallError::Invalid(format!(
                    "the volume attribute {key} does not exist: {CSI_VOLUME_ATTRIBUTE} and {DIRECTORY} do"
                )));
            }
        }
        let volume = context.get(CSI_VOLUME_ATTRIBUTE).ok_or_else(|| {
            CallError::Invalid(format!(
                "the volume attribute {CSI_VOLUME_ATTRIBUTE} is missing: it names the ReplicatedVolume as NAMESPACE/NAME"
            ))
        })?;
        let attributes = Self {
            volume: volume.clone(),
            directory: context
                .get(DIRECTORY)
                .filter(|path| path.as_str() != "/")
                .cloned(),
            claim: context.get(CLAIM).cloned(),
        };
        attributes.volume()?;
        attributes.directory()?;
        // The region is another's matter here: any will do to see whether the name is one.
        attributes.access_to("region")?;
        Ok(attributes)
    }

    /// The volume.
    pub fn volume(&self) -> Result<VolumeKey, CallError> {
        self.volume.parse()
    }

    /// The directory in it; none for the root.
    pub fn directory(&self) -> Result<Option<DirectoryPath>, CallError> {
        self.directory
            .as_deref()
            .map(|path| {
                path.parse().map_err(|error| {
                    CallError::Invalid(format!("the volume attribute {DIRECTORY}, {path}: {error}"))
                })
            })
            .transpose()
    }

    /// What a pod's access is registered on; none for the whole volume, which is nobody's alone.
    pub fn access_to(&self, region: &str) -> Result<Option<AccessTo>, CallError> {
        match &self.claim {
            Some(claim) => {
                let key = ClaimKey::new(region, claim.as_str()).map_err(|error| {
                    CallError::Invalid(format!("the volume attribute {CLAIM}, {claim}: {error}"))
                })?;
                Ok(Some(AccessTo::Claim(key)))
            }
            None => Ok(self.directory()?.map(AccessTo::Path)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn context(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn what_the_controller_writes_the_node_reads() {
        let attributes = Attributes::of_claim(
            &"team/documents".parse().unwrap(),
            &"/team/files".parse().unwrap(),
            "pvc-1",
        );
        let mut context = attributes.to_context();
        context.insert("csi.storage.k8s.io/pod.name".to_owned(), "x".to_owned());
        assert_eq!(Attributes::from_context(&context).unwrap(), attributes);
    }

    #[test]
    fn a_volume_made_by_hand_needs_only_the_name_of_the_resource() {
        let attributes = Attributes::from_context(&context(&[
            ("twinshore.io/volume", "team/documents"),
            (DIRECTORY, "/"),
        ]))
        .unwrap();
        assert_eq!(attributes.directory().unwrap(), None);
        assert_eq!(attributes.access_to("east").unwrap(), None);
    }

    #[test]
    fn what_leads_elsewhere_or_is_unknown_is_refused() {
        for wrong in [
            &[("twinshore.io/volume", "documents")][..],
            &[("twinshore.io/volume", "../documents")],
            &[("twinshore.io/directory", "/x")],
            &[
                ("twinshore.io/volume", "a/b"),
                ("twinshore.io/directory", "/x/../../y"),
            ],
            &[("twinshore.io/volume", "a/b"), ("twinshore.io/directroy", "/x")],
        ] {
            assert!(Attributes::from_context(&context(wrong)).is_err(), "{wrong:?}");
        }
    }
}
