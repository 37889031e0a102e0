//! A region of a volume: its name, its bucket, its keys.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A region and its bucket.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RegionSpec {
    /// The region's name, as both clusters' operators are told it: `--set region=east`.
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a region cannot be renamed: its name is part of the volume").reason(Reason::FieldValueForbidden))]
    pub region: String,
    /// Its bucket.
    pub bucket: BucketSpec,
    /// A Secret with the keys of the bucket: `accessKey`, `secretKey` and optionally `sessionToken` (or `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`). Each cluster reads its own. Without it the identity of
    /// `serviceAccountName`, or of the node, is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretReference>,
}

/// A bucket of an S3 store.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("has(self.endpoint) || has(self.signingRegion)").message("name the store: an endpoint, or for AWS the signingRegion").reason(Reason::FieldValueRequired),
    validation = Rule::new("!has(self.caSecretRef) || (has(self.endpoint) && self.endpoint.startsWith('https://'))").message("a certificate authority needs an endpoint that begins with https://").reason(Reason::FieldValueInvalid).field_path(".caSecretRef"),
    validation = Rule::new("(has(self.prefix) ? self.prefix : '') == (has(oldSelf.prefix) ? oldSelf.prefix : '')").message("a volume cannot move to another prefix yet").reason(Reason::FieldValueForbidden),
    validation = Rule::new("(has(self.endpoint) ? self.endpoint : '') == (has(oldSelf.endpoint) ? oldSelf.endpoint : '')").message("a volume cannot move to another endpoint yet").reason(Reason::FieldValueForbidden),
    validation = Rule::new("has(self.endpoint) || (has(self.signingRegion) ? self.signingRegion : '') == (has(oldSelf.signingRegion) ? oldSelf.signingRegion : '')").message("a bucket of AWS cannot move to another region").reason(Reason::FieldValueForbidden),
    validation = Rule::new("has(self.endpoint) || self.addressingStyle != 'VirtualHost' || !self.name.contains('.')").message("a bucket with a dot in its name cannot be part of the host's name over TLS: use the addressing style Path").reason(Reason::FieldValueInvalid).field_path(".addressingStyle"),
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BucketSpec {
    /// The bucket's name.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][-a-z0-9._]*$"))]
    #[x_kube(validation = Rule::new("self == oldSelf").message("a volume cannot move to another bucket yet").reason(Reason::FieldValueForbidden))]
    pub name: String,
    /// Where the store is, such as `https://minio.example.org:9000`. Absent for AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 8, max = 300),
        regex(pattern = r"^https?://[A-Za-z0-9.\-\[\]:]+$")
    )]
    pub endpoint: Option<String>,
    /// What all keys of the volume begin with, such as `team/documents`. Empty by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 256),
        regex(pattern = r"^[A-Za-z0-9_.\-]+(/[A-Za-z0-9_.\-]+)*$")
    )]
    #[x_kube(validation = Rule::new("!self.split('/').exists(part, part == '.' || part == '..')").message("no part of a prefix may be `.` or `..`").reason(Reason::FieldValueInvalid))]
    pub prefix: Option<String>,
    /// The region that requests are signed for. Needed for AWS; other stores mostly accept the default, `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub signing_region: Option<String>,
    /// How the bucket is named in requests. `Auto`: in the host's name on AWS, in the path elsewhere; `Path`: in the path;
    /// `VirtualHost`: in the host's name.
    #[serde(default)]
    pub addressing_style: AddressingStyle,
    /// A Secret whose key `ca.crt` holds the certificates (PEM) that the store's certificate is signed by, if the system does
    /// not know them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretReference>,
}

impl BucketSpec {
    /// The bucket's location as the volume's format record holds it.
    pub fn url(&self) -> String {
        let Self {
            name,
            endpoint,
            prefix,
            signing_region,
            addressing_style: _,
            ca_secret_ref: _,
        } = self;
        let mut url = match (endpoint, signing_region) {
            (Some(endpoint), _) => format!("{endpoint}/{name}"),
            (None, Some(region)) => format!("https://s3.{region}.amazonaws.com/{name}"),
            (None, None) => format!("s3://{name}"),
        };
        if let Some(prefix) = prefix {
            url.push('/');
            url.push_str(prefix);
        }
        url
    }
}

/// How a bucket is named in requests.
#[derive(JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AddressingStyle {
    /// In the host's name on AWS, in the path elsewhere.
    #[default]
    Auto,
    /// In the path.
    Path,
    /// In the host's name.
    VirtualHost,
}

/// A Secret of the same namespace.
#[derive(JsonSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretReference {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::BucketSpec;

    fn bucket(endpoint: Option<&str>, region: Option<&str>, prefix: Option<&str>) -> String {
        BucketSpec {
            name: "documents".to_owned(),
            endpoint: endpoint.map(str::to_owned),
            signing_region: region.map(str::to_owned),
            prefix: prefix.map(str::to_owned),
            ..BucketSpec::default()
        }
        .url()
    }

    #[test]
    fn a_bucket_has_the_location_that_the_format_record_holds() {
        assert_eq!(
            bucket(Some("http://minio:9000"), None, None),
            "http://minio:9000/documents"
        );
        assert_eq!(
            bucket(Some("https://minio"), Some("garage"), Some("a/b")),
            "https://minio/documents/a/b"
        );
        assert_eq!(
            bucket(None, Some("eu-west-1"), Some("a")),
            "https://s3.eu-west-1.amazonaws.com/documents/a"
        );
        assert_eq!(bucket(None, None, None), "s3://documents");
    }
}
