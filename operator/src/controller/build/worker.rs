//! The workers: Deployment and PodDisruptionBudget.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use twinshore_crds::names::WORKER_COMPONENT;
use twinshore_protocol::Side;

use super::super::validate::Validated;
use super::container::{Pod, container, resources, shared_flags, template};
use super::{endpoint, owned};
use crate::context::Settings;

/// How long a worker waits for a metadata service that is not up yet before it ends and is started again.
const PATIENCE_SECONDS: u32 = 600;
/// What is under way when it is stopped is given up and done again by another.
const GRACE_SECONDS: i64 = 30;

fn selector(validated: &Validated) -> BTreeMap<String, String> {
    validated.labels(WORKER_COMPONENT)
}

/// The workers.
pub fn deployment(validated: &Validated, settings: &Settings) -> Deployment {
    let workers = &validated.workers;
    let mut command = vec![
        "worker".to_owned(),
        "--metadata".to_owned(),
        endpoint(validated),
        "--wait-service".to_owned(),
        PATIENCE_SECONDS.to_string(),
        "--slots".to_owned(),
        workers.slots.to_string(),
        "--buffer-size".to_owned(),
        // A plain number is in MiB.
        (workers.memory_bytes >> 20).to_string(),
    ];
    if validated.side == Side::Target {
        command.push("--flip".to_owned());
    }
    command.extend(shared_flags(validated));
    let mut worker = container("worker", command, settings);
    // What it may keep of objects, and as much for itself.
    let memory = format!("{}Mi", (workers.memory_bytes >> 20) + 128);
    worker.resources = Some(resources(&workers.pod, "50m", &memory));
    Deployment {
        metadata: owned(validated, validated.names.worker(), WORKER_COMPONENT),
        spec: Some(DeploymentSpec {
            replicas: Some(workers.count),
            selector: LabelSelector {
                match_labels: Some(selector(validated)),
                ..LabelSelector::default()
            },
            template: template(
                validated,
                Pod {
                    labels: selector(validated),
                    settings: &workers.pod,
                    secret: validated.names.worker_secret(),
                    init: Vec::new(),
                    container: worker,
                    volumes: Vec::new(),
                    grace_seconds: GRACE_SECONDS,
                },
            ),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// One worker at a time may be evicted.
pub fn disruption_budget(validated: &Validated) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: owned(validated, validated.names.worker(), WORKER_COMPONENT),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(LabelSelector {
                match_labels: Some(selector(validated)),
                ..LabelSelector::default()
            }),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}
