//! Mutual TLS: connections in, and who is at their other end.
//!
//! A connection is handed on when its handshake is through; a peer without a certificate of the volume's authority is turned away in the handshake, one
//! whose certificate names another volume or no role when it opens a stream. The files are read for each handshake, so a renewed
//! certificate counts from the next connection on, and files that are being replaced cost no more than that connection.
//!
//! # Limits
//!
//! [`HANDSHAKES_MAX`] handshakes at a time; beyond that connections wait in the kernel's queue. A handshake that takes longer than
//! [`HANDSHAKE_DEADLINE`] is given up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use twinshore_protocol::VolumeId;
use twinshore_protocol::message::Role;
use twinshore_protocol::tls::{PeerIdentity, TlsFiles, TlsReadError};

use super::tls_roles::RoleVerifier;

/// Handshakes under way.
const HANDSHAKES_MAX: usize = 64;

/// For a handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// Connections that are through and not yet taken.
const ACCEPTED_MAX: usize = 16;

/// A pause after the machine has refused a connection (too many open files): it would refuse the next at once.
const REFUSED_PAUSE: Duration = Duration::from_millis(100);

/// The certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file.
    #[error(transparent)]
    Read(#[from] TlsReadError),
    /// What is in a file.
    #[error("cannot use {what}: {reason}")]
    Content {
        /// Which.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The authority.
    #[error("cannot use the authority's certificate")]
    Authority(#[from] VerifierBuilderError),
    /// Certificate and key.
    #[error("cannot use the certificate with its key")]
    Certificate(#[from] rustls::Error),
}

/// Makes connections of what knocks, until `stopped`.
pub(super) fn accept(
    listener: TcpListener,
    files: TlsFiles,
    mut stopped: watch::Receiver<bool>,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (connections, receiver) = mpsc::channel(ACCEPTED_MAX);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stopped.wait_for(|stopped| *stopped) => return,
                () = connections.closed() => return,
                accepted = next(&listener, &handshakes) => accepted,
            };
            let Some((stream, permit)) = accepted else {
                continue;
            };
            let (files, connections) = (files.clone(), connections.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE_DEADLINE, shake_hands(&files, stream)).await {
                    // Whoever would take it may have ended.
                    Ok(Ok(stream)) => drop(connections.send(Ok(stream)).await),
                    Ok(Err(error)) => tracing::warn!(%error, "a connection was turned away"),
                    Err(_) => tracing::warn!("a connection was turned away: its handshake takes too long"),
                }
                drop(permit);
            });
        }
    });
    ReceiverStream::new(receiver)
}

async fn next(
    listener: &TcpListener,
    handshakes: &Arc<Semaphore>,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(handshakes).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, permit)),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(REFUSED_PAUSE).await;
            None
        }
    }
}

async fn shake_hands(files: &TlsFiles, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    let configuration = configuration(files).map_err(io::Error::other)?;
    TlsAcceptor::from(Arc::new(configuration)).accept(stream).await
}

/// What a handshake needs, of the files as they are now.
pub(super) fn configuration(files: &TlsFiles) -> Result<ServerConfig, TlsError> {
    let material = files.read()?;
    let certificates = |content: &[u8], path: &std::path::Path| {
        let unusable = |reason: String| TlsError::Content {
            what: path.display().to_string(),
            reason,
        };
        let found: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(content)
            .collect::<Result<_, _>>()
            .map_err(|error| unusable(error.to_string()))?;
        if found.is_empty() {
            return Err(unusable("there is no PEM certificate in it".to_owned()));
        }
        Ok(found)
    };
    let mut authorities = RootCertStore::empty();
    for authority in certificates(&material.authority, &files.authority)? {
        authorities.add(authority)?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(authorities)).build()?;
    let chain = certificates(&material.certificate, &files.certificate)?;
    // What is wrong with a key is not told: a message must never hold any of it.
    let key = PrivateKeyDer::from_pem_slice(&material.key).map_err(|_| TlsError::Content {
        what: files.key.display().to_string(),
        reason: "there is no PEM private key in it".to_owned(),
    })?;
    let mut configuration = ServerConfig::builder()
        .with_client_cert_verifier(Arc::new(RoleVerifier(verifier)))
        .with_single_cert(chain, key)?;
    configuration.alpn_protocols = vec![b"h2".to_vec()];
    Ok(configuration)
}

/// What the role of a certificate of this volume is; why it is none, if it is none.
pub(super) fn role_of(certificates: Option<&[CertificateDer<'_>]>, served: VolumeId) -> Result<Role, String> {
    let leaf = certificates
        .and_then(<[_]>::first)
        .ok_or("there is no certificate")?;
    let certificate = webpki::EndEntityCert::try_from(leaf).map_err(|error| error.to_string())?;
    let identities: Vec<PeerIdentity> = certificate
        .valid_uri_names()
        .filter_map(|uri| uri.parse().ok())
        .collect();
    match identities.as_slice() {
        [identity] if identity.volume == served => Ok(identity.role),
        [identity] => Err(format!("the certificate is of volume {}", identity.volume)),
        [] => Err("the certificate names no role".to_owned()),
        _ => Err("the certificate names several roles".to_owned()),
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
