//! Where a bucket is, and how it is opened.
//!
//! | text | meaning |
//! |---|---|
//! | `file:///path` | a directory that exists |
//! | `http://host:port/bucket/prefix`, `https://...` | an S3 server at that address (path style) |
//! | `https://bucket.s3.region.amazonaws.com/prefix`, `https://s3.region.amazonaws.com/bucket/prefix` | AWS |
//! | `s3://bucket/prefix` | AWS, the region from the options or the environment |
//!
//! A location holds no secret; one that does (`http://key:secret@host/`) is refused, because locations are stored in the volume's
//! format record and printed.

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::bucket::{Bucket, BucketError};
use crate::directory::DirectoryBucket;
use crate::s3::S3Bucket;

/// Where a bucket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BucketLocation {
    /// A directory.
    Directory(PathBuf),
    /// A bucket of an S3 store.
    S3(S3Location),
}

/// Where a bucket of an S3 store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Location {
    /// `http://host:port` of the store; none for AWS.
    pub endpoint: Option<String>,
    /// The region, if the location names it.
    pub region: Option<String>,
    /// The bucket's name.
    pub bucket: String,
    /// What all keys begin with: empty, or ending in `/`.
    pub prefix: String,
}

/// How a bucket is opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// The region to sign for, if the location does not name it.
    pub region: Option<String>,
    /// Address the bucket in the path (`http://host/bucket`) rather than in the host's name. By default: not on AWS.
    pub path_style: Option<bool>,
    /// Certificates (PEM) to trust besides the system's.
    pub certificate_authorities: Option<PathBuf>,
}

/// What a bucket is opened with. Nothing of it is ever printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The access key. Without one, the standard chain of the AWS SDK is asked: environment, profiles, web identity, the machine's role.
    pub access_key: Option<String>,
    /// The secret key.
    pub secret_key: Option<String>,
    /// The token of temporary credentials.
    pub session_token: Option<String>,
}

impl Credentials {
    /// A pair of keys.
    pub fn new(access_key: impl Into<String>, secret_key: impl Into<String>) -> Self {
        Self {
            access_key: Some(access_key.into()),
            secret_key: Some(secret_key.into()),
            session_token: None,
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |field: &Option<String>| if field.is_some() { "(set)" } else { "(none)" };
        f.debug_struct("Credentials")
            .field("access_key", &shown(&self.access_key))
            .field("secret_key", &shown(&self.secret_key))
            .field("session_token", &shown(&self.session_token))
            .finish()
    }
}

/// A text is not a location.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LocationError {
    /// It begins with no known scheme.
    #[error(
        "{text:?} is not the location of a bucket: expected file:///directory, http(s)://host:port/bucket/prefix or \
         s3://bucket/prefix"
    )]
    UnknownScheme {
        /// The text.
        text: String,
    },
    /// A directory's path is not absolute.
    #[error("{text:?} does not name a directory by its full path: write file:///path/to/directory")]
    RelativePath {
        /// The text.
        text: String,
    },
    /// It names no bucket.
    #[error("{text:?} names no bucket: write it behind the host, as in http://host:port/bucket")]
    NoBucket {
        /// The text.
        text: String,
    },
    /// The bucket's name is not possible.
    #[error("{name:?} cannot be the name of a bucket: 3 to 63 lower case letters, digits, `-`, `.` or `_`")]
    BadBucketName {
        /// The name.
        name: String,
    },
    /// The host is not possible.
    #[error("{host:?} is not a host with an optional port")]
    BadHost {
        /// The host.
        host: String,
    },
    /// It contains what a location must not contain.
    #[error(
        "the location of a bucket must not contain credentials, `?` or `#`: pass the keys by their own options"
    )]
    NotOnlyALocation,
    /// The prefix is not possible.
    #[error("{prefix:?} cannot be a prefix: parts of it are empty, `.` or `..`")]
    BadPrefix {
        /// The prefix.
        prefix: String,
    },
}

impl FromStr for BucketLocation {
    type Err = LocationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("file://") {
            if !path.starts_with('/') {
                return Err(LocationError::RelativePath {
                    text: text.to_owned(),
                });
            }
            return Ok(Self::Directory(normalised(Path::new(path))));
        }
        let (scheme, rest) = text
            .split_once("://")
            .ok_or_else(|| LocationError::UnknownScheme {
                text: text.to_owned(),
            })?;
        if rest.contains(['?', '#', '@']) {
            return Err(LocationError::NotOnlyALocation);
        }
        match scheme {
            "s3" => {
                let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
                s3(text, None, None, bucket, prefix)
            }
            "http" | "https" => {
                let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
                let host = host.to_ascii_lowercase();
                if let Some(aws) = AwsHost::parse(&host) {
                    let (bucket, prefix) = match &aws.bucket {
                        Some(bucket) => (bucket.as_str(), path),
                        None => path.split_once('/').unwrap_or((path, "")),
                    };
                    return s3(text, None, aws.region.clone(), bucket, prefix);
                }
                let endpoint = format!(
                    "{scheme}://{}",
                    without_default_port(scheme, checked_host(&host)?)
                );
                let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
                s3(text, Some(endpoint), None, bucket, prefix)
            }
            _ => Err(LocationError::UnknownScheme {
                text: text.to_owned(),
            }),
        }
    }
}

fn s3(
    text: &str,
    endpoint: Option<String>,
    region: Option<String>,
    bucket: &str,
    prefix: &str,
) -> Result<BucketLocation, LocationError> {
    if bucket.is_empty() {
        return Err(LocationError::NoBucket {
            text: text.to_owned(),
        });
    }
    let possible = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.' | '_');
    if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(possible) || bucket.starts_with(['.', '-']) {
        return Err(LocationError::BadBucketName {
            name: bucket.to_owned(),
        });
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    if !prefix.is_empty() && prefix.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(LocationError::BadPrefix {
            prefix: prefix.to_owned(),
        });
    }
    let prefix = if prefix.is_empty() {
        String::new()
    } else {
        format!("{prefix}/")
    };
    Ok(BucketLocation::S3(S3Location {
        endpoint,
        region,
        bucket: bucket.to_owned(),
        prefix,
    }))
}

/// A host of AWS, with what its name says.
struct AwsHost {
    bucket: Option<String>,
    region: Option<String>,
}

impl AwsHost {
    fn parse(host: &str) -> Option<Self> {
        let name = host
            .strip_suffix(".amazonaws.com")
            .or_else(|| host.strip_suffix(".amazonaws.com.cn"))?;
        // `s3`, `s3.<region>` or the older `s3-<region>`, behind the bucket's name or not.
        let (bucket, service) = if name == "s3" || name.starts_with("s3.") || name.starts_with("s3-") {
            (None, name)
        } else {
            let at = name.rfind(".s3")?;
            (Some(name[..at].to_owned()), &name[at + 1..])
        };
        let region = match service.strip_prefix("s3")? {
            "" => None,
            rest => Some(rest.strip_prefix(['.', '-'])?.to_owned()),
        };
        Some(Self { bucket, region })
    }
}

fn checked_host(host: &str) -> Result<&str, LocationError> {
    let bad = || LocationError::BadHost {
        host: host.to_owned(),
    };
    let (name, port) = match host.rsplit_once(':') {
        // The colons of an address such as `[::1]` are no separators.
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    };
    let possible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '[' | ']' | ':');
    if name.is_empty() || !name.chars().all(possible) {
        return Err(bad());
    }
    if port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
        return Err(bad());
    }
    Ok(host)
}

fn without_default_port<'a>(scheme: &str, host: &'a str) -> &'a str {
    let default = if scheme == "http" { ":80" } else { ":443" };
    host.strip_suffix(default).unwrap_or(host)
}

/// The path without `.`, `..` and doubled slashes.
fn normalised(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => out.push(name),
            std::path::Component::ParentDir => drop(out.pop()),
            _ => {}
        }
    }
    out
}

impl fmt::Display for BucketLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "file://{}", path.display()),
            Self::S3(S3Location {
                endpoint,
                region,
                bucket,
                prefix,
            }) => {
                let prefix = prefix
                    .strip_suffix('/')
                    .map_or_else(String::new, |prefix| format!("/{prefix}"));
                match (endpoint, region) {
                    (Some(endpoint), _) => write!(f, "{endpoint}/{bucket}{prefix}"),
                    (None, Some(region)) => write!(f, "https://s3.{region}.amazonaws.com/{bucket}{prefix}"),
                    (None, None) => write!(f, "s3://{bucket}{prefix}"),
                }
            }
        }
    }
}

impl BucketLocation {
    /// Do both name the same bucket, or one a place within the other? Two regions need two buckets: in one, every
    /// object would seem to have been copied.
    ///
    /// Decided by the texts. The same server under two names is found only by [`crate::check::are_the_same`].
    pub fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (self.identity(), other.identity());
        a.starts_with(&b) || b.starts_with(&a)
    }

    /// A normal form, ending in `/`: locations of the same place have the same.
    fn identity(&self) -> String {
        match self {
            Self::Directory(path) => {
                // A link to a directory is that directory.
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                let path = path.to_string_lossy().into_owned();
                if path.ends_with('/') {
                    format!("file://{path}")
                } else {
                    format!("file://{path}/")
                }
            }
            // On AWS a bucket's name is unique in the world, whatever the region.
            Self::S3(S3Location {
                endpoint: None,
                bucket,
                prefix,
                ..
            }) => format!("s3://{bucket}/{prefix}"),
            Self::S3(S3Location {
                endpoint: Some(endpoint),
                bucket,
                prefix,
                ..
            }) => {
                let host = endpoint
                    .split_once("://")
                    .map_or(endpoint.as_str(), |(_, host)| host);
                let host = host.strip_prefix("localhost").map_or_else(
                    || host.replace("[::1]", "127.0.0.1"),
                    |port| format!("127.0.0.1{port}"),
                );
                format!("http://{host}/{bucket}/{prefix}")
            }
        }
    }
}

/// Opens a bucket. For an S3 store nothing is asked yet ([`crate::check::check`] does that), but the credentials must be found.
pub async fn open(
    location: &BucketLocation,
    credentials: &Credentials,
    options: &OpenOptions,
) -> Result<Arc<dyn Bucket>, BucketError> {
    Ok(match location {
        BucketLocation::Directory(path) => Arc::new(DirectoryBucket::open(path).await?),
        BucketLocation::S3(location) => Arc::new(S3Bucket::open(location, credentials, options).await?),
    })
}
