//! How parts speak to the metadata service: everything that TLS changes is here.

use std::sync::Arc;

use twinshore_crds::client_secret::{AUTHORITY_KEY, CERTIFICATE_KEY, PRIVATE_KEY_KEY};
use twinshore_protocol::session::{GrpcTransport, Transport, TransportError};
use twinshore_protocol::tls::{TlsMaterial, TlsSource};

/// The URL of a metadata service.
pub fn endpoint(authority: &str) -> String {
    format!("https://{authority}")
}

/// The flags of a part whose Secret is mounted in `directory`.
pub fn flags(directory: &str) -> Vec<String> {
    [
        ("--tls-ca", AUTHORITY_KEY),
        ("--tls-cert", CERTIFICATE_KEY),
        ("--tls-key", PRIVATE_KEY_KEY),
    ]
    .into_iter()
    .flat_map(|(flag, key)| [flag.to_owned(), format!("{directory}/{key}")])
    .collect()
}

/// What a connection is made with (PEM).
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// The volume's authority.
    pub authority: String,
    /// Certificate and intermediate.
    pub certificate: String,
    /// Private key.
    pub key: String,
}

/// Connects to a metadata service.
pub fn open(endpoint: &str, material: &Material) -> Result<Arc<dyn Transport>, TransportError> {
    let Material {
        authority,
        certificate,
        key,
    } = material.clone();
    let material = TlsMaterial {
        certificate: certificate.into_bytes(),
        key: key.into_bytes(),
        authority: authority.into_bytes(),
    };
    let tls = Some(TlsSource::Material(material));
    Ok(Arc::new(GrpcTransport::new(endpoint, tls)?))
}
