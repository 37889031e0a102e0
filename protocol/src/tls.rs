//! Mutual TLS between the parts: where a part's certificate is, and what a certificate says of its holder.
//!
//! Each volume has an authority of its own. Both ends of a connection show a certificate that it, or an intermediate that it has signed, has
//! issued. A certificate of a client, worker or person names the volume and the role in a URI: `twinshore://<volume id>/<role>`.
//!
//! Files are read again for each connection, so that a renewed certificate needs no restart.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::identifiers::VolumeId;
use crate::message::Role;

/// What the intermediate authority of the target region says it is, in a URI: what it issues may be anything but `admin`.
pub const TARGET_AUTHORITY: &str = "twinshore://authority/target";

/// Where a part's certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate and the intermediates between it and the authority, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The certificate of the volume's authority, PEM.
    pub authority: PathBuf,
}

/// A part's certificate, its key and the authority, PEM. Its `Debug` keeps the key to itself.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsMaterial {
    /// The certificate and the intermediates between it and the authority.
    pub certificate: Vec<u8>,
    /// Its private key.
    pub key: Vec<u8>,
    /// The certificate of the volume's authority.
    pub authority: Vec<u8>,
}

impl fmt::Debug for TlsMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsMaterial").finish_non_exhaustive()
    }
}

/// What is needed for a connection, wherever it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsSource {
    /// Files, read for each connection.
    Files(TlsFiles),
    /// Memory.
    Material(TlsMaterial),
}

/// What is needed for a connection cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}", path.display())]
pub struct TlsReadError {
    /// The file.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl TlsFiles {
    /// Reads the three files. They are small, and on a local disk.
    pub fn read(&self) -> Result<TlsMaterial, TlsReadError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|source| TlsReadError {
                path: path.to_owned(),
                source,
            })
        };
        Ok(TlsMaterial {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            authority: read(&self.authority)?,
        })
    }
}

impl TlsSource {
    /// What there is now.
    pub fn read(&self) -> Result<TlsMaterial, TlsReadError> {
        match self {
            Self::Files(files) => files.read(),
            Self::Material(material) => Ok(material.clone()),
        }
    }
}

/// What a certificate says of its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The volume that it may use.
    pub volume: VolumeId,
    /// What it may be.
    pub role: Role,
}

/// A URI is no identity of a part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not of the form twinshore://<volume id>/<client|worker|mirror|admin>")]
pub struct NoIdentity(String);

const SCHEME: &str = "twinshore://";

const ROLES: [(&str, Role); 4] = [
    ("client", Role::Client),
    ("worker", Role::Worker),
    ("mirror", Role::Mirror),
    ("admin", Role::Admin),
];

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = ROLES.iter().find(|(_, role)| *role == self.role);
        write!(f, "{SCHEME}{}/{}", self.volume, role.map_or("", |(name, _)| name))
    }
}

impl FromStr for PeerIdentity {
    type Err = NoIdentity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let no_identity = || NoIdentity(text.to_owned());
        let (volume, role) = text
            .strip_prefix(SCHEME)
            .and_then(|rest| rest.split_once('/'))
            .ok_or_else(no_identity)?;
        let role = ROLES.iter().find(|(name, _)| *name == role);
        Ok(Self {
            volume: volume.parse().map_err(|_| no_identity())?,
            role: role.map(|(_, role)| *role).ok_or_else(no_identity)?,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_identity_is_read_from_the_uri_that_it_is_written_as() {
        for (name, role) in ROLES {
            let identity = PeerIdentity {
                volume: VolumeId([7; 16]),
                role,
            };
            assert!(identity.to_string().ends_with(name));
            assert_eq!(identity.to_string().parse(), Ok(identity));
        }
        for wrong in [
            "",
            "twinshore://",
            "twinshore://07070707-0707-0707-0707-070707070707/",
            "twinshore://07070707-0707-0707-0707-070707070707/root",
            "https://07070707-0707-0707-0707-070707070707/client",
            "twinshore://volume/client",
        ] {
            assert_eq!(wrong.parse::<PeerIdentity>(), Err(NoIdentity(wrong.to_owned())));
        }
    }

    #[test]
    fn a_key_is_not_shown() {
        let material = TlsMaterial {
            certificate: b"certificate".to_vec(),
            key: b"secret".to_vec(),
            authority: b"authority".to_vec(),
        };
        assert_eq!(format!("{material:?}"), "TlsMaterial { .. }");
    }
}
