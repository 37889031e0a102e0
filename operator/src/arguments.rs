//! What the operator is told by its environment.

// The comments are the help texts that a terminal shows: there Markdown would only be in the way.
#![allow(clippy::doc_markdown)]

use std::net::SocketAddr;
use std::str::FromStr;

use clap::{Args, Parser, Subcommand};

/// Brings each ReplicatedVolume to its declared state.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "twinshore-operator",
    version,
    propagate_version = true,
    max_term_width = 110
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Look after the volumes of a region until asked to stop.
    ///
    /// Example: twinshore-operator run --region east --image ghcr.io/twinshore/twinshore:0.1.0
    Run(Box<RunArguments>),
    /// Ask an operator whether it is well, and say so. The chart's test uses it.
    ///
    /// Example: twinshore-operator check twinshore-operator.twinshore-system.svc:8080
    Check {
        /// Where it serves its health.
        #[arg(value_name = "HOST:PORT")]
        address: String,
    },
}

/// How to run.
#[derive(Clone, Debug, Args)]
pub struct RunArguments {
    /// The region of this cluster: a volume that names it as primary or target has a part here.
    #[arg(long, env = "TWINSHORE_REGION", value_parser = region)]
    pub region: String,
    /// The image of the metadata service, the workers and the jobs.
    #[arg(long, env = "TWINSHORE_IMAGE")]
    pub image: String,
    /// When that image is pulled.
    #[arg(long, env = "TWINSHORE_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub image_pull_policy: String,
    /// Only volumes in these namespaces, separated by commas. All by default.
    #[arg(long, env = "TWINSHORE_WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,
    /// The service account of the CSI node plugin, as NAMESPACE/NAME: it may read the Secrets of mounts.
    #[arg(long, env = "TWINSHORE_NODE_ACCOUNT")]
    pub node_account: Option<Account>,
    /// The service account of the CSI controller plugin, as NAMESPACE/NAME: it may read the Secrets of claims.
    #[arg(long, env = "TWINSHORE_CONTROLLER_ACCOUNT")]
    pub controller_account: Option<Account>,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, env = "TWINSHORE_HTTP", default_value = "0.0.0.0:8080")]
    pub http: SocketAddr,
    /// Where the web console is served; nowhere by default. On 127.0.0.1 it is reached by `kubectl port-forward` only.
    #[arg(long, env = "TWINSHORE_CONSOLE")]
    pub console: Option<SocketAddr>,
    /// The namespace of the operator, where its lease is.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub namespace: String,
    /// The name of this instance, unique among the operators of the cluster.
    #[arg(long, env = "POD_NAME")]
    pub instance: Option<String>,
    /// Do not wait to be the only one. For an operator that is started by hand.
    #[arg(long)]
    pub no_leader_election: bool,
    /// How many volumes are worked on at a time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,
    /// Log as JSON, one object per line. TWINSHORE_LOG filters.
    #[arg(long)]
    pub log_json: bool,
}

/// A service account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl FromStr for Account {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => Ok(Self {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            }),
            _ => Err(format!("`{text}` is not NAMESPACE/NAME")),
        }
    }
}

/// A region that no volume could name would be a mistake that nobody is told of.
fn region(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if text.is_empty()
        || text.len() > 63
        || !text.bytes().all(allowed)
        || text.starts_with('-')
        || text.ends_with('-')
    {
        return Err("1 to 63 lower case letters, digits and `-`, not at the ends".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }

    #[test]
    fn a_region_is_named_as_in_a_volume() {
        assert!(super::region("eu-west-1").is_ok());
        for wrong in ["", "East", "-a", "a-", "a.b"] {
            assert!(super::region(wrong).is_err(), "{wrong}");
        }
    }
}
