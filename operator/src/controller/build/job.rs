//! What is done once.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use sha2::{Digest as _, Sha256};
use twinshore_crds::names::JOB_COMPONENT;

use super::super::certify::Certified;
use super::super::validate::Validated;
use super::container::{Pod, SECRET_DIRECTORY, bucket_flags, container, resources, template};
use super::{endpoint, owned};
use crate::context::Settings;
use crate::transport;

/// How often the bucket is asked before the Job gives up; with the pauses of the Job controller that is some hours.
const ATTEMPTS: i32 = 20;

/// Takes the target's bucket into use. It can be repeated; once the metadata service has the target, the Job is collected.
pub fn set_target(validated: &Validated, settings: &Settings) -> Job {
    let (region, bucket) = validated
        .target
        .as_ref()
        .map(|target| (target.bucket.region.clone(), target.bucket.url.clone()))
        .unwrap_or_default();
    let command = [
        vec![
            "volume".to_owned(),
            "set-target".to_owned(),
            "--metadata".to_owned(),
            endpoint(validated),
            "--region2".to_owned(),
            region,
            "--bucket2".to_owned(),
            bucket,
        ],
        bucket_flags(validated),
        transport::flags(SECRET_DIRECTORY),
    ]
    .concat();
    once(
        validated,
        settings,
        &validated.names.target_job(),
        "set-target",
        command,
    )
}

/// Empties both buckets, if they belong to this volume.
pub fn destroy(validated: &Validated, certified: &Certified, settings: &Settings) -> Job {
    let mut command = vec![
        "volume".to_owned(),
        "destroy".to_owned(),
        "--id".to_owned(),
        certified.volume_id.clone(),
        "--yes".to_owned(),
        "--bucket".to_owned(),
        validated.primary.bucket.url.clone(),
    ];
    if let Some(target) = &validated.target {
        command.extend(["--bucket2".to_owned(), target.bucket.url.clone()]);
    }
    command.extend(bucket_flags(validated));
    once(
        validated,
        settings,
        &validated.names.destroy_job(),
        "destroy",
        command,
    )
}

/// A Job with the credentials of administration.
fn once(validated: &Validated, settings: &Settings, prefix: &str, name: &str, command: Vec<String>) -> Job {
    let mut work = container(name, command, settings);
    work.resources = Some(resources(&validated.workers.pod, "50m", "64Mi"));
    let mut pod = template(
        validated,
        Pod {
            labels: validated.labels(JOB_COMPONENT),
            settings: &validated.workers.pod,
            secret: validated.names.admin(),
            init: Vec::new(),
            container: work,
            volumes: Vec::new(),
            grace_seconds: 10,
        },
    );
    if let Some(spec) = &mut pod.spec {
        spec.restart_policy = Some("OnFailure".to_owned());
    }
    // A Job's template cannot change: what asks for something else has another name.
    let fingerprint = Sha256::digest(serde_json::to_string(&pod).unwrap_or_default());
    let suffix = u32::from_be_bytes([fingerprint[0], fingerprint[1], fingerprint[2], fingerprint[3]]);
    Job {
        metadata: owned(validated, format!("{prefix}-{suffix:08x}"), JOB_COMPONENT),
        spec: Some(JobSpec {
            backoff_limit: Some(ATTEMPTS),
            template: pod,
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}
