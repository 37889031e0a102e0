//! The certificate authority of a volume and the intermediates of its regions.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use time::OffsetDateTime;
use twinshore_protocol::tls::TARGET_AUTHORITY;

use super::Pair;

/// Ten years, in days: longer than most clusters; handing a new bundle over is work for people.
const AUTHORITY_DAYS: i64 = 3650;
/// Certificates are valid a little before they are made: clocks of nodes differ.
const CLOCK_SKEW_SECONDS: i64 = 300;

const VOLUME_ID: &str = "volume-id";
const ROOT: [&str; 2] = ["ca.crt", "ca.key"];
const PRIMARY: [&str; 2] = ["primary.crt", "primary.key"];
const TARGET: [&str; 2] = ["target.crt", "target.key"];

/// Why there is no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// It could not be made.
    #[error("cannot make the certificate authority")]
    Make(#[from] rcgen::Error),
    /// A moment is out of range.
    #[error("cannot express the lifetime of the certificate authority")]
    Time(#[from] time::error::ComponentRange),
    /// The Secret lacks something.
    #[error(
        "the Secret of the certificate authority has no usable key {0}: restore it from a backup, it is the trust of the volume"
    )]
    Missing(&'static str),
}

/// The authority of a volume. It is made once, together with the volume's identity, and outlives the resource unless the volume's
/// data is deleted with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The volume's identity.
    pub volume_id: String,
    /// Signs the two others.
    pub root: Pair,
    /// Signs the leaves of the primary region.
    pub primary: Pair,
    /// Signs the leaves of the target region.
    pub target: Pair,
}

impl Authority {
    /// Makes one.
    pub fn generate(volume_id: &str, now: Timestamp) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let parameters = parameters(&format!("twinshore {volume_id}"), None, now)?;
        let certificate = parameters.self_signed(&key)?;
        let root = Pair {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        };
        let issuer = Issuer::new(parameters, key);
        let intermediate = |side: &str| -> Result<Pair, AuthorityError> {
            let key = KeyPair::generate()?;
            let mut parameters = self::parameters(&format!("twinshore {volume_id} {side}"), Some(0), now)?;
            if side == "target" {
                // The metadata service takes no administrator from it.
                parameters
                    .subject_alt_names
                    .push(SanType::URI(TARGET_AUTHORITY.try_into()?));
            }
            Ok(Pair {
                certificate: parameters.signed_by(&key, &issuer)?.pem(),
                key: key.serialize_pem(),
            })
        };
        Ok(Self {
            volume_id: volume_id.to_owned(),
            primary: intermediate("primary")?,
            target: intermediate("target")?,
            root,
        })
    }

    /// As the data of the Secret `<volume>-ca`.
    pub fn to_data(&self) -> BTreeMap<String, ByteString> {
        let Self {
            volume_id,
            root,
            primary,
            target,
        } = self;
        let bytes = |text: &str| ByteString(text.as_bytes().to_vec());
        let mut data = BTreeMap::from([(VOLUME_ID.to_owned(), bytes(volume_id))]);
        for (keys, pair) in [(ROOT, root), (PRIMARY, primary), (TARGET, target)] {
            data.insert(keys[0].to_owned(), bytes(&pair.certificate));
            data.insert(keys[1].to_owned(), bytes(&pair.key));
        }
        data
    }

    /// From the data of the Secret `<volume>-ca`.
    pub fn from_data(data: &BTreeMap<String, ByteString>) -> Result<Self, AuthorityError> {
        let text = |key: &'static str| {
            data.get(key)
                .and_then(|value| String::from_utf8(value.0.clone()).ok())
                .filter(|value| !value.is_empty())
                .ok_or(AuthorityError::Missing(key))
        };
        let pair = |keys: [&'static str; 2]| -> Result<Pair, AuthorityError> {
            Ok(Pair {
                certificate: text(keys[0])?,
                key: text(keys[1])?,
            })
        };
        Ok(Self {
            volume_id: text(VOLUME_ID)?,
            root: pair(ROOT)?,
            primary: pair(PRIMARY)?,
            target: pair(TARGET)?,
        })
    }
}

fn parameters(
    name: &str,
    path_length: Option<u8>,
    now: Timestamp,
) -> Result<CertificateParams, AuthorityError> {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.is_ca =
        IsCa::Ca(path_length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    parameters.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    parameters.use_authority_key_identifier_extension = path_length.is_some();
    (parameters.not_before, parameters.not_after) = lifetime(now, AUTHORITY_DAYS)?;
    Ok(parameters)
}

/// From a little before now, for so many days.
pub(super) fn lifetime(
    now: Timestamp,
    days: i64,
) -> Result<(OffsetDateTime, OffsetDateTime), time::error::ComponentRange> {
    let begin = now.as_second() - CLOCK_SKEW_SECONDS;
    Ok((
        OffsetDateTime::from_unix_timestamp(begin)?,
        OffsetDateTime::from_unix_timestamp(begin + days * 86_400)?,
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let authority = Authority::generate("id", Timestamp::from_second(1_800_000_000).unwrap()).unwrap();
        assert_eq!(Authority::from_data(&authority.to_data()).unwrap(), authority);
    }

    #[test]
    fn a_missing_key_is_named() {
        let authority = Authority::generate("id", Timestamp::UNIX_EPOCH).unwrap();
        let mut data = authority.to_data();
        data.remove("target.key");
        let error = Authority::from_data(&data).unwrap_err().to_string();
        assert!(error.contains("target.key"), "{error}");
    }
}
