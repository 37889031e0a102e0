//! The Secret that a part of a volume needs to take part in it: `<volume>-client` for mounts, and in the same form
//! `<volume>-controller` (without keys of buckets), `<volume>-worker-tls`, `<volume>-metadata-tls` and `<volume>-admin`.
//!
//! | key | what |
//! |---|---|
//! | `config.json` | a [`PartConfig`]: everything that is no secret |
//! | `credentials`, `credentials2` | for `--credentials-file`, `--credentials-file2`; absent if a bucket is opened with an identity |
//! | `bucket-ca.crt` | for `--bucket-ca-file`; absent if the system's certificates suffice |
//! | `ca.crt`, `tls.crt`, `tls.key` | for `--tls-ca`, `--tls-cert`, `--tls-key` |
//!
//! All of it may change at any time: keys are rotated, certificates renewed, a target is added.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::ByteString;
use serde::{Deserialize, Serialize};

use crate::region::AddressingStyle;

/// Key of [`PartConfig`].
pub const CONFIG_KEY: &str = "config.json";
/// Key of the primary bucket's keys.
pub const CREDENTIALS_KEY: &str = "credentials";
/// Key of the target bucket's keys.
pub const CREDENTIALS2_KEY: &str = "credentials2";
/// Key of the certificates of the buckets' endpoints.
pub const BUCKET_CA_KEY: &str = "bucket-ca.crt";
/// Key of the volume's certificate authority.
pub const AUTHORITY_KEY: &str = "ca.crt";
/// Key of the part's certificate, followed by its intermediate.
pub const CERTIFICATE_KEY: &str = "tls.crt";
/// Key of the part's private key.
pub const PRIVATE_KEY_KEY: &str = "tls.key";

/// A bucket as a part opens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartBucket {
    /// The region's name.
    pub region: String,
    /// For `--bucket` or `--bucket2`.
    pub url: String,
    /// The region that requests are signed for, if it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_region: Option<String>,
    /// How the bucket is named in requests.
    #[serde(default)]
    pub addressing_style: AddressingStyle,
}

/// What a part needs to know, without secrets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartConfig {
    /// The volume's identity.
    pub volume_id: String,
    /// The volume's name.
    pub volume: String,
    /// For `--metadata`.
    pub endpoint: String,
    /// The region of this cluster.
    pub region: String,
    /// This cluster is in the target region: for `--flip`.
    pub flip: bool,
    /// The primary region's bucket.
    pub primary: PartBucket,
    /// The target region's bucket, if the volume has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<PartBucket>,
    /// For `--cache-size`, in bytes; 0 for no disk cache.
    pub cache_bytes: u64,
    /// For `--buffer-size`, in bytes.
    pub memory_bytes: u64,
}

/// Everything that a part needs.
#[derive(Clone, PartialEq, Eq)]
pub struct PartSecret {
    /// What is no secret.
    pub config: PartConfig,
    /// Content of the primary bucket's credentials file.
    pub credentials: Option<String>,
    /// Content of the target bucket's credentials file.
    pub credentials2: Option<String>,
    /// Certificates of the buckets' endpoints (PEM).
    pub bucket_authorities: Option<String>,
    /// The volume's certificate authority (PEM).
    pub authority: String,
    /// The part's certificate, followed by its intermediate (PEM).
    pub certificate: String,
    /// The part's private key (PEM).
    pub private_key: String,
}

impl fmt::Debug for PartSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PartSecret")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

/// A Secret is not one that a part can use.
#[derive(Debug, thiserror::Error)]
pub enum PartSecretError {
    /// A key is missing.
    #[error("the key {0} is missing")]
    Missing(&'static str),
    /// A value is not text.
    #[error("the key {0} does not hold text")]
    NotText(&'static str),
    /// The configuration cannot be read.
    #[error("the key config.json cannot be read")]
    Config(#[source] serde_json::Error),
}

impl PartSecret {
    /// As the data of a Secret.
    pub fn to_data(&self) -> Result<BTreeMap<String, ByteString>, PartSecretError> {
        let Self {
            config,
            credentials,
            credentials2,
            bucket_authorities,
            authority,
            certificate,
            private_key,
        } = self;
        let config = serde_json::to_string_pretty(config).map_err(PartSecretError::Config)?;
        let values = [
            (CONFIG_KEY, Some(&config)),
            (CREDENTIALS_KEY, credentials.as_ref()),
            (CREDENTIALS2_KEY, credentials2.as_ref()),
            (BUCKET_CA_KEY, bucket_authorities.as_ref()),
            (AUTHORITY_KEY, Some(authority)),
            (CERTIFICATE_KEY, Some(certificate)),
            (PRIVATE_KEY_KEY, Some(private_key)),
        ];
        Ok(values
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), ByteString(value?.clone().into_bytes()))))
            .collect())
    }

    /// From the data of a Secret.
    pub fn from_data(data: &BTreeMap<String, ByteString>) -> Result<Self, PartSecretError> {
        let optional = |key: &'static str| match data.get(key) {
            None => Ok(None),
            Some(value) => String::from_utf8(value.0.clone())
                .map(Some)
                .map_err(|_| PartSecretError::NotText(key)),
        };
        let required = |key| optional(key)?.ok_or(PartSecretError::Missing(key));
        Ok(Self {
            config: serde_json::from_str(&required(CONFIG_KEY)?).map_err(PartSecretError::Config)?,
            credentials: optional(CREDENTIALS_KEY)?,
            credentials2: optional(CREDENTIALS2_KEY)?,
            bucket_authorities: optional(BUCKET_CA_KEY)?,
            authority: required(AUTHORITY_KEY)?,
            certificate: required(CERTIFICATE_KEY)?,
            private_key: required(PRIVATE_KEY_KEY)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    fn secret() -> PartSecret {
        PartSecret {
            config: PartConfig {
                volume_id: "6f1c".to_owned(),
                volume: "documents".to_owned(),
                endpoint: "https://documents-metadata.team.svc:7700".to_owned(),
                region: "east".to_owned(),
                flip: false,
                primary: PartBucket {
                    region: "east".to_owned(),
                    url: "http://minio/documents".to_owned(),
                    signing_region: None,
                    addressing_style: AddressingStyle::Auto,
                },
                target: None,
                cache_bytes: 1,
                memory_bytes: 2,
            },
            credentials: Some("access_key=a\nsecret_key=hunter2\n".to_owned()),
            credentials2: None,
            bucket_authorities: None,
            authority: "ca".to_owned(),
            certificate: "certificate".to_owned(),
            private_key: "key".to_owned(),
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let data = secret().to_data().unwrap();
        assert!(!data.contains_key(CREDENTIALS2_KEY));
        assert_eq!(PartSecret::from_data(&data).unwrap(), secret());
    }

    #[test]
    fn a_missing_key_is_named() {
        let mut data = secret().to_data().unwrap();
        data.remove(CERTIFICATE_KEY);
        let error = PartSecret::from_data(&data).unwrap_err();
        assert_eq!(error.to_string(), "the key tls.crt is missing");
    }

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        assert!(!format!("{:?}", secret()).contains("hunter2"));
    }
}
