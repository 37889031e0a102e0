//! Everything that helps to find a fault, in one archive.
//!
//! What cannot be had (a pod that is gone, a right that is missing, a cluster that does not answer) is written down in `missing.txt` and
//! does not end the report: it is made when things are broken.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use twinshore_crds::names::{METADATA_COMPONENT, METADATA_HTTP_PORT, NAME_LABEL, PRODUCT, VOLUME_LABEL};

use super::kubectl::Kubectl;
use super::redaction::{redact_lines, redact_resource};
use super::{ReportArguments, status, volumes};
use crate::error::{CommandError, with_causes};

/// Lines of each container's log, the newest: some hours of a busy one.
const LOG_LINES: &str = "--tail=20000";

/// Bytes of each container's log.
const LOG_BYTES: &str = "--limit-bytes=16777216";

/// Where the operator serves metrics.
const OPERATOR_HTTP_PORT: i32 = 8080;

/// What is asked for of the whole cluster.
const CLUSTER_KINDS: &str = "nodes,storageclasses,csidrivers,csinodes,persistentvolumes";

/// What is asked for of namespaces.
const NAMESPACE_KINDS: &str = "pods,statefulsets,deployments,daemonsets,jobs,services,persistentvolumeclaims,poddisruptionbudgets,networkpolicies";

/// A container whose log is wanted.
#[derive(Debug, PartialEq, Eq)]
struct Pod {
    namespace: String,
    name: String,
    component: String,
    restarted: bool,
}

/// Makes the archive.
pub async fn run(arguments: &ReportArguments) -> Result<(), CommandError> {
    let path = arguments.output.clone().unwrap_or_else(default_path);
    let mut archive = Archive::create(&path)?;
    for cluster in arguments.clusters.clusters() {
        eprintln!("cluster {cluster}: resources, events, logs, metrics");
        collect(&cluster, arguments, &mut archive).await?;
    }
    let missing = archive.missing.len();
    archive.finish()?;
    println!("{}", path.display());
    if missing > 0 {
        eprintln!("{missing} things could not be had: see missing.txt in the archive");
    }
    Ok(())
}

async fn collect(
    cluster: &Kubectl,
    arguments: &ReportArguments,
    archive: &mut Archive,
) -> Result<(), CommandError> {
    let scope = arguments.clusters.scope();
    let folder = format!("{}", Folder(cluster));
    match volumes(cluster, arguments.volume.as_deref(), &scope).await {
        Ok(volumes) => {
            let details: Vec<String> = volumes.iter().map(status::details).collect();
            archive.add(&format!("{folder}/status.txt"), details.join("\n").as_bytes())?;
        }
        Err(error) => archive.miss(format!("{cluster}: {}", with_causes(&error))),
    }
    let ours = arguments.volume.as_ref().map_or_else(
        || format!("{NAME_LABEL}={PRODUCT}"),
        |volume| format!("{VOLUME_LABEL}={volume}"),
    );
    let mut all_ours = vec!["get", NAMESPACE_KINDS, "--output", "json", "--selector", &ours];
    // Without a volume the chart's own parts count too, which may be in another namespace.
    let everywhere = ["--all-namespaces".to_owned()];
    let place = if arguments.volume.is_some() {
        scope.as_slice()
    } else {
        &everywhere
    };
    all_ours.extend(place.iter().map(String::as_str));
    let mut custom = vec!["get", "replicatedvolumes.twinshore.io", "--output", "json"];
    custom.extend(arguments.volume.as_deref());
    let mut events = vec!["get", "events", "--output", "json"];
    for list in [&mut custom, &mut events] {
        list.extend(scope.iter().map(String::as_str));
    }
    let whole = ["get", CLUSTER_KINDS, "--output", "json"];
    let definition = [
        "get",
        "customresourcedefinition",
        "replicatedvolumes.twinshore.io",
        "--output",
        "json",
    ];
    for (file, question) in [
        ("volumes.json", custom.as_slice()),
        ("events.json", events.as_slice()),
        ("cluster.json", whole.as_slice()),
        ("definition.json", definition.as_slice()),
        ("version.json", &["version", "--output", "json"]),
    ] {
        resources(cluster, question, &format!("{folder}/{file}"), archive).await?;
    }
    let Some(ours) = resources(cluster, &all_ours, &format!("{folder}/parts.json"), archive).await? else {
        return Ok(());
    };
    for pod in pods(&ours) {
        logs(cluster, &pod, &folder, archive).await?;
        metrics(cluster, &pod, &folder, archive).await?;
    }
    Ok(())
}

/// Adds resources without what is secret; the resources, if there are any.
async fn resources(
    cluster: &Kubectl,
    question: &[&str],
    file: &str,
    archive: &mut Archive,
) -> Result<Option<Value>, CommandError> {
    let answered = cluster.run(question).await.and_then(|answer| {
        serde_json::from_slice::<Value>(&answer).map_err(CommandError::failed(format!(
            "read what cluster {cluster} answers"
        )))
    });
    match answered {
        Ok(mut value) => {
            redact_resource(&mut value);
            archive.add(file, format!("{value:#}\n").as_bytes())?;
            Ok(Some(value))
        }
        Err(error) => {
            archive.miss(format!("{cluster}: {}", with_causes(&error)));
            Ok(None)
        }
    }
}

async fn logs(cluster: &Kubectl, pod: &Pod, folder: &str, archive: &mut Archive) -> Result<(), CommandError> {
    let Pod { namespace, name, .. } = pod;
    let mut question = vec![
        "logs",
        name,
        "--namespace",
        namespace,
        "--all-containers",
        "--prefix",
        "--timestamps",
        LOG_LINES,
        LOG_BYTES,
    ];
    text(
        cluster,
        &question,
        &format!("{folder}/logs/{namespace}/{name}.log"),
        archive,
    )
    .await?;
    if pod.restarted {
        question.push("--previous");
        text(
            cluster,
            &question,
            &format!("{folder}/logs/{namespace}/{name}.previous.log"),
            archive,
        )
        .await?;
    }
    Ok(())
}

async fn metrics(
    cluster: &Kubectl,
    pod: &Pod,
    folder: &str,
    archive: &mut Archive,
) -> Result<(), CommandError> {
    let port = match pod.component.as_str() {
        METADATA_COMPONENT => METADATA_HTTP_PORT,
        "operator" => OPERATOR_HTTP_PORT,
        _ => return Ok(()),
    };
    let Pod { namespace, name, .. } = pod;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy/metrics");
    let file = format!("{folder}/metrics/{namespace}/{name}.txt");
    text(cluster, &["get", "--raw", &path], &file, archive).await
}

async fn text(
    cluster: &Kubectl,
    question: &[&str],
    file: &str,
    archive: &mut Archive,
) -> Result<(), CommandError> {
    match cluster.run(question).await {
        Ok(answer) => archive.add(file, redact_lines(&String::from_utf8_lossy(&answer)).as_bytes()),
        Err(error) => {
            archive.miss(format!("{cluster}: {}", with_causes(&error)));
            Ok(())
        }
    }
}

/// The pods in a list of resources.
fn pods(list: &Value) -> Vec<Pod> {
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    items
        .iter()
        .filter(|item| item["kind"] == "Pod")
        .map(|pod| {
            let statuses = pod["status"]["containerStatuses"].as_array();
            Pod {
                namespace: text(&pod["metadata"]["namespace"]),
                name: text(&pod["metadata"]["name"]),
                component: text(&pod["metadata"]["labels"][twinshore_crds::names::COMPONENT_LABEL]),
                restarted: statuses.is_some_and(|statuses| {
                    statuses
                        .iter()
                        .any(|status| status["restartCount"].as_u64() > Some(0))
                }),
            }
        })
        .collect()
}

/// A context's name as the name of a folder: contexts of clouds have slashes and colons.
struct Folder<'a>(&'a Kubectl);

impl std::fmt::Display for Folder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let safe = |c: char| {
            if c.is_ascii_alphanumeric() || c == '-' {
                c
            } else {
                '_'
            }
        };
        f.write_str(&self.0.to_string().chars().map(safe).collect::<String>())
    }
}

fn default_path() -> PathBuf {
    // Before 1970 is no time for a report.
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs());
    PathBuf::from(format!("twinshore-report-{seconds}.tar.gz"))
}

/// The archive, and what is missing in it.
struct Archive {
    path: PathBuf,
    builder: tar::Builder<GzEncoder<File>>,
    missing: Vec<String>,
}

impl Archive {
    fn create(path: &Path) -> Result<Self, CommandError> {
        let file =
            File::create_new(path).map_err(CommandError::failed(format!("create {}", path.display())))?;
        Ok(Self {
            path: path.to_owned(),
            builder: tar::Builder::new(GzEncoder::new(file, Compression::default())),
            missing: Vec::new(),
        })
    }

    fn add(&mut self, name: &str, content: &[u8]) -> Result<(), CommandError> {
        let added = self.append(name, content);
        added.map_err(CommandError::failed(format!("write {}", self.path.display())))
    }

    fn append(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        header.set_cksum();
        self.builder
            .append_data(&mut header, format!("twinshore-report/{name}"), content)
    }

    fn miss(&mut self, what: String) {
        self.missing.push(what);
    }

    fn finish(mut self) -> Result<(), CommandError> {
        if !self.missing.is_empty() {
            let missing = self.missing.join("\n") + "\n";
            self.add("missing.txt", redact_lines(&missing).as_bytes())?;
        }
        let what = format!("write {}", self.path.display());
        self.builder
            .into_inner()
            .and_then(GzEncoder::finish)
            .and_then(|file| file.sync_all())
            .map_err(CommandError::failed(what))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io::Read as _;

    use serde_json::json;

    use super::*;

    #[test]
    fn pods_are_found_among_other_resources() {
        let list = json!({"items": [
            {"kind": "Service", "metadata": {"name": "s", "namespace": "n"}},
            {"kind": "Pod", "metadata": {"name": "p", "namespace": "n", "labels": {"app.kubernetes.io/component": "metadata"}},
             "status": {"containerStatuses": [{"restartCount": 0}, {"restartCount": 2}]}},
        ]});
        assert_eq!(
            pods(&list),
            [Pod {
                namespace: "n".to_owned(),
                name: "p".to_owned(),
                component: "metadata".to_owned(),
                restarted: true,
            }]
        );
        assert_eq!(pods(&json!({})), []);
    }

    #[test]
    fn an_archive_holds_what_was_added_and_names_what_is_missing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.tar.gz");
        let mut archive = Archive::create(&path).unwrap();
        archive.add("east/status.txt", b"fine").unwrap();
        archive.miss("west: no answer".to_owned());
        archive.finish().unwrap();
        let mut found = Vec::new();
        let decoder = flate2::read::GzDecoder::new(File::open(&path).unwrap());
        for entry in tar::Archive::new(decoder).entries().unwrap() {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            found.push((entry.path().unwrap().display().to_string(), content));
        }
        assert_eq!(
            found,
            [
                ("twinshore-report/east/status.txt".to_owned(), "fine".to_owned()),
                (
                    "twinshore-report/missing.txt".to_owned(),
                    "west: no answer\n".to_owned()
                ),
            ]
        );
        assert!(Archive::create(&path).is_err(), "what exists is not overwritten");
    }
}
