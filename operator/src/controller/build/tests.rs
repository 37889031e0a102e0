#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::Value;
use twinshore_crds::client_secret::PartSecret;

use super::*;
use crate::controller::certify::certify;
use crate::controller::validate::{side_of, validate};
use crate::fixtures::{one_region, referenced, settings, two_regions, volume_with};
use crate::trust::{Authority, JoinBundle};

fn built(spec: &Value, region: &str, running: Running) -> (Validated, Certified, Resources) {
    let volume = volume_with(spec);
    let mut referenced = referenced(&volume);
    let authority = Authority::generate("volume-id", Timestamp::now()).unwrap();
    let bundle = JoinBundle::new(&authority, "https://east.example.org:7700".to_owned());
    referenced.present.authority = Some(authority.to_data());
    referenced.present.join = Some(bundle.to_data("documents-join", "team"));
    let side = side_of(&volume, region).unwrap();
    let validated = validate(&volume, referenced, region, side).unwrap();
    let certified = certify(&validated, Timestamp::now()).unwrap();
    let resources = build(&validated, &certified, running, &settings(region)).unwrap();
    (validated, certified, resources)
}

/// Kind and name of everything, sorted.
fn inventory(resources: &Resources) -> Vec<String> {
    let value = |kind: &str, meta: &ObjectMeta| format!("{kind} {}", meta.name.clone().unwrap_or_default());
    let mut all = Vec::new();
    all.extend(
        resources
            .secrets
            .iter()
            .map(|object| value("Secret", &object.metadata)),
    );
    all.extend(
        resources
            .roles
            .iter()
            .map(|object| value("Role", &object.metadata)),
    );
    all.extend(
        resources
            .role_bindings
            .iter()
            .map(|object| value("RoleBinding", &object.metadata)),
    );
    all.extend(
        resources
            .claim
            .iter()
            .map(|object| value("Claim", &object.metadata)),
    );
    all.extend(
        resources
            .services
            .iter()
            .map(|object| value("Service", &object.metadata)),
    );
    all.extend(
        resources
            .network_policy
            .iter()
            .map(|object| value("NetworkPolicy", &object.metadata)),
    );
    all.extend(
        resources
            .disruption_budgets
            .iter()
            .map(|object| value("Budget", &object.metadata)),
    );
    all.extend(
        resources
            .metadata
            .iter()
            .map(|object| value("StatefulSet", &object.metadata)),
    );
    all.extend(
        resources
            .worker
            .iter()
            .map(|object| value("Deployment", &object.metadata)),
    );
    all.extend(resources.jobs.iter().map(|object| value("Job", &object.metadata)));
    all.sort();
    all
}

fn arguments(template: &PodTemplateSpec) -> Vec<String> {
    template.spec.as_ref().unwrap().containers[0]
        .args
        .clone()
        .unwrap()
}

fn value_of<'a>(arguments: &'a [String], flag: &str) -> Option<&'a str> {
    let position = arguments.iter().position(|argument| argument == flag)?;
    arguments.get(position + 1).map(String::as_str)
}

#[test]
fn the_primary_region_has_everything() {
    let (_, _, resources) = built(&two_regions(), "east", Running::default());
    assert_eq!(
        inventory(&resources),
        [
            "Budget documents-metadata",
            "Budget documents-worker",
            "Claim data-documents-metadata-0",
            "Deployment documents-worker",
            "NetworkPolicy documents-metadata",
            "Role documents-client",
            "Role documents-controller",
            "RoleBinding documents-client",
            "RoleBinding documents-controller",
            "Secret documents-admin",
            "Secret documents-client",
            "Secret documents-controller",
            "Secret documents-join",
            "Secret documents-metadata-tls",
            "Secret documents-worker-tls",
            "Service documents-metadata",
            "StatefulSet documents-metadata",
        ]
    );
}

#[test]
fn the_target_region_has_workers_and_what_mounts_need() {
    let (_, _, resources) = built(&two_regions(), "west", Running::default());
    assert_eq!(
        inventory(&resources),
        [
            "Budget documents-worker",
            "Deployment documents-worker",
            "Role documents-client",
            "Role documents-controller",
            "RoleBinding documents-client",
            "RoleBinding documents-controller",
            "Secret documents-client",
            "Secret documents-controller",
            "Secret documents-worker-tls",
        ]
    );
    let worker = resources.worker.unwrap().spec.unwrap();
    let arguments = arguments(&worker.template);
    assert!(arguments.iter().any(|argument| argument == "--flip"));
    assert_eq!(
        value_of(&arguments, "--metadata"),
        Some("https://east.example.org:7700")
    );
}

#[test]
fn the_controller_plugin_gets_no_keys_of_buckets() {
    for region in ["east", "west"] {
        let (_, _, resources) = built(&two_regions(), region, Running::default());
        let named = |name: &str| {
            let is_named = |secret: &&Secret| secret.metadata.name.as_deref() == Some(name);
            let secret = resources.secrets.iter().find(is_named).unwrap();
            PartSecret::from_data(secret.data.as_ref().unwrap()).unwrap()
        };
        let controller = named("documents-controller");
        let client = named("documents-client");
        assert!(client.credentials.is_some() && controller.credentials.is_none());
        assert!(controller.credentials2.is_none() && controller.bucket_authorities.is_none());
        assert_eq!(controller.config, client.config);
        assert_ne!(controller.private_key, client.private_key);
    }
}

#[test]
fn one_region_is_exposed_to_nobody() {
    let (_, _, resources) = built(&one_region(), "east", Running::default());
    assert!(
        !inventory(&resources)
            .iter()
            .any(|name| name.contains("join") || name.contains("exposed"))
    );
}

#[test]
fn a_target_is_added_once_the_service_says_that_it_has_none() {
    let jobs = |has_target| {
        let (_, _, resources) = built(&two_regions(), "east", Running { has_target });
        resources.jobs
    };
    assert!(jobs(None).is_empty());
    assert!(jobs(Some(true)).is_empty());
    let added = jobs(Some(false));
    let arguments = arguments(&added[0].spec.as_ref().unwrap().template);
    assert_eq!(value_of(&arguments, "--region2"), Some("west"));
    assert_eq!(
        value_of(&arguments, "--bucket2"),
        Some("https://s3.west:9000/documents-west")
    );
}

#[test]
fn changed_settings_and_keys_restart_nothing() {
    let template = |spec: &Value| {
        let (_, _, resources) = built(spec, "east", Running::default());
        resources.metadata.unwrap().spec.unwrap().template
    };
    let before = template(&two_regions());
    let mut changed = two_regions();
    changed["compression"] = "Zstd".into();
    changed["durability"] = "Fsync".into();
    changed["trashRetention"] = "1h".into();
    changed["quota"] = serde_json::json!({"size": "1Gi"});
    assert_eq!(template(&changed), before);
}

#[test]
fn a_mount_finds_everything_in_one_secret() {
    for (region, flip) in [("east", false), ("west", true)] {
        let (_, certified, resources) = built(&two_regions(), region, Running::default());
        let secret = resources
            .secrets
            .iter()
            .find(|secret| secret.metadata.name.as_deref() == Some("documents-client"))
            .unwrap();
        let content = PartSecret::from_data(secret.data.as_ref().unwrap()).unwrap();
        assert_eq!(content.config.flip, flip);
        assert_eq!(content.config.region, region);
        assert_eq!(content.config.volume_id, "volume-id");
        assert_eq!(
            content.config.target.unwrap().url,
            "https://s3.west:9000/documents-west"
        );
        assert!(
            content.credentials.unwrap().contains("AKE") && content.credentials2.unwrap().contains("AKW")
        );
        assert_eq!(content.certificate, certified.client.certificate);
    }
}

#[test]
fn what_outlives_the_resource_has_no_owner_and_everything_else_has() {
    let (validated, mut certified, resources) = built(&two_regions(), "east", Running::default());
    certified.is_new = true;
    let authority = authority_secret(&validated, &certified).unwrap();
    let kept = [
        &authority.metadata,
        &resources.claim.as_ref().unwrap().metadata,
        &resources
            .secrets
            .iter()
            .find(|secret| secret.metadata.name.as_deref() == Some("documents-join"))
            .unwrap()
            .metadata,
    ];
    for metadata in kept {
        assert_eq!(metadata.owner_references, None);
    }
    for metadata in [
        &resources.metadata.as_ref().unwrap().metadata,
        &resources.worker.as_ref().unwrap().metadata,
        &resources.services[0].metadata,
        &resources.roles[0].metadata,
    ] {
        assert_eq!(metadata.owner_references.as_ref().unwrap()[0].name, "documents");
    }
}

/// The rules of the `restricted` level of the Pod Security Standards that a pod of ours could break.
#[test]
fn every_pod_is_restricted_and_has_no_token() {
    let (validated, certified, resources) = built(
        &two_regions(),
        "east",
        Running {
            has_target: Some(false),
        },
    );
    let destroy = destroy_job(&validated, &certified, &settings("east"));
    let templates = [
        resources.metadata.unwrap().spec.unwrap().template,
        resources.worker.unwrap().spec.unwrap().template,
        resources.jobs[0].spec.clone().unwrap().template,
        destroy.spec.unwrap().template,
    ];
    for template in templates {
        let pod = template.spec.unwrap();
        assert_eq!(pod.automount_service_account_token, Some(false));
        let security = pod.security_context.unwrap();
        assert_eq!(security.run_as_non_root, Some(true));
        assert_eq!(security.seccomp_profile.unwrap().type_, "RuntimeDefault");
        for container in pod.containers.iter().chain(pod.init_containers.iter().flatten()) {
            let security = container.security_context.as_ref().unwrap();
            assert_eq!(security.allow_privilege_escalation, Some(false));
            assert_eq!(security.read_only_root_filesystem, Some(true));
            assert_eq!(
                security.capabilities.as_ref().unwrap().drop,
                Some(vec!["ALL".to_owned()])
            );
            assert!(security.privileged.is_none());
        }
    }
}

#[test]
fn no_secret_stands_on_a_command_line() {
    let (_, _, resources) = built(
        &two_regions(),
        "east",
        Running {
            has_target: Some(false),
        },
    );
    let text = serde_json::to_string(&(
        &resources.metadata,
        &resources.worker,
        &resources.jobs,
        &resources.services,
    ))
    .unwrap();
    for secret in ["hunter2", "hunter3", "AKE", "AKW"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[test]
fn building_twice_builds_the_same() {
    let volume = volume_with(&two_regions());
    let validated = validate(&volume, referenced(&volume), "east", Side::Primary).unwrap();
    let certified = certify(&validated, Timestamp::now()).unwrap();
    let build = || build(&validated, &certified, Running::default(), &settings("east")).unwrap();
    assert_eq!(build(), build());
}
