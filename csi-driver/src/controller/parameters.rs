//! Parameters of a `StorageClass`, typed. Pure.
//!
//! | key | what |
//! |---|---|
//! | `volume` | `<namespace>/<name>` of the `ReplicatedVolume`; required |
//! | `sharing` | `Shared` (default): the claim of the same namespace and name in the other cluster is the same directory. `Private`: every claim has its own |
//! | `directory` | where: names separated by `/`, with `{namespace}` and `{name}` of the claim, `{pv}` (the PersistentVolume) and `{region}` (the cluster's) |
//! | `directoryMode`, `directoryUser`, `directoryGroup` | of a directory that is made: octal permissions (`0777`), and numbers (0) |

use std::collections::HashMap;

use twinshore_protocol::FileName;
use twinshore_protocol::claims::{ClaimDisplay, DirectoryPath, NewDirectory};

use crate::error::CallError;
use crate::volume_key::VolumeKey;

/// What the provisioner adds (`--extra-create-metadata`).
const CLAIM_NAME: &str = "csi.storage.k8s.io/pvc/name";
const CLAIM_NAMESPACE: &str = "csi.storage.k8s.io/pvc/namespace";
const VOLUME_NAME: &str = "csi.storage.k8s.io/pv/name";

/// Where a claim lies that is shared with the other cluster.
const SHARED: &str = "{namespace}/{name}";
/// Where one lies that is not. No namespace has such a name as the first, so the two never meet.
const PRIVATE: &str = "_private/{region}/{namespace}/{name}.{pv}";

/// What a class asks for, for one claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The volume.
    pub volume: VolumeKey,
    /// The directory in it.
    pub directory: DirectoryPath,
    /// What people call the claim.
    pub display: ClaimDisplay,
    /// How a directory is made.
    pub new: NewDirectory,
}

fn invalid(text: String) -> CallError {
    CallError::Invalid(text)
}

/// Reads them, for the PersistentVolume `name`, in a region.
pub fn parse(
    parameters: &HashMap<String, String>,
    name: &str,
    region: &str,
) -> Result<Parameters, CallError> {
    let mut volume = None;
    let mut sharing = None;
    let mut directory = None;
    let mut new = NewDirectory::default();
    let (mut claim_name, mut claim_namespace, mut pv) = (None, None, name);
    for (key, value) in parameters {
        let number = || {
            value
                .parse()
                .map_err(|_| invalid(format!("the parameter {key}, {value}, is not a number")))
        };
        match key.as_str() {
            "volume" => volume = Some(value.parse()?),
            "sharing" => sharing = Some(value.as_str()),
            "directory" => directory = Some(value.as_str()),
            "directoryMode" => {
                new.mode = u16::from_str_radix(value, 8)
                    .ok()
                    .filter(|mode| *mode <= 0o7777)
                    .ok_or_else(|| invalid(format!("the parameter {key}, {value}, is not like 0777")))?;
            }
            "directoryUser" => new.user = number()?,
            "directoryGroup" => new.group = number()?,
            CLAIM_NAME => claim_name = Some(value.as_str()),
            CLAIM_NAMESPACE => claim_namespace = Some(value.as_str()),
            VOLUME_NAME => pv = value,
            unknown => {
                return Err(invalid(format!(
                    "the parameter {unknown} does not exist: volume, sharing, directory, directoryMode, directoryUser and directoryGroup do"
                )));
            }
        }
    }
    let volume = volume.ok_or_else(|| {
        invalid("the parameter volume is missing: it names the ReplicatedVolume as NAMESPACE/NAME".to_owned())
    })?;
    let template = match (sharing, directory) {
        (None | Some("Shared"), None) => SHARED,
        (Some("Private"), None) => PRIVATE,
        (None, Some(directory)) => directory,
        (Some("Shared" | "Private"), Some(_)) => {
            return Err(invalid(
                "either sharing or directory: a directory with {pv} in it is private".to_owned(),
            ));
        }
        (Some(other), _) => {
            return Err(invalid(format!(
                "the parameter sharing is {other}: Shared and Private exist"
            )));
        }
    };
    let values = Values {
        namespace: claim_namespace,
        name: claim_name,
        pv,
        region,
    };
    Ok(Parameters {
        volume,
        directory: expand(template, &values)?,
        display: ClaimDisplay {
            namespace: claim_namespace.unwrap_or_default().to_owned(),
            name: claim_name.unwrap_or(name).to_owned(),
        },
        new,
    })
}

/// What placeholders stand for.
struct Values<'a> {
    namespace: Option<&'a str>,
    name: Option<&'a str>,
    pv: &'a str,
    region: &'a str,
}

impl Values<'_> {
    fn of(&self, placeholder: &str) -> Result<&str, CallError> {
        let value = match placeholder {
            "namespace" => self.namespace,
            "name" => self.name,
            "pv" => Some(self.pv),
            "region" => Some(self.region),
            unknown => {
                return Err(invalid(format!(
                    "the parameter directory has {{{unknown}}} in it: {{namespace}}, {{name}}, {{pv}} and {{region}} exist"
                )));
            }
        };
        let value = value.ok_or_else(|| {
            invalid(format!(
                "the directory needs the {placeholder} of the claim: run the provisioner with --extra-create-metadata"
            ))
        })?;
        // A value is part of one name, never more of a path.
        if value.contains('/') {
            return Err(invalid(format!("the {placeholder} {value} has a `/` in it")));
        }
        Ok(value)
    }
}

fn expand(template: &str, values: &Values<'_>) -> Result<DirectoryPath, CallError> {
    let wrong =
        |error: &dyn std::fmt::Display| invalid(format!("the parameter directory, {template}: {error}"));
    let mut names = Vec::new();
    for component in template.trim_matches('/').split('/') {
        let mut name = String::new();
        let mut rest = component;
        while let Some((before, after)) = rest.split_once('{') {
            let (placeholder, after) = after
                .split_once('}')
                .ok_or_else(|| wrong(&"a `{` without its `}`"))?;
            name.push_str(before);
            name.push_str(values.of(placeholder)?);
            rest = after;
        }
        if rest.contains('}') {
            return Err(wrong(&"a `}` without its `{`"));
        }
        name.push_str(rest);
        names.push(name.parse::<FileName>().map_err(|error| wrong(&error))?);
    }
    DirectoryPath::new(names).map_err(|error| wrong(&error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parameters(pairs: &[(&str, &str)]) -> Result<Parameters, CallError> {
        let mut all: HashMap<String, String> = [
            ("volume", "team/documents"),
            (CLAIM_NAME, "files"),
            (CLAIM_NAMESPACE, "shop"),
            (VOLUME_NAME, "pvc-1"),
        ]
        .into_iter()
        .chain(pairs.iter().copied())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
        all.retain(|_, value| value != "-");
        parse(&all, "pvc-1", "east")
    }

    #[test]
    fn a_claim_of_the_same_name_in_both_clusters_is_the_same_directory_unless_it_is_private() {
        for (pairs, directory) in [
            (&[][..], "/shop/files"),
            (&[("sharing", "Shared")], "/shop/files"),
            (&[("sharing", "Private")], "/_private/east/shop/files.pvc-1"),
            (
                &[("directory", "/teams/{namespace}-x/{name}/")],
                "/teams/shop-x/files",
            ),
            (&[("directory", "{pv}")], "/pvc-1"),
        ] {
            assert_eq!(parameters(pairs).unwrap().directory.to_string(), directory);
        }
    }

    #[test]
    fn what_is_unknown_contradicts_itself_or_leads_elsewhere_is_refused() {
        for wrong in [
            &[("volume", "-")][..],
            &[("volume", "documents")],
            &[("size", "1")],
            &[("sharing", "shared")],
            &[("sharing", "Private"), ("directory", "{pv}")],
            &[("directory", "{namespace}/{user}")],
            &[("directory", "{namespace/{name}")],
            &[("directory", "a}/b")],
            &[("directory", "../{name}")],
            &[("directory", "a//b")],
            &[("directory", "")],
            &[("directoryMode", "0999")],
            &[("directoryUser", "me")],
            &[(CLAIM_NAME, "-")],
            &[(CLAIM_NAME, "../x")],
        ] {
            assert!(parameters(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_directory_is_made_as_the_class_says() {
        let made = parameters(&[
            ("directoryMode", "2770"),
            ("directoryUser", "5"),
            ("directoryGroup", "7"),
        ]);
        let new = made.unwrap().new;
        assert_eq!((new.mode, new.user, new.group), (0o2770, 5, 7));
        assert_eq!(parameters(&[]).unwrap().new, NewDirectory::default());
    }
}
