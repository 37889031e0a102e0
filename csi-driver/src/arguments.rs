//! What each role is told by its environment.

// The comments are the help texts that a terminal shows: there Markdown would only be in the way.
#![allow(clippy::doc_markdown)]

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::endpoint::Endpoint;

/// The CSI driver of Twinshore: csi.twinshore.io.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "twinshore-csi",
    version,
    propagate_version = true,
    max_term_width = 110
)]
pub struct Arguments {
    /// Log as JSON, one object per line. TWINSHORE_LOG filters.
    #[arg(long, global = true)]
    pub log_json: bool,
    /// What to be.
    #[command(subcommand)]
    pub role: Role,
}

/// What to be.
#[derive(Clone, Debug, Subcommand)]
pub enum Role {
    /// Make, copy, enlarge and remove claims of volumes. One for each cluster, beside the sidecars of Kubernetes.
    ///
    /// Example: twinshore-csi controller --region east --endpoint unix:///csi/csi.sock
    Controller(ControllerArguments),
    /// Mount volumes on this node. One for each node, with privileges.
    ///
    /// Example: twinshore-csi node --node-name worker-1
    Node(NodeArguments),
    /// Run the processes of mounts, without privileges. One for each node.
    ///
    /// Example: twinshore-csi mounter --plugin /plugin/plugin.sock
    Mounter(MounterArguments),
}

/// `twinshore-csi controller`.
#[derive(Clone, Debug, Args)]
pub struct ControllerArguments {
    /// The region of this cluster.
    #[arg(long, env = "TWINSHORE_REGION")]
    pub region: String,
    /// Where the sidecars call.
    #[arg(long, env = "CSI_ENDPOINT", default_value = "unix:///csi/csi.sock")]
    pub endpoint: Endpoint,
    /// Where /healthz and /readyz are served.
    #[arg(long, env = "TWINSHORE_HTTP", default_value = "0.0.0.0:8080")]
    pub http: SocketAddr,
    /// This process, for people.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub instance: String,
}

/// `twinshore-csi node`.
#[derive(Clone, Debug, Args)]
pub struct NodeArguments {
    /// The node's name in its cluster.
    #[arg(long, env = "NODE_NAME")]
    pub node_name: String,
    /// The kubelet's directory.
    #[arg(long, env = "KUBELET_PATH", default_value = "/var/lib/kubelet")]
    pub kubelet_path: PathBuf,
    /// The user that the mounter runs as. Nobody else is given a mount.
    #[arg(long, default_value_t = 65_532)]
    pub mounter_user: u32,
    /// Where /healthz and /readyz are served.
    #[arg(long, env = "TWINSHORE_HTTP", default_value = "0.0.0.0:8080")]
    pub http: SocketAddr,
}

/// `twinshore-csi mounter`.
#[derive(Clone, Debug, Args)]
pub struct MounterArguments {
    /// The socket of the node plugin.
    #[arg(long)]
    pub plugin: PathBuf,
    /// Where the keys of mounted volumes are kept: a directory in memory.
    #[arg(long, default_value = "/run/twinshore")]
    pub secrets: PathBuf,
    /// Where mounts cache.
    #[arg(long, default_value = "/var/cache/twinshore")]
    pub cache: PathBuf,
    /// The program that serves a mount.
    #[arg(long, default_value = "twinshore")]
    pub program: OsString,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Arguments::command().debug_assert();
    }
}
