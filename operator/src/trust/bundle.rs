//! The join bundle: what the primary's cluster hands over to the target's, once.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use serde_json::json;

use super::{Authority, Pair};

const ENDPOINT: &str = "endpoint";
const VOLUME_ID: &str = "volume-id";
const CA: &str = "ca.crt";
const CERTIFICATE: &str = "intermediate.crt";
const KEY: &str = "intermediate.key";
/// Key whose value is a manifest of the bundle for the other cluster, so that handing it over is one command.
pub const MANIFEST: &str = "manifest";

/// A Secret is no join bundle.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// Something is missing.
    #[error("the key {0} is missing or empty")]
    Missing(&'static str),
}

/// What the target's operator needs to take part in a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinBundle {
    /// Where the metadata service is reached from the other region: `https://host:port`.
    pub endpoint: String,
    /// The volume's identity.
    pub volume_id: String,
    /// The certificate of the volume's authority.
    pub authority: String,
    /// The intermediate of the target region.
    pub intermediate: Pair,
}

impl JoinBundle {
    /// The bundle of a volume that is reached at this endpoint.
    pub fn new(authority: &Authority, endpoint: String) -> Self {
        Self {
            endpoint,
            volume_id: authority.volume_id.clone(),
            authority: authority.root.certificate.clone(),
            intermediate: authority.target.clone(),
        }
    }

    /// As the data of the Secret `<volume>-join`: with the manifest of the same Secret, free of everything that belongs to one
    /// cluster only.
    pub fn to_data(&self, name: &str, namespace: &str) -> BTreeMap<String, ByteString> {
        let texts = self.texts();
        let manifest = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "namespace": namespace},
            "stringData": texts,
        });
        let mut data: BTreeMap<String, ByteString> = texts
            .into_iter()
            .map(|(key, value)| (key.to_owned(), ByteString(value.as_bytes().to_vec())))
            .collect();
        data.insert(
            MANIFEST.to_owned(),
            ByteString(format!("{manifest:#}\n").into_bytes()),
        );
        data
    }

    fn texts(&self) -> BTreeMap<&'static str, &str> {
        let Self {
            endpoint,
            volume_id,
            authority,
            intermediate,
        } = self;
        BTreeMap::from([
            (ENDPOINT, endpoint.as_str()),
            (VOLUME_ID, volume_id),
            (CA, authority),
            (CERTIFICATE, &intermediate.certificate),
            (KEY, &intermediate.key),
        ])
    }

    /// From the data of a Secret.
    pub fn from_data(data: &BTreeMap<String, ByteString>) -> Result<Self, BundleError> {
        let text = |key: &'static str| {
            data.get(key)
                .and_then(|value| String::from_utf8(value.0.clone()).ok())
                .map(|value| value.trim().to_owned())
                .filter(|value| !value.is_empty())
                .ok_or(BundleError::Missing(key))
        };
        Ok(Self {
            endpoint: text(ENDPOINT)?,
            volume_id: text(VOLUME_ID)?,
            authority: format!("{}\n", text(CA)?),
            intermediate: Pair {
                certificate: format!("{}\n", text(CERTIFICATE)?),
                key: format!("{}\n", text(KEY)?),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use jiff::Timestamp;

    use super::*;

    #[test]
    fn the_manifest_in_the_bundle_is_the_bundle_of_the_other_cluster() {
        let authority = Authority::generate("id", Timestamp::UNIX_EPOCH).unwrap();
        let bundle = JoinBundle::new(&authority, "https://east.example.org:7700".to_owned());
        let data = bundle.to_data("documents-join", "team");
        let manifest: serde_json::Value = serde_json::from_slice(&data[MANIFEST].0).unwrap();
        assert_eq!(
            manifest["metadata"],
            json!({"name": "documents-join", "namespace": "team"})
        );
        let there = manifest["stringData"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(key, value)| {
                (
                    key.clone(),
                    ByteString(value.as_str().unwrap().as_bytes().to_vec()),
                )
            })
            .collect();
        assert_eq!(JoinBundle::from_data(&there).unwrap().endpoint, bundle.endpoint);
        assert_eq!(
            JoinBundle::from_data(&there).unwrap().intermediate.key.trim(),
            bundle.intermediate.key.trim()
        );
    }

    #[test]
    fn the_bundle_never_holds_the_key_of_the_authority() {
        let authority = Authority::generate("id", Timestamp::UNIX_EPOCH).unwrap();
        let data = JoinBundle::new(&authority, "e".to_owned()).to_data("n", "s");
        for value in data.values() {
            let text = String::from_utf8_lossy(&value.0).replace("\\n", "\n");
            assert!(!text.contains(authority.root.key.trim()));
            assert!(!text.contains(authority.primary.key.trim()));
        }
    }
}
