//! Step one: read everything that a volume refers to. Only reads, no judgement.
//!
//! Secrets are read from the API server, not from the watches, which run behind: an authority that was made a moment ago and is not
//! seen yet would be made twice.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::{Api, ResourceExt as _};
use twinshore_crds::conditions::Reason;
use twinshore_crds::names::VolumeNames;
use twinshore_crds::{RegionSpec, ReplicatedVolume, SecretReference};

use crate::context::Context;
use crate::error::Categorised;

/// What a Secret holds.
pub type Data = BTreeMap<String, ByteString>;

/// Reading failed.
#[derive(Debug, thiserror::Error)]
pub enum DereferenceError {
    /// A Secret.
    #[error("cannot read the Secret {name}")]
    Secret {
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// An object from the API server has no namespace.
    #[error("the volume has no namespace")]
    NoNamespace,
}

impl Categorised for DereferenceError {
    fn reason(&self) -> Reason {
        match self {
            Self::Secret { .. } => Reason::SecretInvalid,
            Self::NoNamespace => Reason::InvalidSpec,
        }
    }

    fn is_retryable(&self) -> bool {
        matches!(self, Self::Secret { .. })
    }
}

/// A Secret that may be referred to.
#[derive(Clone, PartialEq, Eq)]
pub enum Referent {
    /// Nothing is referred to.
    NotReferred,
    /// It does not exist.
    Missing {
        /// Its name.
        name: String,
    },
    /// It exists.
    Found {
        /// Its name.
        name: String,
        /// What it holds.
        data: Data,
    },
}

/// What a region refers to.
#[derive(Clone, PartialEq, Eq)]
pub struct RegionReferents {
    /// The keys of its bucket.
    pub credentials: Referent,
    /// The authority of its endpoint.
    pub authority: Referent,
}

/// What the operator made before, if it is there.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Present {
    /// `<volume>-ca`.
    pub authority: Option<Data>,
    /// `<volume>-join`.
    pub join: Option<Data>,
    /// `<volume>-metadata-tls`.
    pub metadata: Option<Data>,
    /// `<volume>-worker-tls`.
    pub worker: Option<Data>,
    /// `<volume>-client`.
    pub client: Option<Data>,
    /// `<volume>-controller`.
    pub controller: Option<Data>,
    /// `<volume>-admin`.
    pub admin: Option<Data>,
}

/// Everything that a volume refers to.
#[derive(Clone, PartialEq)]
pub struct Referenced {
    /// Of the primary region.
    pub primary: RegionReferents,
    /// Of the target region, if there is one.
    pub target: Option<RegionReferents>,
    /// What was made before.
    pub present: Present,
    /// The Service through which the other region comes in.
    pub exposed: Option<Service>,
}

/// Reads it.
pub async fn dereference(
    context: &Context,
    volume: &ReplicatedVolume,
) -> Result<Referenced, DereferenceError> {
    let namespace = volume.namespace().ok_or(DereferenceError::NoNamespace)?;
    let secrets: Api<Secret> = Api::namespaced(context.client.clone(), &namespace);
    let names = VolumeNames::new(volume.name_any());
    let primary = region(&secrets, &volume.spec.primary).await?;
    let target = match &volume.spec.target {
        Some(target) => Some(region(&secrets, target).await?),
        None => None,
    };
    let present = Present {
        authority: read(&secrets, &names.authority()).await?,
        join: read(&secrets, &names.join()).await?,
        metadata: read(&secrets, &names.metadata_secret()).await?,
        worker: read(&secrets, &names.worker_secret()).await?,
        client: read(&secrets, &names.client()).await?,
        controller: read(&secrets, &names.controller()).await?,
        admin: read(&secrets, &names.admin()).await?,
    };
    Ok(Referenced {
        primary,
        target,
        present,
        exposed: context.inventory.get(&namespace, &names.exposed()),
    })
}

async fn region(secrets: &Api<Secret>, region: &RegionSpec) -> Result<RegionReferents, DereferenceError> {
    Ok(RegionReferents {
        credentials: referent(secrets, region.credentials_secret_ref.as_ref()).await?,
        authority: referent(secrets, region.bucket.ca_secret_ref.as_ref()).await?,
    })
}

async fn referent(
    secrets: &Api<Secret>,
    reference: Option<&SecretReference>,
) -> Result<Referent, DereferenceError> {
    let Some(SecretReference { name }) = reference else {
        return Ok(Referent::NotReferred);
    };
    let name = name.clone();
    Ok(match read(secrets, &name).await? {
        Some(data) => Referent::Found { name, data },
        None => Referent::Missing { name },
    })
}

async fn read(secrets: &Api<Secret>, name: &str) -> Result<Option<Data>, DereferenceError> {
    let secret = secrets
        .get_opt(name)
        .await
        .map_err(|source| DereferenceError::Secret {
            name: name.to_owned(),
            source,
        })?;
    Ok(secret.map(|secret| secret.data.unwrap_or_default()))
}

/// The names of the Secrets that a volume refers to: whoever changes one of them changes the volume.
pub fn referred_secrets(volume: &ReplicatedVolume) -> Vec<&str> {
    let regions = std::iter::once(&volume.spec.primary).chain(volume.spec.target.as_ref());
    regions
        .flat_map(|region| [&region.credentials_secret_ref, &region.bucket.ca_secret_ref])
        .flatten()
        .map(|reference| reference.name.as_str())
        .collect()
}
