//! Identifiers of volumes and snapshots: `<identity of the ReplicatedVolume>.<name>`. They hold all that later calls need, as nothing else is given to
//! them, and nothing is remembered. Pure.

use std::fmt;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// The length of an identity: a UUID.
const IDENTITY_BYTES: usize = 36;

/// The longest name: with identity and dot less than the 128 bytes of the specification.
const NAME_MAX_BYTES: usize = 90;

/// A volume or a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identifier {
    /// Identity of the `ReplicatedVolume`.
    pub volume: String,
    /// Its name there.
    pub name: String,
}

impl Identifier {
    /// Reads one. None if it is not one of ours, so that there is no such thing.
    pub fn parse(text: &str) -> Option<Self> {
        let (volume, name) = text.split_once('.')?;
        let is_ours = volume.len() == IDENTITY_BYTES
            && volume
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
            && is_plain(name);
        is_ours.then(|| Self {
            volume: volume.to_owned(),
            name: name.to_owned(),
        })
    }
}

impl fmt::Display for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.volume, self.name)
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX_BYTES
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

/// The name of a claim or snapshot: that which Kubernetes asks for, or a digest of one that is too long or has anything unusual in it.
pub fn name_for(asked: &str) -> String {
    if is_plain(asked) {
        return asked.to_owned();
    }
    let mut name = String::from("sha256-");
    for byte in Sha256::digest(asked.as_bytes()) {
        // Writing to a string does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const IDENTITY: &str = "6f1c2f6e-3c1b-4a53-9c2e-0f0d6f3f1f11";

    #[test]
    fn an_identifier_is_at_most_as_long_as_the_specification_allows_and_reads_back() {
        for asked in ["pvc-1", &"x".repeat(128), "a/b", "ä"] {
            let identifier = Identifier {
                volume: IDENTITY.to_owned(),
                name: name_for(asked),
            };
            let text = identifier.to_string();
            assert!(text.len() <= 128);
            assert_eq!(Identifier::parse(&text).unwrap(), identifier);
        }
        assert_ne!(name_for(&"x".repeat(127)), name_for(&"x".repeat(128)));
    }

    #[test]
    fn what_is_not_ours_is_nothing() {
        for wrong in [
            "",
            "x",
            "pvc-1.x",
            &format!("{IDENTITY}."),
            &format!("{IDENTITY}.a/b"),
        ] {
            assert_eq!(Identifier::parse(wrong), None, "{wrong}");
        }
    }
}
