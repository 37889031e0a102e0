//! Certificates of the parts: when one is issued anew, and how.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, SanType};
use x509_parser::extensions::GeneralName;

use super::authority::lifetime;
use super::{Pair, PartRole};

/// How long a leaf is valid.
const LEAF_DAYS: i64 = 30;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// It could not be made.
    #[error("cannot issue a certificate")]
    Issue(#[from] rcgen::Error),
    /// A moment is out of range.
    #[error("cannot express the lifetime of a certificate")]
    Time(#[from] time::error::ComponentRange),
}

/// What a certificate has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafRequest {
    /// The volume's identity.
    pub volume_id: String,
    /// What the holder may be.
    pub role: PartRole,
    /// Names and IP addresses under which the holder is reached, if it is a server.
    pub hosts: BTreeSet<String>,
}

impl LeafRequest {
    fn uri(&self) -> String {
        format!("twinshore://{}/{}", self.volume_id, self.role.as_str())
    }
}

/// Why a certificate is issued anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// There is none.
    Absent,
    /// It cannot be read.
    Unreadable,
    /// Two thirds of its life are over.
    Due,
    /// It says something else.
    Different,
    /// Somebody else issued it.
    OtherIssuer,
}

/// What to do about a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is good until then.
    Keep {
        /// When it is due.
        due: Timestamp,
    },
    /// Issue one.
    Issue(Why),
}

/// What a certificate says.
struct Facts {
    not_before: Timestamp,
    not_after: Timestamp,
    uris: BTreeSet<String>,
    hosts: BTreeSet<String>,
}

/// What to do about the certificate that is there, if any.
pub fn decide(present: Option<&Pair>, request: &LeafRequest, issuer: &Pair, now: Timestamp) -> Decision {
    let Some(present) = present else {
        return Decision::Issue(Why::Absent);
    };
    if !present
        .certificate
        .trim_end()
        .ends_with(issuer.certificate.trim())
    {
        return Decision::Issue(Why::OtherIssuer);
    }
    let Some(facts) = inspect(&present.certificate) else {
        return Decision::Issue(Why::Unreadable);
    };
    if facts.uris != BTreeSet::from([request.uri()]) || facts.hosts != request.hosts {
        return Decision::Issue(Why::Different);
    }
    let life_seconds = facts.not_after.as_second() - facts.not_before.as_second();
    let due = Timestamp::from_second(facts.not_before.as_second() + life_seconds / 3 * 2).unwrap_or(now);
    if now >= due {
        Decision::Issue(Why::Due)
    } else {
        Decision::Keep { due }
    }
}

/// Issues a certificate: a new key, the leaf and its intermediate.
pub fn issue(request: &LeafRequest, issuer: &Pair, now: Timestamp) -> Result<Pair, LeafError> {
    let signer = Issuer::from_ca_cert_pem(&issuer.certificate, KeyPair::from_pem(&issuer.key)?)?;
    let key = KeyPair::generate()?;
    let hosts: Vec<String> = request.hosts.iter().cloned().collect();
    let mut parameters = CertificateParams::new(hosts)?;
    parameters
        .subject_alt_names
        .push(SanType::URI(request.uri().try_into()?));
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters
        .distinguished_name
        .push(DnType::CommonName, format!("twinshore {}", request.role.as_str()));
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if !request.hosts.is_empty() {
        parameters
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    parameters.use_authority_key_identifier_extension = true;
    (parameters.not_before, parameters.not_after) = lifetime(now, LEAF_DAYS)?;
    let leaf = parameters.signed_by(&key, &signer)?.pem();
    Ok(Pair {
        certificate: format!("{}\n{}\n", leaf.trim(), issuer.certificate.trim()),
        key: key.serialize_pem(),
    })
}

/// Reads the first certificate of a chain.
fn inspect(chain: &str) -> Option<Facts> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(chain.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = BTreeSet::new();
    let mut hosts = BTreeSet::new();
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(uri) => {
                uris.insert((*uri).to_owned());
            }
            GeneralName::DNSName(host) => {
                hosts.insert((*host).to_owned());
            }
            GeneralName::IPAddress(bytes) => {
                hosts.insert(address(bytes)?);
            }
            _ => return None,
        }
    }
    let validity = certificate.validity();
    Some(Facts {
        not_before: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
        not_after: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
        uris,
        hosts,
    })
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string());
    }
    let v6 = <[u8; 16]>::try_from(bytes).ok()?;
    Some(std::net::Ipv6Addr::from(v6).to_string())
}

#[cfg(test)]
#[path = "leaf_tests.rs"]
mod tests;
