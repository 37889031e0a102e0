//! Step two: from raw to typed. After it every reference is resolved and every value means something, so that the steps behind it
//! can only fail at assembly.

use std::net::Ipv6Addr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::{Resource as _, ResourceExt as _};
use twinshore_crds::client_secret::{CERTIFICATE_KEY, PRIVATE_KEY_KEY, PartBucket};
use twinshore_crds::conditions::Reason;
use twinshore_crds::names::{METADATA_PORT, VolumeNames};
use twinshore_crds::{ExposureSpec, ExposureType, PodSettings, RegionSpec, ReplicatedVolume};
use twinshore_protocol::Side;

pub use super::validated::{
    Exposure, PresentLeaves, TrustSource, Validated, ValidatedBucket, ValidatedMetadata, ValidatedPod,
    ValidatedWorkers, WantedSettings,
};

use super::dereference::{Data, Present, Referenced, Referent, RegionReferents};
use crate::error::Categorised;
use crate::trust::{Authority, AuthorityError, BundleError, JoinBundle, Pair};
use crate::units::{self, UnitError};

/// Keys of the users' Secrets, in the two ways in which they are written.
const ACCESS_KEY: [&str; 2] = ["accessKey", "AWS_ACCESS_KEY_ID"];
const SECRET_KEY: [&str; 2] = ["secretKey", "AWS_SECRET_ACCESS_KEY"];
const SESSION_TOKEN: [&str; 2] = ["sessionToken", "AWS_SESSION_TOKEN"];
/// Key of the users' certificate authorities.
const CA_KEY: &str = "ca.crt";

/// What keeps a volume from being built.
#[derive(Debug, thiserror::Error)]
pub enum ValidateError {
    /// The object does not come from the API server.
    #[error("the volume has no {0}")]
    Incomplete(&'static str),
    /// A value of the spec means nothing.
    #[error("spec.{field} cannot be used")]
    Field {
        /// Which.
        field: &'static str,
        /// Why.
        #[source]
        source: UnitError,
    },
    /// Something is not what a pod has in its place.
    #[error("spec.{field} is not what a pod has there")]
    Pod {
        /// Which field.
        field: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A Secret does not exist.
    #[error(
        "the Secret {name} of spec.{side}.{field} does not exist in this cluster: create it in the namespace of the volume"
    )]
    SecretNotFound {
        /// Its name.
        name: String,
        /// Which region.
        side: Side,
        /// Which field of it.
        field: &'static str,
    },
    /// A Secret does not hold what it should.
    #[error("the Secret {name} of spec.{side}.{field} {problem}")]
    SecretInvalid {
        /// Its name.
        name: String,
        /// Which region.
        side: Side,
        /// Which field of it.
        field: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The volume's authority is damaged.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// There is no join bundle.
    #[error(
        "the join bundle of the primary region is missing; hand it over with: kubectl --context {primary} -n {namespace} get secret \
         {name} -o jsonpath='{{.data.manifest}}' | base64 -d | kubectl --context {target} apply -f -"
    )]
    JoinBundleMissing {
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: String,
        /// The primary region.
        primary: String,
        /// The target region.
        target: String,
    },
    /// The join bundle cannot be used.
    #[error("the join bundle {name} cannot be used: hand it over again")]
    JoinBundleInvalid {
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: BundleError,
    },
}

impl Categorised for ValidateError {
    fn reason(&self) -> Reason {
        match self {
            Self::Incomplete(_) | Self::Field { .. } | Self::Pod { .. } => Reason::InvalidSpec,
            Self::SecretNotFound { .. } => Reason::SecretNotFound,
            Self::SecretInvalid { .. } | Self::Authority(_) => Reason::SecretInvalid,
            Self::JoinBundleMissing { .. } => Reason::JoinBundleMissing,
            Self::JoinBundleInvalid { .. } => Reason::JoinBundleInvalid,
        }
    }

    /// Everything that can be wrong here is in an object that is watched: its change brings the volume back.
    fn is_retryable(&self) -> bool {
        false
    }
}

/// What this cluster is to a volume.
pub fn side_of(volume: &ReplicatedVolume, region: &str) -> Option<Side> {
    if volume.spec.primary.region == region {
        return Some(Side::Primary);
    }
    let target = volume.spec.target.as_ref()?;
    (target.region == region).then_some(Side::Target)
}

/// Makes a volume typed.
pub fn validate(
    volume: &ReplicatedVolume,
    referenced: Referenced,
    region: &str,
    side: Side,
) -> Result<Validated, ValidateError> {
    let Referenced {
        primary: primary_referents,
        target: target_referents,
        present,
        exposed,
    } = referenced;
    let names = VolumeNames::new(volume.name_any());
    let namespace = volume.namespace().ok_or(ValidateError::Incomplete("namespace"))?;
    let spec = &volume.spec;
    let trust = match side {
        Side::Primary => TrustSource::Authority(
            present
                .authority
                .as_ref()
                .map(Authority::from_data)
                .transpose()?
                .map(Box::new),
        ),
        Side::Target => TrustSource::Bundle(Box::new(join_bundle(volume, &names, &namespace, &present)?)),
    };
    let target = match (&spec.target, &target_referents) {
        (Some(region), Some(referents)) => Some(bucket(region, referents, Side::Target)?),
        _ => None,
    };
    let mut authorities = String::new();
    let referents = [
        (Side::Primary, Some(&primary_referents)),
        (Side::Target, target_referents.as_ref()),
    ];
    for (side, referents) in referents {
        if let Some(text) = referents
            .map(|referents| authority(&referents.authority, side))
            .transpose()?
            .flatten()
        {
            authorities.push_str(text.trim());
            authorities.push('\n');
        }
    }
    let exposure = match (side, &spec.target) {
        (Side::Primary, Some(_)) => exposure(&spec.metadata.exposure, exposed.as_ref()),
        _ => Exposure::No,
    };
    Ok(Validated {
        primary: bucket(&spec.primary, &primary_referents, Side::Primary)?,
        target,
        bucket_authorities: (!authorities.is_empty()).then_some(authorities),
        settings: settings(volume)?,
        metadata: ValidatedMetadata {
            storage_size: spec.metadata.storage.size.clone(),
            storage_class: spec.metadata.storage.class_name.clone(),
            exposure_spec: spec.metadata.exposure.clone(),
            exposure,
            pod: pod(
                &spec.metadata.pod,
                ["metadata.pod.affinity", "metadata.pod.topologySpreadConstraints"],
            )?,
        },
        workers: ValidatedWorkers {
            count: spec.replication.workers,
            slots: spec.replication.slots,
            memory_bytes: bytes("replication.memory", &spec.replication.memory)?,
            pod: pod(
                &spec.replication.pod,
                [
                    "replication.pod.affinity",
                    "replication.pod.topologySpreadConstraints",
                ],
            )?,
        },
        cache_bytes: bytes("cache.size", &spec.cache.size)?,
        memory_bytes: bytes("cache.memory", &spec.cache.memory)?,
        service_account: spec.service_account_name.clone(),
        image_pull_secrets: spec.image_pull_secrets.clone(),
        trust,
        present: PresentLeaves {
            metadata: present.metadata.as_ref().and_then(leaf),
            worker: present.worker.as_ref().and_then(leaf),
            client: present.client.as_ref().and_then(leaf),
            controller: present.controller.as_ref().and_then(leaf),
            admin: present.admin.as_ref().and_then(leaf),
        },
        owner: volume
            .controller_owner_ref(&())
            .ok_or(ValidateError::Incomplete("name or uid"))?,
        uid: volume.uid().ok_or(ValidateError::Incomplete("uid"))?,
        region: region.to_owned(),
        side,
        names,
        namespace,
    })
}

fn join_bundle(
    volume: &ReplicatedVolume,
    names: &VolumeNames,
    namespace: &str,
    present: &Present,
) -> Result<JoinBundle, ValidateError> {
    let name = names.join();
    let Some(data) = &present.join else {
        let target = volume.spec.target.as_ref();
        return Err(ValidateError::JoinBundleMissing {
            name,
            namespace: namespace.to_owned(),
            primary: volume.spec.primary.region.clone(),
            target: target.map(|target| target.region.clone()).unwrap_or_default(),
        });
    };
    JoinBundle::from_data(data).map_err(|source| ValidateError::JoinBundleInvalid { name, source })
}

fn settings(volume: &ReplicatedVolume) -> Result<WantedSettings, ValidateError> {
    let spec = &volume.spec;
    let limit = |text: &Option<String>, field| text.as_ref().map(|text| bytes(field, text)).transpose();
    let quota = spec.quota.clone().unwrap_or_default();
    Ok(WantedSettings {
        replication_enabled: spec.replication.enabled,
        compression: spec.compression,
        durability: spec.durability,
        trash_retention: duration("trashRetention", &spec.trash_retention)?,
        synchronisation_interval: duration(
            "replication.synchronisationInterval",
            &spec.replication.synchronisation_interval,
        )?,
        bandwidth_limit: limit(&spec.replication.bandwidth_limit, "replication.bandwidthLimit")?.unwrap_or(0),
        limit_bytes: limit(&quota.size, "quota.size")?,
        limit_inodes: quota.inodes.and_then(|inodes| u64::try_from(inodes).ok()),
    })
}

fn pod(spec: &PodSettings, fields: [&'static str; 2]) -> Result<ValidatedPod, ValidateError> {
    let wrong = |field: &'static str| move |source| ValidateError::Pod { field, source };
    Ok(ValidatedPod {
        affinity: spec
            .affinity
            .clone()
            .map(serde_json::from_value)
            .transpose()
            .map_err(wrong(fields[0]))?,
        topology_spread_constraints: spec
            .topology_spread_constraints
            .iter()
            .cloned()
            .map(serde_json::from_value)
            .collect::<Result<_, _>>()
            .map_err(wrong(fields[1]))?,
        spec: spec.clone(),
    })
}

fn bytes(field: &'static str, text: &str) -> Result<u64, ValidateError> {
    units::bytes(text).map_err(|source| ValidateError::Field { field, source })
}

fn duration(field: &'static str, text: &str) -> Result<Duration, ValidateError> {
    units::duration(text).map_err(|source| ValidateError::Field { field, source })
}

fn bucket(
    region: &RegionSpec,
    referents: &RegionReferents,
    side: Side,
) -> Result<ValidatedBucket, ValidateError> {
    Ok(ValidatedBucket {
        bucket: PartBucket {
            region: region.region.clone(),
            url: region.bucket.url(),
            signing_region: region.bucket.signing_region.clone(),
            addressing_style: region.bucket.addressing_style,
        },
        credentials: credentials(&referents.credentials, side)?,
    })
}

fn found<'a>(
    referent: &'a Referent,
    side: Side,
    field: &'static str,
) -> Result<Option<(&'a str, &'a Data)>, ValidateError> {
    match referent {
        Referent::NotReferred => Ok(None),
        Referent::Missing { name } => Err(ValidateError::SecretNotFound {
            name: name.clone(),
            side,
            field,
        }),
        Referent::Found { name, data } => Ok(Some((name, data))),
    }
}

/// The content of a credentials file, from a Secret of either form.
fn credentials(referent: &Referent, side: Side) -> Result<Option<String>, ValidateError> {
    let field = "credentialsSecretRef";
    let Some((name, data)) = found(referent, side, field)? else {
        return Ok(None);
    };
    let invalid = |problem: String| ValidateError::SecretInvalid {
        name: name.to_owned(),
        side,
        field,
        problem,
    };
    let value = |keys: [&str; 2]| -> Result<Option<String>, ValidateError> {
        let Some((key, value)) = keys.iter().find_map(|key| Some((*key, data.get(*key)?))) else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&value.0).map(str::trim).unwrap_or_default();
        if text.is_empty() || text.contains(char::is_control) {
            return Err(invalid(format!(
                "has a key {key} that is empty or not one line of text"
            )));
        }
        Ok(Some(text.to_owned()))
    };
    let required = |keys: [&str; 2]| {
        value(keys)?.ok_or_else(|| {
            invalid(format!(
                "has neither the key {} nor {}: it needs one",
                keys[0], keys[1]
            ))
        })
    };
    let mut file = format!(
        "access_key={}\nsecret_key={}\n",
        required(ACCESS_KEY)?,
        required(SECRET_KEY)?
    );
    if let Some(token) = value(SESSION_TOKEN)? {
        file.push_str("session_token=");
        file.push_str(&token);
        file.push('\n');
    }
    Ok(Some(file))
}

fn authority(referent: &Referent, side: Side) -> Result<Option<String>, ValidateError> {
    let field = "bucket.caSecretRef";
    let Some((name, data)) = found(referent, side, field)? else {
        return Ok(None);
    };
    let text = data
        .get(CA_KEY)
        .and_then(|value| String::from_utf8(value.0.clone()).ok())
        .filter(|text| text.contains("-----BEGIN CERTIFICATE-----"));
    match text {
        Some(text) => Ok(Some(text)),
        None => Err(ValidateError::SecretInvalid {
            name: name.to_owned(),
            side,
            field,
            problem: format!("has no certificates (PEM) under the key {CA_KEY}"),
        }),
    }
}

fn leaf(data: &Data) -> Option<Pair> {
    let text = |key: &str| String::from_utf8(data.get(key)?.0.clone()).ok();
    Some(Pair {
        certificate: text(CERTIFICATE_KEY)?,
        key: text(PRIVATE_KEY_KEY)?,
    })
}

/// Where the other region reaches the metadata service.
pub fn exposure(spec: &ExposureSpec, service: Option<&Service>) -> Exposure {
    let own_port = u16::try_from(METADATA_PORT).unwrap_or_default();
    let chosen_port = spec.port.and_then(|port| u16::try_from(port).ok());
    let service_ports = service
        .and_then(|service| service.spec.as_ref()?.ports.as_ref())
        .and_then(|ports| ports.first());
    let at = |host: Option<String>, port: Option<u16>| match (host, port) {
        (Some(host), Some(port)) => Exposure::At { host, port },
        _ => Exposure::Waiting,
    };
    match spec.kind {
        ExposureType::None => Exposure::No,
        ExposureType::Address => at(spec.address.clone(), Some(chosen_port.unwrap_or(own_port))),
        ExposureType::NodePort => {
            let given = service_ports.and_then(|port| u16::try_from(port.node_port?).ok());
            at(spec.address.clone(), given.or(chosen_port))
        }
        ExposureType::LoadBalancer => {
            let ingress = service
                .and_then(|service| {
                    service
                        .status
                        .as_ref()?
                        .load_balancer
                        .as_ref()?
                        .ingress
                        .as_ref()?
                        .first()
                })
                .and_then(|ingress| ingress.hostname.clone().or_else(|| ingress.ip.clone()));
            let has_ingress = ingress.is_some();
            at(
                spec.address.clone().or(ingress),
                (spec.address.is_some() || has_ingress).then_some(own_port),
            )
        }
    }
}

/// A host and port as part of a URL.
pub fn authority_of(host: &str, port: u16) -> String {
    if host.parse::<Ipv6Addr>().is_ok() {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
#[path = "validate_tests.rs"]
mod tests;
