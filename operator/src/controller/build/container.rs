//! What all containers have in common.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, ObjectFieldSelector,
    PodSecurityContext, PodSpec, PodTemplateSpec, ResourceRequirements, SeccompProfile, SecretVolumeSource,
    SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use twinshore_crds::PodSettings;
use twinshore_crds::client_secret::{BUCKET_CA_KEY, CREDENTIALS_KEY, CREDENTIALS2_KEY, PartBucket};
use twinshore_crds::region::AddressingStyle;

use super::super::validate::{Validated, ValidatedPod};
use crate::context::Settings;
use crate::transport;

/// The user and group of all processes, without a name on the node.
pub const SECURITY: i64 = 65_532;
/// Where the Secret of a part is mounted.
pub const SECRET_DIRECTORY: &str = "/etc/twinshore/volume";
/// Name of that volume of the pod.
const SECRET_VOLUME: &str = "volume";
/// Name of a scratch directory of the pod.
const SCRATCH_VOLUME: &str = "scratch";

/// A container of the image.
pub fn container(name: &str, command: Vec<String>, settings: &Settings) -> Container {
    Container {
        name: name.to_owned(),
        image: Some(settings.image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        command: Some(vec!["twinshore".to_owned()]),
        args: Some([vec!["--log-json".to_owned()], command].concat()),
        env: Some(vec![EnvVar {
            name: "POD_NAME".to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    api_version: Some("v1".to_owned()),
                    field_path: "metadata.name".to_owned(),
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        }]),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".to_owned()]),
                ..Capabilities::default()
            }),
            ..SecurityContext::default()
        }),
        // The last words of a process that ends are its error: `status` shows them.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: Some(vec![
            VolumeMount {
                name: SECRET_VOLUME.to_owned(),
                mount_path: SECRET_DIRECTORY.to_owned(),
                read_only: Some(true),
                ..VolumeMount::default()
            },
            VolumeMount {
                name: SCRATCH_VOLUME.to_owned(),
                mount_path: "/tmp".to_owned(),
                ..VolumeMount::default()
            },
        ]),
        ..Container::default()
    }
}

/// A pod with that container.
pub struct Pod<'a> {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Where it runs.
    pub settings: &'a ValidatedPod,
    /// The Secret of the part.
    pub secret: String,
    /// Containers that run before.
    pub init: Vec<Container>,
    /// The container.
    pub container: Container,
    /// More volumes.
    pub volumes: Vec<Volume>,
    /// How long it may take to stop.
    pub grace_seconds: i64,
}

/// The template of a pod.
pub fn template(validated: &Validated, pod: Pod<'_>) -> PodTemplateSpec {
    let Pod {
        mut labels,
        settings,
        secret,
        init,
        container,
        mut volumes,
        grace_seconds,
    } = pod;
    let PodSettings {
        resources: _,
        node_selector,
        tolerations,
        affinity: _,
        topology_spread_constraints: _,
        priority_class_name,
        annotations,
        labels: more_labels,
    } = &settings.spec;
    let ValidatedPod {
        spec: _,
        affinity,
        topology_spread_constraints,
    } = settings;
    for (key, value) in more_labels {
        labels.entry(key.clone()).or_insert_with(|| value.clone());
    }
    volumes.extend([
        Volume {
            name: SECRET_VOLUME.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret),
                // Keys for the group of the process only.
                default_mode: Some(0o440),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        },
        Volume {
            name: SCRATCH_VOLUME.to_owned(),
            empty_dir: Some(EmptyDirVolumeSource {
                size_limit: Some(Quantity("64Mi".to_owned())),
                ..EmptyDirVolumeSource::default()
            }),
            ..Volume::default()
        },
    ]);
    let some = |map: &BTreeMap<String, String>| (!map.is_empty()).then(|| map.clone());
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            affinity: affinity.clone(),
            // It speaks to the metadata service and the buckets, not to the API server.
            automount_service_account_token: Some(false),
            containers: vec![container],
            enable_service_links: Some(false),
            image_pull_secrets: (!validated.image_pull_secrets.is_empty())
                .then(|| validated.image_pull_secrets.clone()),
            init_containers: (!init.is_empty()).then_some(init),
            node_selector: some(node_selector),
            priority_class_name: priority_class_name.clone(),
            security_context: Some(PodSecurityContext {
                fs_group: Some(SECURITY),
                fs_group_change_policy: Some("OnRootMismatch".to_owned()),
                run_as_group: Some(SECURITY),
                run_as_non_root: Some(true),
                run_as_user: Some(SECURITY),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    ..SeccompProfile::default()
                }),
                ..PodSecurityContext::default()
            }),
            service_account_name: validated.service_account.clone(),
            termination_grace_period_seconds: Some(grace_seconds),
            tolerations: (!tolerations.is_empty()).then(|| tolerations.clone()),
            topology_spread_constraints: (!topology_spread_constraints.is_empty())
                .then(|| topology_spread_constraints.clone()),
            volumes: Some(volumes),
            ..PodSpec::default()
        }),
    }
}

/// The flags about buckets and trust that the long-running parts share.
pub fn shared_flags(validated: &Validated) -> Vec<String> {
    let mut flags = bucket_flags(validated);
    flags.extend(transport::flags(SECRET_DIRECTORY));
    flags
}

/// The flags about buckets.
pub fn bucket_flags(validated: &Validated) -> Vec<String> {
    let in_secret = |key: &str| format!("{SECRET_DIRECTORY}/{key}");
    let mut flags = Vec::new();
    if validated.primary.credentials.is_some() {
        flags.extend(["--credentials-file".to_owned(), in_secret(CREDENTIALS_KEY)]);
    }
    // Also before there is a target: its keys then arrive as a file, without a restart.
    if validated
        .target
        .as_ref()
        .is_none_or(|target| target.credentials.is_some())
    {
        flags.extend(["--credentials-file2".to_owned(), in_secret(CREDENTIALS2_KEY)]);
    }
    if validated.bucket_authorities.is_some() {
        flags.extend(["--bucket-ca-file".to_owned(), in_secret(BUCKET_CA_KEY)]);
    }
    let buckets = [Some(&validated.primary), validated.target.as_ref()];
    for (bucket, suffix) in buckets.into_iter().zip(["", "2"]) {
        if let Some(bucket) = bucket {
            flags.extend(address_flags(&bucket.bucket, suffix));
        }
    }
    flags
}

fn address_flags(bucket: &PartBucket, suffix: &str) -> Vec<String> {
    let mut flags = Vec::new();
    if let Some(region) = &bucket.signing_region {
        flags.extend([format!("--signing-region{suffix}"), region.clone()]);
    }
    match bucket.addressing_style {
        AddressingStyle::Auto => {}
        AddressingStyle::Path => flags.extend([format!("--addressing-style{suffix}"), "path".to_owned()]),
        AddressingStyle::VirtualHost => {
            flags.extend([format!("--addressing-style{suffix}"), "virtual-host".to_owned()]);
        }
    }
    flags
}

/// Requests that fit a small volume, unless told otherwise.
pub fn resources(settings: &ValidatedPod, cpu: &str, memory: &str) -> ResourceRequirements {
    settings
        .spec
        .resources
        .clone()
        .unwrap_or_else(|| ResourceRequirements {
            requests: Some(BTreeMap::from([
                ("cpu".to_owned(), Quantity(cpu.to_owned())),
                ("memory".to_owned(), Quantity(memory.to_owned())),
            ])),
            ..ResourceRequirements::default()
        })
}
