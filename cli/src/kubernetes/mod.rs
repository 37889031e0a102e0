//! `kubectl twinshore`: this binary under the name `kubectl-twinshore`. It looks at volumes through the API servers of their clusters.
//!
//! Everything is asked of `kubectl`, with the flags that a person gave: whatever way of logging in works there works here, and
//! nothing is seen that the person may not see.
//!
//! | module | what it is |
//! |---|---|
//! | [`kubectl`] | runs `kubectl`, within a time and a size |
//! | [`status`] | what a person wants to know of volumes. Pure |
//! | [`redaction`] | what must not be in a report. Pure |
//! | [`report`] | everything that helps to find a fault, in one archive |

mod kubectl;
mod redaction;
mod report;
mod status;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use twinshore_crds::volume::ReplicatedVolume;

use crate::error::CommandError;
use kubectl::Kubectl;

/// The name under which `kubectl` finds a plugin.
pub const PROGRAM: &str = "kubectl-twinshore";

/// Looks at ReplicatedVolumes in their clusters.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl twinshore",
    version,
    propagate_version = true,
    max_term_width = 110
)]
#[allow(clippy::doc_markdown)] // A help text.
pub struct Arguments {
    /// Log as JSON, one object per line.
    #[arg(long, global = true, hide = true)]
    pub log_json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show volumes: both regions, lag, health, what is wrong and what to do.
    ///
    /// Without a name, a line for each volume. Several contexts show what each cluster sees.
    ///
    /// Examples:
    ///   kubectl twinshore status -A
    ///   kubectl twinshore status documents -n storage --context east --context west
    #[command(verbatim_doc_comment)]
    Status(StatusArguments),
    /// Collect resources, events, logs and metrics in one archive, without secrets.
    ///
    /// Secrets are never read; what looks like one in logs and environments is removed.
    ///
    /// Example: kubectl twinshore report -n storage --context east --context west --output report.tar.gz
    #[command(verbatim_doc_comment)]
    Report(ReportArguments),
}

/// Which clusters, as `kubectl` takes it.
#[derive(Debug, Args)]
pub struct ClusterArguments {
    /// A context of the kubeconfig; may be given several times. The current one by default.
    #[arg(long, value_name = "NAME")]
    context: Vec<String>,
    /// The kubeconfig.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The namespace; that of the context by default.
    #[arg(short, long, value_name = "NAMESPACE", conflicts_with = "all_namespaces")]
    namespace: Option<String>,
    /// All namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
}

impl ClusterArguments {
    /// One for each context.
    fn clusters(&self) -> Vec<Kubectl> {
        let contexts: Vec<Option<String>> = if self.context.is_empty() {
            vec![None]
        } else {
            self.context.iter().cloned().map(Some).collect()
        };
        contexts
            .into_iter()
            .map(|context| Kubectl::new(context, self.kubeconfig.clone()))
            .collect()
    }

    fn scope(&self) -> Vec<String> {
        match &self.namespace {
            _ if self.all_namespaces => vec!["--all-namespaces".to_owned()],
            Some(namespace) => vec!["--namespace".to_owned(), namespace.clone()],
            None => Vec::new(),
        }
    }
}

/// Of `status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// One volume, in detail.
    #[arg(conflicts_with = "all_namespaces")]
    volume: Option<String>,
    /// Where.
    #[command(flatten)]
    clusters: ClusterArguments,
}

/// Of `report`.
#[derive(Debug, Args)]
pub struct ReportArguments {
    /// Only what belongs to this volume.
    #[arg(conflicts_with = "all_namespaces")]
    volume: Option<String>,
    /// Where.
    #[command(flatten)]
    clusters: ClusterArguments,
    /// The archive; must not exist. `twinshore-report-TIME.tar.gz` by default.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Is this process called as the plugin?
pub fn is_plugin(program: Option<&std::ffi::OsStr>) -> bool {
    program
        .map(std::path::Path::new)
        .and_then(|path| path.file_stem())
        .is_some_and(|name| name == PROGRAM || name == "kubectl_twinshore")
}

/// Runs a command to its end.
pub async fn run(command: Command) -> Result<(), CommandError> {
    match command {
        Command::Status(arguments) => show(&arguments).await,
        Command::Report(arguments) => report::run(&arguments).await,
    }
}

async fn show(arguments: &StatusArguments) -> Result<(), CommandError> {
    let clusters = arguments.clusters.clusters();
    let mut reached = 0;
    for cluster in &clusters {
        if clusters.len() > 1 {
            println!("# cluster {cluster}\n");
        }
        match volumes(cluster, arguments.volume.as_deref(), &arguments.clusters.scope()).await {
            Ok(found) => {
                reached += 1;
                print!("{}", text(arguments, &found));
            }
            // The other cluster is just what somebody wants to see when one is gone.
            Err(error) if clusters.len() > 1 => {
                println!("{}\n", crate::error::with_causes(&error));
            }
            Err(error) => return Err(error),
        }
    }
    if reached == 0 {
        return Err(CommandError::Usage("no cluster answers".to_owned()));
    }
    Ok(())
}

fn text(arguments: &StatusArguments, volumes: &[ReplicatedVolume]) -> String {
    match (&arguments.volume, volumes) {
        (Some(_), [volume]) => status::details(volume),
        (_, []) => "No volumes found. Is this the right namespace (-n, -A) and context?\n".to_owned(),
        _ => status::table(volumes),
    }
}

/// What the API server answers to `list`.
#[derive(serde::Deserialize)]
struct List {
    items: Vec<ReplicatedVolume>,
}

/// The volumes of a cluster: one, or all of a scope.
async fn volumes(
    cluster: &Kubectl,
    name: Option<&str>,
    scope: &[String],
) -> Result<Vec<ReplicatedVolume>, CommandError> {
    let mut arguments = vec!["get", "replicatedvolumes.twinshore.io", "--output", "json"];
    arguments.extend(name);
    arguments.extend(scope.iter().map(String::as_str));
    let answer = cluster.run(&arguments).await?;
    let what = || CommandError::failed(format!("read the volumes of cluster {cluster}"));
    if name.is_some() {
        let volume = serde_json::from_slice(&answer).map_err(what())?;
        return Ok(vec![volume]);
    }
    let list: List = serde_json::from_slice(&answer).map_err(what())?;
    Ok(list.items)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]

    use super::*;

    #[test]
    fn the_plugin_is_known_by_its_name() {
        for (program, expected) in [
            ("kubectl-twinshore", true),
            ("/usr/local/bin/kubectl-twinshore", true),
            ("kubectl_twinshore", true),
            ("twinshore", false),
            ("/bin/twinshore", false),
        ] {
            assert_eq!(is_plugin(Some(program.as_ref())), expected, "{program}");
        }
        assert!(!is_plugin(None));
    }

    #[test]
    fn arguments_are_those_of_kubectl() {
        let parsed = Arguments::try_parse_from([
            "kubectl twinshore",
            "status",
            "documents",
            "-n",
            "storage",
            "--context",
            "east",
            "--context",
            "west",
        ]);
        match parsed.map(|arguments| arguments.command) {
            Ok(Command::Status(arguments)) => {
                assert_eq!(arguments.clusters.clusters().len(), 2);
                assert_eq!(arguments.clusters.scope(), ["--namespace", "storage"]);
            }
            other => panic!("{other:?}"),
        }
        assert!(Arguments::try_parse_from(["kubectl twinshore", "status", "documents", "-A"]).is_err());
    }
}
