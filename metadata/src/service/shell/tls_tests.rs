#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType,
};
use tokio::sync::oneshot;
use twinshore_protocol::message::{Role, SessionDescription};
use twinshore_protocol::session::{
    ConnectError, GrpcTransport, Session, SessionOptions, TransportError, WithoutCaches,
};
use twinshore_protocol::tls::{PeerIdentity, TARGET_AUTHORITY, TlsFiles, TlsMaterial, TlsSource};
use twinshore_protocol::{Caller, Operation, Reply, Side, VolumeId};

use super::super::{Ready, ServeOptions, create_volume, serve};
use crate::core::VolumeLimits;
use crate::service::state::tests::format;

/// A volume's authority and an intermediate below it, which issues the certificates.
struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    intermediate: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        Self::with(&[])
    }

    /// With an intermediate that says this of itself.
    fn with(names: &[&str]) -> Self {
        let parameters = || {
            let mut parameters = CertificateParams::default();
            parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            parameters
        };
        let root = CertifiedIssuer::self_signed(parameters(), KeyPair::generate().unwrap()).unwrap();
        let mut with_names = parameters();
        for name in names {
            with_names
                .subject_alt_names
                .push(SanType::URI((*name).try_into().unwrap()));
        }
        let intermediate =
            CertifiedIssuer::signed_by(with_names, KeyPair::generate().unwrap(), &root).unwrap();
        Self { root, intermediate }
    }

    fn issue(&self, names: &[SanType]) -> TlsMaterial {
        let key = KeyPair::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.subject_alt_names = names.to_vec();
        parameters.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let leaf = parameters.signed_by(&key, &self.intermediate).unwrap();
        TlsMaterial {
            certificate: format!("{}{}", leaf.pem(), self.intermediate.pem()).into_bytes(),
            key: key.serialize_pem().into_bytes(),
            authority: self.root.pem().into_bytes(),
        }
    }

    fn for_server(&self) -> TlsMaterial {
        self.issue(&[SanType::DnsName("localhost".try_into().unwrap())])
    }

    fn for_role(&self, volume: VolumeId, role: Role) -> TlsMaterial {
        let identity = PeerIdentity { volume, role }.to_string();
        self.issue(&[SanType::URI(identity.as_str().try_into().unwrap())])
    }
}

fn write(material: &TlsMaterial, files: &TlsFiles) {
    std::fs::write(&files.certificate, &material.certificate).unwrap();
    std::fs::write(&files.key, &material.key).unwrap();
    std::fs::write(&files.authority, &material.authority).unwrap();
}

fn files_in(directory: &Path) -> TlsFiles {
    TlsFiles {
        certificate: directory.join("tls.crt"),
        key: directory.join("tls.key"),
        authority: directory.join("ca.crt"),
    }
}

/// A service with a certificate; its port.
async fn serve_with(directory: &Path, material: &TlsMaterial) -> u16 {
    let files = files_in(directory);
    write(material, &files);
    let data_dir = directory.join("metadata");
    create_volume(&data_dir, &format(), VolumeLimits::default()).unwrap();
    let (ready, is_ready) = oneshot::channel();
    let mut options = ServeOptions::new(data_dir, "127.0.0.1:0".parse().unwrap());
    options.tls = Some(files);
    options.ready = Some(ready);
    tokio::spawn(serve(options, std::future::pending()));
    let Ready { listen, local, .. } = is_ready.await.expect("it starts");
    // From within the process no certificate is needed.
    let session = connect_over(local, Role::Admin).await.unwrap();
    assert!(matches!(status(&session).await, Reply::Status(_)));
    session.close().await;
    listen.port()
}

async fn status(session: &Session) -> Reply {
    session.request(Caller::ROOT, Operation::GetStatus).await.unwrap()
}

async fn connect_over(
    transport: std::sync::Arc<dyn twinshore_protocol::session::Transport>,
    role: Role,
) -> Result<Session, ConnectError> {
    let options = SessionOptions {
        volume: None,
        role,
        near: Side::Primary,
        task_slots: 0,
        description: SessionDescription::default(),
        request_deadline: Duration::from_secs(10),
    };
    Session::connect(transport, options, std::sync::Arc::new(WithoutCaches)).await
}

async fn connect(port: u16, material: &TlsMaterial, role: Role) -> Result<Session, ConnectError> {
    let tls = Some(TlsSource::Material(material.clone()));
    let transport = GrpcTransport::new(&format!("https://localhost:{port}"), tls).unwrap();
    connect_over(std::sync::Arc::new(transport), role).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_a_certificate_of_the_volume_and_the_role_is_let_in() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let port = serve_with(directory.path(), &authority.for_server()).await;
    for role in [Role::Client, Role::Worker, Role::Admin] {
        let material = authority.for_role(format().volume, role);
        let session = connect(port, &material, role).await.unwrap();
        assert!(matches!(status(&session).await, Reply::Status(_)));
        session.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_else_is_turned_away() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let port = serve_with(directory.path(), &authority.for_server()).await;
    let own = format().volume;
    let another_volume = VolumeId([9; 16]);
    assert_ne!(own, another_volume);
    for (why, material, role) in [
        ("another role", authority.for_role(own, Role::Client), Role::Admin),
        (
            "another volume",
            authority.for_role(another_volume, Role::Client),
            Role::Client,
        ),
        ("no role", authority.for_server(), Role::Client),
        (
            "another authority, which it trusts itself",
            Authority::new().for_role(own, Role::Client),
            Role::Client,
        ),
        (
            "another authority",
            TlsMaterial {
                authority: authority.root.pem().into_bytes(),
                ..Authority::new().for_role(own, Role::Client)
            },
            Role::Client,
        ),
    ] {
        assert!(connect(port, &material, role).await.is_err(), "{why}");
    }
    let plain = GrpcTransport::new(&format!("http://localhost:{port}"), None).unwrap();
    assert!(
        connect_over(std::sync::Arc::new(plain), Role::Client)
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_another_name_belongs_to_is_not_believed() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    // A client's certificate is no server's.
    let impostor = authority.for_role(format().volume, Role::Client);
    let port = serve_with(directory.path(), &impostor).await;
    let error = connect(port, &impostor, Role::Client).await.err();
    assert!(
        matches!(
            error,
            Some(ConnectError::Transport(TransportError::Unreachable { .. }))
        ),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_files_count_from_the_next_connection_on() {
    let directory = tempfile::tempdir().unwrap();
    let (before, after) = (Authority::new(), Authority::new());
    let port = serve_with(directory.path(), &before.for_server()).await;
    let old = before.for_role(format().volume, Role::Client);
    let new = after.for_role(format().volume, Role::Client);
    let session = connect(port, &old, Role::Client).await.unwrap();
    assert!(connect(port, &new, Role::Client).await.is_err());

    write(&after.for_server(), &files_in(directory.path()));
    connect(port, &new, Role::Client).await.unwrap().close().await;
    assert!(connect(port, &old, Role::Client).await.is_err());
    // What is connected stays so.
    assert!(matches!(status(&session).await, Reply::Status(_)));
}

#[tokio::test]
async fn files_that_cannot_be_used_are_told_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("metadata");
    create_volume(&data_dir, &format(), VolumeLimits::default()).unwrap();
    let start = async || {
        let mut options = ServeOptions::new(data_dir.clone(), "127.0.0.1:0".parse().unwrap());
        options.tls = Some(files_in(directory.path()));
        serve(options, async {}).await.unwrap_err().to_string()
    };
    assert!(start().await.contains("tls.crt"));
    let material = Authority::new().for_server();
    let files = files_in(directory.path());
    write(&material, &files);
    std::fs::write(&files.key, "-----BEGIN SECRET-----").unwrap();
    let error = start().await;
    assert!(error.contains("tls.key") && !error.contains("SECRET"), "{error}");
    std::fs::write(&files.key, &material.key).unwrap();
    std::fs::write(&files.authority, "").unwrap();
    assert!(start().await.contains("ca.crt"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_of_the_target_certifies_no_administration() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::with(&[TARGET_AUTHORITY]);
    let port = serve_with(directory.path(), &authority.for_server()).await;
    let own = format().volume;
    for role in [Role::Client, Role::Worker] {
        let session = connect(port, &authority.for_role(own, role), role).await.unwrap();
        session.close().await;
    }
    let admin = authority.for_role(own, Role::Admin);
    assert!(connect(port, &admin, Role::Admin).await.is_err());
    // Neither with something else in the chain.
    let mut longer = admin;
    longer
        .certificate
        .extend_from_slice(authority.root.pem().as_bytes());
    assert!(connect(port, &longer, Role::Admin).await.is_err());
}
