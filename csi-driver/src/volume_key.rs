//! Which `ReplicatedVolume`: `<namespace>/<name>`, as attributes of PersistentVolumes and parameters of classes name it.

use std::fmt;
use std::str::FromStr;

use crate::error::CallError;

/// Namespace and name of a volume.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VolumeKey {
    namespace: String,
    name: String,
}

impl VolumeKey {
    /// Checks and takes both: each becomes a name of a directory and of an object in the API.
    pub fn new(namespace: &str, name: &str) -> Result<Self, CallError> {
        let is_label = |text: &str| {
            !text.is_empty()
                && text.len() <= 63
                && !text.starts_with('-')
                && !text.ends_with('-')
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        };
        if is_label(namespace) && is_label(name) {
            Ok(Self {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        } else {
            Err(CallError::Invalid(format!(
                "`{namespace}/{name}` is not NAMESPACE/NAME of a ReplicatedVolume"
            )))
        }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for VolumeKey {
    type Err = CallError;

    fn from_str(text: &str) -> Result<Self, CallError> {
        let (namespace, name) = text.split_once('/').unwrap_or(("", text));
        Self::new(namespace, name)
    }
}

impl fmt::Display for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_names_that_kubernetes_gives_are_names() {
        assert_eq!(
            "team/documents".parse::<VolumeKey>().unwrap().to_string(),
            "team/documents"
        );
        for wrong in [
            "documents",
            "a/b/c",
            "../x",
            "a/..",
            "A/b",
            "/b",
            "a/",
            "a/-b",
            "",
        ] {
            assert!(wrong.parse::<VolumeKey>().is_err(), "{wrong}");
        }
    }
}
