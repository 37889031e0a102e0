//! Why pods do not run, in the words of whoever knows.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt as _;
use twinshore_crds::names::COMPONENT_LABEL;

/// Longest part of a container's last words that is passed on: the first line tells.
const LAST_WORDS_MAX: usize = 400;

/// The first trouble of the pods of a part.
pub fn trouble(pods: &[Pod], component: &str) -> Option<String> {
    pods.iter()
        .filter(|pod| {
            pod.labels()
                .get(COMPONENT_LABEL)
                .is_some_and(|label| label == component)
        })
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .find_map(of_pod)
}

fn of_pod(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let containers = status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten();
    for container in containers {
        if let Some(message) = of_container(container) {
            return Some(format!(
                "pod {}, container {}: {message}",
                pod.name_any(),
                container.name
            ));
        }
    }
    let unschedulable = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    Some(format!(
        "pod {} finds no node: {}",
        pod.name_any(),
        unschedulable.message.as_deref().unwrap_or("unknown reason")
    ))
}

fn of_container(container: &ContainerStatus) -> Option<String> {
    if container.ready {
        return None;
    }
    let last_words = |terminated: Option<&k8s_openapi::api::core::v1::ContainerStateTerminated>| {
        let terminated = terminated?;
        if terminated.exit_code == 0 {
            return None;
        }
        let words = terminated.message.as_deref().map(str::trim).unwrap_or_default();
        Some(match words.lines().rev().find(|line| !line.trim().is_empty()) {
            Some(line) => shortened(line),
            None => format!("ended with exit code {}", terminated.exit_code),
        })
    };
    let state = container.state.as_ref()?;
    let last = container
        .last_state
        .as_ref()
        .and_then(|last| last.terminated.as_ref());
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if matches!(reason, "PodInitializing" | "ContainerCreating" | "") {
            return None;
        }
        return last_words(last).or_else(|| {
            let message = waiting.message.as_deref().unwrap_or_default();
            Some(format!("{reason}: {}", shortened(message)))
        });
    }
    last_words(state.terminated.as_ref())
}

fn shortened(text: &str) -> String {
    text.chars().take(LAST_WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    // Values are written in place.
    #![allow(clippy::needless_pass_by_value)]

    use serde_json::json;

    use super::*;

    fn pod(status: serde_json::Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "documents-metadata-0", "labels": {COMPONENT_LABEL: "metadata"}},
            "status": status,
        }))
        .unwrap()
    }

    fn container(state: serde_json::Value, last: serde_json::Value) -> serde_json::Value {
        json!({"name": "create", "image": "i", "imageID": "", "ready": false, "restartCount": 3, "state": state, "lastState": last})
    }

    #[test]
    fn the_last_words_of_a_container_tell_what_is_wrong() {
        let cases = [
            (json!({}), None),
            (
                json!({"containerStatuses": [container(json!({"waiting": {"reason": "ContainerCreating"}}), json!({}))]}),
                None,
            ),
            (
                json!({"initContainerStatuses": [container(
                    json!({"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}),
                    json!({"terminated": {"exitCode": 1, "message": "starting\ntwinshore: the bucket does not exist\n"}}),
                )]}),
                Some("pod documents-metadata-0, container create: twinshore: the bucket does not exist"),
            ),
            (
                json!({"containerStatuses": [container(
                    json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}}),
                    json!({}),
                )]}),
                Some("pod documents-metadata-0, container create: ErrImagePull: not found"),
            ),
            (
                json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]}),
                Some("pod documents-metadata-0 finds no node: 0/3 nodes"),
            ),
        ];
        for (status, expected) in cases {
            assert_eq!(trouble(&[pod(status)], "metadata").as_deref(), expected);
        }
        assert_eq!(trouble(&[], "metadata"), None);
    }
}
