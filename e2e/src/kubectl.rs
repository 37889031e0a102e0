//! A cluster, through kubectl: what a person would do, with limits on time and messages that tell what was seen.
//!
//! Nothing here knows the lab; a [`Kubectl`] is a context of a kubeconfig.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::address::Region;
use crate::command::Run;
use crate::failure::Failure;
use crate::patience::{Look, wait_for};
use crate::place::Place;

/// For one request to the API server.
const REQUEST_PATIENCE: Duration = Duration::from_secs(30);

/// For a program in a pod.
const EXEC_PATIENCE: Duration = Duration::from_mins(1);

/// For objects to be gone: pods have up to 30 s to end.
const DELETE_PATIENCE: Duration = Duration::from_mins(2);

/// A cluster, and the namespace to work in.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    context: String,
    namespace: String,
}

impl Kubectl {
    /// A region's cluster, as administrator, in the namespace `default`.
    pub fn of(place: &Place, region: Region) -> Result<Self, Failure> {
        let program = place.programs()?.join("kubectl");
        Ok(Self::new(&program, &place.kubeconfig(), region.name()))
    }

    /// A context of a kubeconfig.
    pub fn new(program: &Path, kubeconfig: &Path, context: &str) -> Self {
        Self {
            program: program.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            context: context.to_owned(),
            namespace: "default".to_owned(),
        }
    }

    /// The same in another namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ..self.clone()
        }
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The context, which is the cluster's name.
    pub fn context(&self) -> &str {
        &self.context
    }

    /// Any command.
    pub fn command<'a>(&'a self, arguments: impl IntoIterator<Item = &'a str>) -> Run {
        let general = ["--context", &self.context, "--namespace", &self.namespace];
        let arguments: Vec<&str> = general.into_iter().chain(arguments).collect();
        Run::new(&self.program, arguments)
            .environment("KUBECONFIG", &self.kubeconfig)
            .patience(REQUEST_PATIENCE)
    }

    /// Any command with its arguments separated by spaces; what it says.
    pub fn say(&self, arguments: &str) -> Result<String, Failure> {
        Ok(self.command(arguments.split_whitespace()).output()?)
    }

    /// Makes a namespace, unless it is there.
    pub fn ensure_namespace(&self) -> Result<(), Failure> {
        let manifest = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": self.namespace },
        });
        self.apply(&manifest.to_string())?;
        // Pods are refused before it exists.
        self.wait_until("serviceaccount/default", REQUEST_PATIENCE, |_| Look::Done(()))
    }

    /// Deletes the namespace with everything in it, and waits until it is gone.
    pub fn delete_namespace(&self) -> Result<(), Failure> {
        let arguments = ["delete", "namespace", &self.namespace, "--ignore-not-found"];
        Ok(self.command(arguments).patience(DELETE_PATIENCE).done()?)
    }

    /// Applies manifests, in YAML or JSON.
    pub fn apply(&self, manifests: &str) -> Result<(), Failure> {
        Ok(self
            .command(["apply", "--filename", "-"])
            .input(manifests)
            .done()?)
    }

    /// Applies manifests that shall be refused; the reason that is given.
    pub fn refused(&self, manifests: &str) -> Result<String, Failure> {
        match self
            .command(["apply", "--filename", "-"])
            .input(manifests)
            .output()
        {
            Ok(said) => Err(Failure::wrong(format!("was not refused: {said}"))),
            Err(error @ crate::command::CommandError::Failed { .. }) => Ok(error.said().to_owned()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes something, such as `pod/x`, and waits until it is gone. It need not be there.
    pub fn delete(&self, what: &str) -> Result<(), Failure> {
        let arguments = ["delete", what, "--ignore-not-found"];
        Ok(self.command(arguments).patience(DELETE_PATIENCE).done()?)
    }

    /// Something, such as `pod/x` or `pods`. None if it is not there.
    pub fn find(&self, what: &str) -> Result<Option<Value>, Failure> {
        let text = self
            .command(["get", what, "--output", "json", "--ignore-not-found"])
            .output()?;
        if text.is_empty() {
            return Ok(None);
        }
        let value = serde_json::from_str(&text)
            .map_err(|error| Failure::wrong(format!("kubectl get {what} said no JSON: {error}")))?;
        Ok(Some(value))
    }

    /// Something that must be there.
    pub fn get(&self, what: &str) -> Result<Value, Failure> {
        self.find(what)?
            .ok_or_else(|| Failure::wrong(format!("{}: there is no {what}", self.context)))
    }

    /// Waits until something is there and is as it should be. The look tells what it misses.
    pub fn wait_until<T>(
        &self,
        what: &str,
        patience: Duration,
        mut look: impl FnMut(&Value) -> Look<T>,
    ) -> Result<T, Failure> {
        let name = format!("{}: {what}", self.context);
        Ok(wait_for(&name, patience, || match self.find(what) {
            Ok(Some(value)) => look(&value),
            Ok(None) => Look::NotYet("it is not there".to_owned()),
            Err(error) => Look::NotYet(crate::failure::chain(&error)),
        })?)
    }

    /// Waits until a condition of something has a status, such as `Ready` and `True`.
    pub fn wait_for_condition(
        &self,
        what: &str,
        condition: &str,
        status: &str,
        patience: Duration,
    ) -> Result<(), Failure> {
        self.wait_until(what, patience, |value| {
            let found = condition_of(value, condition);
            let is_so = found.is_some_and(|found| found["status"] == status);
            Look::at(is_so, format!("{condition} is not {status}: {}", summary(value)))
        })
    }

    /// Waits until a pod is ready.
    pub fn wait_for_pod(&self, name: &str, patience: Duration) -> Result<(), Failure> {
        self.wait_for_condition(&format!("pod/{name}"), "Ready", "True", patience)
    }

    /// Waits until a deployment, stateful set or daemon set has rolled out.
    pub fn wait_for_rollout(&self, what: &str, patience: Duration) -> Result<(), Failure> {
        self.wait_until(what, patience, |value| {
            Look::at(has_rolled_out(value), summary(value))
        })
    }

    /// Waits until something is gone.
    pub fn wait_until_gone(&self, what: &str, patience: Duration) -> Result<(), Failure> {
        let name = format!("{}: {what} to be gone", self.context);
        wait_for(&name, patience, || match self.find(what) {
            Ok(None) => Look::Done(()),
            Ok(Some(value)) => Look::NotYet(summary(&value)),
            Err(error) => Look::NotYet(crate::failure::chain(&error)),
        })?;
        Ok(())
    }

    /// What a pod, or `deployment/x`, has said.
    pub fn logs(&self, what: &str) -> Result<String, Failure> {
        Ok(self.command(["logs", what, "--all-containers"]).output()?)
    }

    /// Runs a program in a pod; what it says.
    pub fn exec<'a>(
        &'a self,
        pod: &'a str,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<String, Failure> {
        Ok(self.exec_run(pod, arguments).output()?)
    }

    /// A program to be run in a pod.
    pub fn exec_run<'a>(&'a self, pod: &'a str, arguments: impl IntoIterator<Item = &'a str>) -> Run {
        let command = ["exec", pod, "--"].into_iter().chain(arguments);
        self.command(command).patience(EXEC_PATIENCE)
    }

    /// A script for the shell of a pod; what it says.
    pub fn shell(&self, pod: &str, script: &str) -> Result<String, Failure> {
        self.exec(pod, ["sh", "-c", script])
    }

    /// Waits for an event about an object whose message contains a text; the message.
    pub fn wait_for_event(&self, about: &str, text: &str, patience: Duration) -> Result<String, Failure> {
        let selector = format!("--field-selector=involvedObject.name={about}");
        let found = wait_for(
            &format!("an event about {about} that says {text:?}"),
            patience,
            || match self
                .command(["get", "events", &selector, "--output=json"])
                .output()
            {
                Ok(said) => match message_with(&said, text) {
                    Ok(message) => Look::Done(message),
                    Err(others) => Look::NotYet(others),
                },
                Err(error) => Look::NotYet(crate::failure::chain(&error)),
            },
        )?;
        Ok(found)
    }

    /// Events of a namespace, the last ones last, for a person who wants to know why.
    pub fn events(&self) -> Result<String, Failure> {
        self.say("get events --sort-by=.lastTimestamp")
    }
}

/// The message of a list of events that contains a text, or all messages that there are.
fn message_with(events: &str, text: &str) -> Result<String, String> {
    let events: Value = serde_json::from_str(events).map_err(|error| error.to_string())?;
    let messages: Vec<&str> = events["items"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|event| event["message"].as_str())
        .collect();
    match messages.iter().find(|message| message.contains(text)) {
        Some(message) => Ok((*message).to_owned()),
        None => Err(format!("events: {}", messages.join("; "))),
    }
}

/// A condition of an object's status.
pub fn condition_of<'a>(object: &'a Value, condition: &str) -> Option<&'a Value> {
    let conditions = object["status"]["conditions"].as_array()?;
    conditions.iter().find(|found| found["type"] == condition)
}

/// Whether what the status counts is of the newest specification, and complete.
fn has_rolled_out(object: &Value) -> bool {
    let status = &object["status"];
    if status["observedGeneration"].as_i64() < object["metadata"]["generation"].as_i64() {
        return false;
    }
    let number = |value: &Value| value.as_i64().unwrap_or(0);
    if object["kind"] == "DaemonSet" {
        let wanted = number(&status["desiredNumberScheduled"]);
        return wanted > 0
            && number(&status["updatedNumberScheduled"]) == wanted
            && number(&status["numberAvailable"]) == wanted;
    }
    let wanted = object["spec"]["replicas"].as_i64().unwrap_or(1);
    number(&status["updatedReplicas"]) == wanted
        && number(&status["readyReplicas"]) == wanted
        && number(&status["replicas"]) == wanted
}

/// What an object's status says, as short as is still useful: what its containers wait for, and its conditions that are not as they should be.
pub fn summary(object: &Value) -> String {
    let status = &object["status"];
    let mut parts = Vec::new();
    if let Some(phase) = status["phase"].as_str() {
        parts.push(phase.to_owned());
    }
    for container in status["containerStatuses"].as_array().into_iter().flatten() {
        for state in ["waiting", "terminated"] {
            let state = &container["state"][state];
            if let Some(reason) = state["reason"].as_str() {
                let name = container["name"].as_str().unwrap_or_default();
                let message = state["message"].as_str().unwrap_or_default();
                parts.push(format!("{name} {reason} {message}").trim_end().to_owned());
            }
        }
    }
    for condition in status["conditions"].as_array().into_iter().flatten() {
        let text = |field: &str| condition[field].as_str().unwrap_or_default();
        parts.push(
            format!(
                "{}={} {} {}",
                text("type"),
                text("status"),
                text("reason"),
                text("message")
            )
            .trim_end()
            .to_owned(),
        );
    }
    if parts.is_empty() {
        parts.push(status.to_string());
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn a_rollout_of_an_older_generation_is_not_the_one_waited_for() {
        let deployment = |observed: i64, ready: i64| {
            json!({
                "kind": "Deployment",
                "metadata": { "generation": 2 },
                "spec": { "replicas": 2 },
                "status": { "observedGeneration": observed, "replicas": 2, "updatedReplicas": 2, "readyReplicas": ready },
            })
        };
        assert!(has_rolled_out(&deployment(2, 2)));
        assert!(!has_rolled_out(&deployment(1, 2)));
        assert!(!has_rolled_out(&deployment(2, 1)));
    }

    #[test]
    fn a_daemon_set_without_nodes_has_not_rolled_out() {
        let set = json!({ "kind": "DaemonSet", "status": { "desiredNumberScheduled": 0 } });
        assert!(!has_rolled_out(&set));
    }

    #[test]
    fn an_event_is_found_by_what_it_says() {
        let events =
            json!({ "items": [{ "message": "pulled" }, { "message": "create the Secret" }] }).to_string();
        assert_eq!(message_with(&events, "Secret").unwrap(), "create the Secret");
        assert_eq!(
            message_with(&events, "quota").unwrap_err(),
            "events: pulled; create the Secret"
        );
    }

    #[test]
    fn the_reason_why_a_container_waits_is_told() {
        let pod = json!({
            "status": {
                "phase": "Pending",
                "containerStatuses": [
                    { "name": "c", "state": { "waiting": { "reason": "ErrImageNeverPull", "message": "no image" } } },
                ],
                "conditions": [{ "type": "Ready", "status": "False", "reason": "ContainersNotReady" }],
            },
        });
        assert_eq!(
            summary(&pod),
            "Pending; c ErrImageNeverPull no image; Ready=False ContainersNotReady"
        );
    }
}
