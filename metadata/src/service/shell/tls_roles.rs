//! Which authority may certify which role: that of the target region certifies no administration.
//!
//! The intermediate of the target region says so of itself, in a URI ([`twinshore_protocol::tls::TARGET_AUTHORITY`]) under the signature of the volume's authority, so
//! whoever holds its key cannot leave it out; and it may sign no further authorities. A certificate for administration is therefore only verified with the
//! other intermediates that its holder shows.

use std::sync::Arc;

use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use twinshore_protocol::message::Role;
use twinshore_protocol::tls::{PeerIdentity, TARGET_AUTHORITY};

/// Verifies as the verifier within does, but for administration without the target's intermediate.
#[derive(Debug)]
pub(super) struct RoleVerifier(pub Arc<dyn ClientCertVerifier>);

fn names(certificate: &CertificateDer<'_>, matches: impl Fn(&str) -> bool) -> Option<bool> {
    let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
    Some(certificate.valid_uri_names().any(matches))
}

/// What cannot be read administers nothing either, as it will not be verified.
fn administers(leaf: &CertificateDer<'_>) -> bool {
    let is_admin = |uri: &str| {
        uri.parse::<PeerIdentity>()
            .is_ok_and(|identity| identity.role == Role::Admin)
    };
    names(leaf, is_admin).unwrap_or(false)
}

fn is_of_target(intermediate: &CertificateDer<'_>) -> bool {
    names(intermediate, |uri| uri == TARGET_AUTHORITY).unwrap_or(true)
}

impl ClientCertVerifier for RoleVerifier {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if !administers(leaf) {
            return self.0.verify_client_cert(leaf, intermediates, now);
        }
        let others: Vec<CertificateDer<'_>> = (intermediates.iter())
            .filter(|intermediate| !is_of_target(intermediate))
            .cloned()
            .collect();
        self.0.verify_client_cert(leaf, &others, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
