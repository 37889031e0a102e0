//! The metadata service: disk, Services, StatefulSet.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    ContainerPort, HTTPGetAction, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeClaimVolumeSource, Probe, Service, ServicePort, ServiceSpec, Volume, VolumeMount,
    VolumeResourceRequirements,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use twinshore_crds::ExposureType;
use twinshore_crds::names::{METADATA_COMPONENT, METADATA_HTTP_PORT, METADATA_PORT};

use super::super::certify::Certified;
use super::super::validate::Validated;
use super::container::{Pod, bucket_flags, container, resources, shared_flags, template};
use super::{kept, owned};
use crate::context::Settings;

/// Where its disk is mounted.
const DATA_DIRECTORY: &str = "/var/lib/twinshore";
/// A graceful stop takes the journal to both buckets, which it is given 15 s for; and twice that to be sure.
const GRACE_SECONDS: i64 = 45;
/// A service that reads a long journal at its start answers only then: five minutes.
const STARTUP_ATTEMPTS: i32 = 100;

/// Labels by which its pods are found. They never change.
pub fn selector(validated: &Validated) -> BTreeMap<String, String> {
    validated.labels(METADATA_COMPONENT)
}

/// The disk.
pub fn claim(validated: &Validated) -> PersistentVolumeClaim {
    PersistentVolumeClaim {
        metadata: kept(validated, validated.names.metadata_claim(), METADATA_COMPONENT),
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".to_owned()]),
            resources: Some(VolumeResourceRequirements {
                requests: Some(BTreeMap::from([(
                    "storage".to_owned(),
                    Quantity(validated.metadata.storage_size.clone()),
                )])),
                ..VolumeResourceRequirements::default()
            }),
            storage_class_name: validated.metadata.storage_class.clone(),
            ..PersistentVolumeClaimSpec::default()
        }),
        ..PersistentVolumeClaim::default()
    }
}

/// The headless Service within the cluster and, if the other region comes in by one, that Service.
pub fn services(validated: &Validated) -> Vec<Service> {
    let mut services = vec![Service {
        metadata: owned(validated, validated.names.metadata(), METADATA_COMPONENT),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some(selector(validated)),
            ports: Some(vec![
                port("metadata", METADATA_PORT, None),
                port("http", METADATA_HTTP_PORT, None),
            ]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }];
    if validated.target.is_none() {
        return services;
    }
    let spec = &validated.metadata.exposure_spec;
    let (kind, node_port) = match spec.kind {
        ExposureType::LoadBalancer => ("LoadBalancer", None),
        ExposureType::NodePort => ("NodePort", spec.port),
        ExposureType::Address | ExposureType::None => return services,
    };
    let mut metadata = owned(validated, validated.names.exposed(), METADATA_COMPONENT);
    metadata.annotations.clone_from(&spec.annotations);
    services.push(Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(kind.to_owned()),
            selector: Some(selector(validated)),
            ports: Some(vec![port("metadata", METADATA_PORT, node_port)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    });
    services
}

fn port(name: &str, number: i32, node_port: Option<i32>) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String(name.to_owned())),
        node_port,
        ..ServicePort::default()
    }
}

/// A single pod may always be evicted: clients wait for it and send again what was not answered. An eviction that is refused would
/// only keep nodes from being drained.
pub fn disruption_budget(validated: &Validated) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: owned(validated, validated.names.metadata(), METADATA_COMPONENT),
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

/// The service.
pub fn stateful_set(validated: &Validated, certified: &Certified, settings: &Settings) -> StatefulSet {
    let directory = format!("{DATA_DIRECTORY}/metadata");
    let mounted = |mut container: k8s_openapi::api::core::v1::Container| {
        container.volume_mounts.get_or_insert_default().push(VolumeMount {
            name: "data".to_owned(),
            mount_path: DATA_DIRECTORY.to_owned(),
            ..VolumeMount::default()
        });
        container.resources = Some(resources(&validated.metadata.pod, "100m", "256Mi"));
        container
    };
    // Only what never changes, so that a changed setting is no reason to restart: the rest is set through the service.
    let create = [
        vec![
            "volume".to_owned(),
            "create".to_owned(),
            validated.names.volume().to_owned(),
            "--if-missing".to_owned(),
            "--id".to_owned(),
            certified.volume_id.clone(),
            "--metadata-dir".to_owned(),
            directory.clone(),
            "--region".to_owned(),
            validated.primary.bucket.region.clone(),
            "--bucket".to_owned(),
            validated.primary.bucket.url.clone(),
        ],
        bucket_flags(validated),
    ]
    .concat();
    let serve = [
        vec![
            "metadata".to_owned(),
            "--dir".to_owned(),
            directory,
            "--listen".to_owned(),
            format!("0.0.0.0:{METADATA_PORT}"),
            "--http".to_owned(),
            format!("0.0.0.0:{METADATA_HTTP_PORT}"),
        ],
        shared_flags(validated),
    ]
    .concat();
    let mut service = mounted(container("metadata", serve, settings));
    service.ports = Some(vec![
        container_port("metadata", METADATA_PORT),
        container_port("http", METADATA_HTTP_PORT),
    ]);
    service.startup_probe = Some(probe(3, STARTUP_ATTEMPTS));
    service.liveness_probe = Some(probe(10, 6));
    service.readiness_probe = Some(probe(5, 2));
    StatefulSet {
        metadata: owned(validated, validated.names.metadata(), METADATA_COMPONENT),
        spec: Some(StatefulSetSpec {
            replicas: Some(1),
            service_name: Some(validated.names.metadata()),
            selector: LabelSelector {
                match_labels: Some(selector(validated)),
                ..LabelSelector::default()
            },
            template: template(
                validated,
                Pod {
                    labels: selector(validated),
                    settings: &validated.metadata.pod,
                    secret: validated.names.metadata_secret(),
                    init: vec![mounted(container("create", create, settings))],
                    container: service,
                    volumes: vec![Volume {
                        name: "data".to_owned(),
                        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                            claim_name: validated.names.metadata_claim(),
                            read_only: None,
                        }),
                        ..Volume::default()
                    }],
                    grace_seconds: GRACE_SECONDS,
                },
            ),
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn container_port(name: &str, number: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number,
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn probe(period_seconds: i32, failure_threshold: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/healthz".to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_seconds),
        // Its own patience with its engine is 5 s.
        timeout_seconds: Some(6),
        failure_threshold: Some(failure_threshold),
        ..Probe::default()
    }
}
