//! The Secrets: one for each part, with everything that it needs, and the bundle for the other cluster.

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use twinshore_crds::client_secret::{PartConfig, PartSecret};
use twinshore_crds::names::{CLIENT_COMPONENT, METADATA_COMPONENT, TRUST_COMPONENT, WORKER_COMPONENT};
use twinshore_protocol::Side;

use super::super::certify::Certified;
use super::super::validate::Validated;
use super::{BuildError, endpoint, exposed_endpoint, kept, owned};
use crate::trust::{JoinBundle, Pair};

/// All Secrets but the authority's, which is made once and never applied.
pub fn all(validated: &Validated, certified: &Certified) -> Result<Vec<Secret>, BuildError> {
    let names = &validated.names;
    let mut secrets = Vec::new();
    if let Some(pair) = &certified.metadata {
        secrets.push(part(
            validated,
            certified,
            names.metadata_secret(),
            METADATA_COMPONENT,
            pair,
        )?);
    }
    if let Some(pair) = &certified.admin {
        secrets.push(part(validated, certified, names.admin(), TRUST_COMPONENT, pair)?);
    }
    secrets.push(part(
        validated,
        certified,
        names.worker_secret(),
        WORKER_COMPONENT,
        &certified.worker,
    )?);
    secrets.push(part(
        validated,
        certified,
        names.client(),
        CLIENT_COMPONENT,
        &certified.client,
    )?);
    secrets.push(secret(
        validated,
        names.controller(),
        CLIENT_COMPONENT,
        &without_buckets(content(validated, certified, &certified.controller)),
    )?);
    secrets.extend(join(validated, certified));
    Ok(secrets)
}

fn part(
    validated: &Validated,
    certified: &Certified,
    name: String,
    component: &'static str,
    pair: &Pair,
) -> Result<Secret, BuildError> {
    secret(validated, name, component, &content(validated, certified, pair))
}

/// For a part that speaks to the metadata service only.
fn without_buckets(content: PartSecret) -> PartSecret {
    PartSecret {
        credentials: None,
        credentials2: None,
        bucket_authorities: None,
        ..content
    }
}

fn content(validated: &Validated, certified: &Certified, pair: &Pair) -> PartSecret {
    PartSecret {
        config: PartConfig {
            volume_id: certified.volume_id.clone(),
            volume: validated.names.volume().to_owned(),
            endpoint: endpoint(validated),
            region: validated.region.clone(),
            flip: validated.side == Side::Target,
            primary: validated.primary.bucket.clone(),
            target: validated.target.as_ref().map(|target| target.bucket.clone()),
            cache_bytes: validated.cache_bytes,
            memory_bytes: validated.memory_bytes,
        },
        credentials: validated.primary.credentials.clone(),
        credentials2: validated
            .target
            .as_ref()
            .and_then(|target| target.credentials.clone()),
        bucket_authorities: validated.bucket_authorities.clone(),
        authority: certified.authority.clone(),
        certificate: pair.certificate.clone(),
        private_key: pair.key.clone(),
    }
}

fn secret(
    validated: &Validated,
    name: String,
    component: &'static str,
    content: &PartSecret,
) -> Result<Secret, BuildError> {
    let data = content
        .to_data()
        .map_err(|source| BuildError::Secret(component, source))?;
    Ok(Secret {
        metadata: owned(validated, name, component),
        type_: Some("Opaque".to_owned()),
        data: Some(data),
        ..Secret::default()
    })
}

/// The bundle, as soon as it is known where the other region comes in. It has no owner: copied to the other cluster with an owner that
/// does not exist there, it would be collected as garbage.
fn join(validated: &Validated, certified: &Certified) -> Option<Secret> {
    let authority = certified.own_authority.as_ref()?;
    let bundle = JoinBundle::new(authority, exposed_endpoint(validated)?);
    let name = validated.names.join();
    Some(Secret {
        data: Some(bundle.to_data(&name, &validated.namespace)),
        metadata: kept(validated, name, TRUST_COMPONENT),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    })
}

/// The Secret of an authority that was made just now.
pub fn authority(validated: &Validated, certified: &Certified) -> Option<Secret> {
    let authority = certified.own_authority.as_ref().filter(|_| certified.is_new)?;
    Some(Secret {
        data: Some(authority.to_data()),
        metadata: ObjectMeta {
            // The trust of a volume cannot be made again: a hand that slips must not change it. It can still be deleted.
            ..kept(validated, validated.names.authority(), TRUST_COMPONENT)
        },
        immutable: Some(true),
        type_: Some("Opaque".to_owned()),
        ..Secret::default()
    })
}
