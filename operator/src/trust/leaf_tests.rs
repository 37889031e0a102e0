#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use super::*;
use crate::trust::Authority;

const DAY_SECONDS: i64 = 86_400;

fn at(days: i64) -> Timestamp {
    // The handshake looks at the real clock, so the certificates begin today.
    Timestamp::from_second(Timestamp::now().as_second() + days * DAY_SECONDS).unwrap()
}

fn request(role: PartRole, hosts: &[&str]) -> LeafRequest {
    LeafRequest {
        volume_id: "6f1c".to_owned(),
        role,
        hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
    }
}

#[test]
fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
    let authority = Authority::generate("6f1c", at(0)).unwrap();
    let request = request(
        PartRole::Admin,
        &["documents-metadata.team.svc", "10.1.2.3", "fd00::1"],
    );
    let leaf = issue(&request, &authority.primary, at(0)).unwrap();
    let decide_at = |days| decide(Some(&leaf), &request, &authority.primary, at(days));
    assert!(matches!(decide_at(0), Decision::Keep { .. }));
    assert!(matches!(decide_at(19), Decision::Keep { .. }));
    assert_eq!(decide_at(20), Decision::Issue(Why::Due));
    assert_eq!(decide_at(31), Decision::Issue(Why::Due));
}

#[test]
fn a_certificate_is_issued_anew_for_each_reason() {
    let authority = Authority::generate("6f1c", at(0)).unwrap();
    let wanted = request(PartRole::Worker, &["a"]);
    let leaf = issue(&wanted, &authority.primary, at(0)).unwrap();
    let decide_with =
        |pair: Option<&Pair>, request: &LeafRequest, issuer: &Pair| decide(pair, request, issuer, at(1));
    let cases = [
        (decide_with(None, &wanted, &authority.primary), Why::Absent),
        (
            decide_with(Some(&leaf), &wanted, &authority.target),
            Why::OtherIssuer,
        ),
        (
            decide_with(
                Some(&leaf),
                &request(PartRole::Client, &["a"]),
                &authority.primary,
            ),
            Why::Different,
        ),
        (
            decide_with(
                Some(&leaf),
                &request(PartRole::Worker, &["a", "b"]),
                &authority.primary,
            ),
            Why::Different,
        ),
        (
            decide_with(
                Some(&Pair {
                    certificate: format!("nonsense\n{}", authority.primary.certificate),
                    key: String::new(),
                }),
                &wanted,
                &authority.primary,
            ),
            Why::Unreadable,
        ),
    ];
    for (decision, why) in cases {
        assert_eq!(decision, Decision::Issue(why));
    }
}

/// A server of one region and a client of the other shake hands, each with the chain that the operator writes.
fn handshake(authority: &Authority, server: &Pair, client: &Pair, name: &str) -> Result<(), rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.root.certificate.as_bytes()).unwrap())
        .unwrap();
    let roots = Arc::new(roots);
    let chain = |pair: &Pair| {
        CertificateDer::pem_slice_iter(pair.certificate.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .unwrap()
    };
    let key = |pair: &Pair| PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider)).build();
    let server_config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.unwrap())
        .with_single_cert(chain(server), key(server))
        .unwrap();
    let client_config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain(client), key(client))
        .unwrap();
    let mut server = ServerConnection::new(Arc::new(server_config)).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client_config), name).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

#[test]
fn parts_of_both_regions_trust_each_other_by_the_volumes_authority_alone() {
    let authority = Authority::generate("6f1c", at(0)).unwrap();
    let server = issue(
        &request(PartRole::Admin, &["documents-metadata.team.svc", "10.1.2.3"]),
        &authority.primary,
        at(0),
    )
    .unwrap();
    let client = issue(&request(PartRole::Client, &[]), &authority.target, at(0)).unwrap();
    handshake(&authority, &server, &client, "documents-metadata.team.svc").unwrap();
    handshake(&authority, &server, &client, "10.1.2.3").unwrap();
    assert!(handshake(&authority, &server, &client, "elsewhere").is_err());
}

#[test]
fn a_part_of_another_volume_is_refused() {
    let ours = Authority::generate("6f1c", at(0)).unwrap();
    let theirs = Authority::generate("7777", at(0)).unwrap();
    let server = issue(&request(PartRole::Admin, &["a"]), &ours.primary, at(0)).unwrap();
    let stranger = issue(&request(PartRole::Client, &[]), &theirs.target, at(0)).unwrap();
    assert!(handshake(&ours, &server, &stranger, "a").is_err());
    let expired = issue(&request(PartRole::Client, &[]), &ours.target, at(-31)).unwrap();
    assert!(handshake(&ours, &server, &expired, "a").is_err());
}
