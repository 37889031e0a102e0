//! Step three: what should be there. Pure: by now every reference is resolved and every value is valid, so it needs no client, no
//! clock and no randomness, and fails only if something cannot be written down.

mod access;
mod container;
mod job;
mod metadata;
mod network;
mod secrets;
mod worker;

#[cfg(test)]
mod tests;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use twinshore_crds::client_secret::PartSecretError;
use twinshore_crds::conditions::Reason;
use twinshore_protocol::Side;

pub use job::destroy as destroy_job;
pub use secrets::authority as authority_secret;

use super::certify::Certified;
use super::validate::{Exposure, Validated, authority_of};
use crate::context::Settings;
use crate::error::Categorised;
use crate::transport;

/// Something cannot be written down.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Secret of a part.
    #[error("cannot write the Secret of the {0}")]
    Secret(&'static str, #[source] PartSecretError),
}

impl Categorised for BuildError {
    fn reason(&self) -> Reason {
        Reason::InvalidSpec
    }

    fn is_retryable(&self) -> bool {
        false
    }
}

/// Everything that a volume has in this cluster, in the order in which it is made.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    /// Secrets; what pods need before they start.
    pub secrets: Vec<Secret>,
    /// Roles for single Secrets.
    pub roles: Vec<Role>,
    /// Who has them.
    pub role_bindings: Vec<RoleBinding>,
    /// The disk of the metadata service. Never removed by garbage collection.
    pub claim: Option<PersistentVolumeClaim>,
    /// Services.
    pub services: Vec<Service>,
    /// Who may reach the metadata service.
    pub network_policy: Option<NetworkPolicy>,
    /// How many pods may be evicted.
    pub disruption_budgets: Vec<PodDisruptionBudget>,
    /// The metadata service.
    pub metadata: Option<StatefulSet>,
    /// The workers.
    pub worker: Option<Deployment>,
    /// What is done once.
    pub jobs: Vec<Job>,
}

/// What is known of the running volume, as far as it decides what should be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// The metadata service says that it has a target. Unknown as long as it was not heard.
    pub has_target: Option<bool>,
}

/// Where mounts and workers of this cluster reach the metadata service.
pub fn endpoint(validated: &Validated) -> String {
    match (&validated.trust, validated.side) {
        (super::validate::TrustSource::Bundle(bundle), Side::Target) => bundle.endpoint.clone(),
        _ => transport::endpoint(&format!(
            "{}.{}.svc:{}",
            validated.names.metadata(),
            validated.namespace,
            twinshore_crds::names::METADATA_PORT
        )),
    }
}

/// Where the other region reaches it, if that is known.
pub fn exposed_endpoint(validated: &Validated) -> Option<String> {
    match &validated.metadata.exposure {
        Exposure::At { host, port } => Some(transport::endpoint(&authority_of(host, *port))),
        Exposure::No | Exposure::Waiting => None,
    }
}

/// Builds everything.
pub fn build(
    validated: &Validated,
    certified: &Certified,
    running: Running,
    settings: &Settings,
) -> Result<Resources, BuildError> {
    let mut resources = Resources {
        secrets: secrets::all(validated, certified)?,
        ..Resources::default()
    };
    access::add(validated, settings, &mut resources);
    if validated.side == Side::Primary {
        resources.claim = Some(metadata::claim(validated));
        resources.services = metadata::services(validated);
        resources.network_policy = Some(network::policy(validated));
        resources
            .disruption_budgets
            .push(metadata::disruption_budget(validated));
        resources.metadata = Some(metadata::stateful_set(validated, certified, settings));
        // As long as the service was not heard, the target may be there already.
        if validated.target.is_some() && running.has_target == Some(false) {
            resources.jobs.push(job::set_target(validated, settings));
        }
    }
    if validated.workers.count > 0 {
        resources
            .disruption_budgets
            .push(worker::disruption_budget(validated));
    }
    resources.worker = Some(worker::deployment(validated, settings));
    Ok(resources)
}

/// The metadata of an object that goes with the resource.
fn owned(validated: &Validated, name: String, component: &str) -> ObjectMeta {
    ObjectMeta {
        owner_references: Some(vec![validated.owner.clone()]),
        ..kept(validated, name, component)
    }
}

/// The metadata of an object that outlives the resource.
fn kept(validated: &Validated, name: String, component: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(validated.namespace.clone()),
        labels: Some(validated.labels(component)),
        ..ObjectMeta::default()
    }
}
