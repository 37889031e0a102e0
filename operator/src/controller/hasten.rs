//! Pods are told at once of a Secret that changed.
//!
//! The kubelet looks at the Secrets of a pod now and then, up to a minute apart, and whenever something of the pod changes. So when the
//! Secret of a part is another, an annotation of its pods becomes the Secret's version: the new keys and certificates are in the pods' files
//! within seconds, and nothing is restarted.
//!
//! A pod that is new has the annotation written once; at rest nothing is written.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use twinshore_crds::names::{COMPONENT_LABEL, METADATA_COMPONENT, VolumeNames, WORKER_COMPONENT};

use super::apply::ApplyError;
use crate::context::Context;

/// The version of the Secret that the kubelet was last told of.
const SECRET_VERSION: &str = "twinshore.io/secret-version";

/// Tells the pods of a volume, those that need it.
pub async fn hasten(
    context: &Context,
    names: &VolumeNames,
    namespace: &str,
    pods: &[Pod],
) -> Result<(), ApplyError> {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    for pod in pods {
        let Some(secret) = secret_of(pod, names) else {
            continue;
        };
        let version = context.inventory.resource_version("Secret", namespace, &secret);
        let Some(version) = version.filter(|version| needs(pod, version)) else {
            continue;
        };
        let name = pod.name_any();
        let patch = json!({"metadata": {"annotations": {SECRET_VERSION: version}}});
        match api
            .patch_metadata(&name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
        {
            Ok(_) => {
                context.metrics.written("Pod");
                tracing::info!(
                    pod = name,
                    namespace,
                    "its Secret has changed: the kubelet is told"
                );
            }
            // It ended meanwhile.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(source) => {
                return Err(ApplyError::Refused {
                    kind: "Pod".to_owned(),
                    name,
                    source,
                });
            }
        }
    }
    Ok(())
}

/// The Secret that a pod of this volume lives on.
fn secret_of(pod: &Pod, names: &VolumeNames) -> Option<String> {
    match pod.labels().get(COMPONENT_LABEL)?.as_str() {
        METADATA_COMPONENT => Some(names.metadata_secret()),
        WORKER_COMPONENT => Some(names.worker_secret()),
        _ => None,
    }
}

/// Was the kubelet not told of this version?
fn needs(pod: &Pod, version: &str) -> bool {
    let told = pod.annotations().get(SECRET_VERSION);
    pod.metadata.deletion_timestamp.is_none() && told.is_none_or(|told| told != version)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn pod(component: &str, version: Option<&str>) -> Pod {
        let annotations = version.map(|version| json!({SECRET_VERSION: version}));
        serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {COMPONENT_LABEL: component}, "annotations": annotations.unwrap_or_else(|| json!({}))},
        }))
        .unwrap()
    }

    #[test]
    fn each_part_lives_on_its_own_secret() {
        let names = VolumeNames::new("documents");
        let of = |component: &str| secret_of(&pod(component, None), &names);
        assert_eq!(of("metadata").unwrap(), "documents-metadata-tls");
        assert_eq!(of("worker").unwrap(), "documents-worker-tls");
        assert_eq!(of("job"), None);
    }

    #[test]
    fn only_who_was_not_told_is_told() {
        assert!(needs(&pod("worker", None), "7"));
        assert!(needs(&pod("worker", Some("6")), "7"));
        assert!(!needs(&pod("worker", Some("7")), "7"));
    }
}
