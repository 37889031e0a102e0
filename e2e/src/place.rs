//! Where things are.
//!
//! There is one lab on a machine: names of network namespaces and addresses are the machine's. So its state has one place too.
//!
//! ```text
//! /var/lib/twinshore-lab.lock   held while somebody brings up or takes down
//! /var/lib/twinshore-lab/
//!   kubeconfig                  both clusters, contexts `east` and `west`
//!   programs -> the cache       what the lab was brought up with
//!   mount-points                directories made for nodes to mount theirs over
//!   our-image                   what the image of our programs was made of
//!   wan/{process,log,control}
//!   east/pki/                   certificates, keys and kubeconfigs of the cluster
//!   east/s3/{process,log,keys,buckets/,...}
//!   east/nodes/east-1/{process,log/,kubelet/,containerd/,etcd/,...}
//! ```

use std::path::{Path, PathBuf};

use crate::address::{Node, Region};
use crate::failure::Failure;

/// All state. Not below a temporary directory: containers' file systems are overlays, which want a real one.
const STATE: &str = "/var/lib/twinshore-lab";

/// Names the directory with the programs that the clusters are made of, which `cargo xtask lab` builds.
pub const PROGRAMS_VARIABLE: &str = "TWINSHORE_LAB_PROGRAMS";

/// Where things are.
#[derive(Clone, Debug)]
pub struct Place {
    state: PathBuf,
    programs: Option<PathBuf>,
}

impl Place {
    /// The lab of this machine.
    pub fn find() -> Self {
        Self {
            state: PathBuf::from(STATE),
            programs: std::env::var_os(PROGRAMS_VARIABLE).map(PathBuf::from),
        }
    }

    /// All state of the lab.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Held while somebody brings up or takes down.
    pub fn lock(&self) -> PathBuf {
        // Beside the state, which goes when the lab is taken down.
        self.state.with_extension("lock")
    }

    /// The programs of the clusters, as the environment or the lab that is up says.
    pub fn programs(&self) -> Result<PathBuf, Failure> {
        let recorded = self.recorded_programs();
        let programs = match &self.programs {
            Some(programs) => programs.clone(),
            None => std::fs::read_link(&recorded).map_err(|_| Failure::Missing {
                what: "the programs of the clusters were not named".to_owned(),
                remedy: format!("use `cargo xtask lab`, or set {PROGRAMS_VARIABLE}"),
            })?,
        };
        if programs.join("kube-apiserver").exists() {
            return Ok(programs);
        }
        Err(Failure::Missing {
            what: format!("there is no kube-apiserver in {}", programs.display()),
            remedy: "build it with `cargo xtask lab up`".to_owned(),
        })
    }

    /// A link to the programs that the lab was brought up with.
    pub fn recorded_programs(&self) -> PathBuf {
        self.state.join("programs")
    }

    /// Image archives made of those programs.
    pub fn images(&self) -> Result<PathBuf, Failure> {
        Ok(self.programs()?.join("images"))
    }

    /// Both clusters, for people.
    pub fn kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// Directories that were made on this machine for nodes to mount theirs over.
    pub fn mount_points(&self) -> PathBuf {
        self.state.join("mount-points")
    }

    /// What the line between the regions keeps.
    pub fn wan(&self) -> PathBuf {
        self.state.join("wan")
    }

    /// Where the line listens for commands.
    pub fn wan_control(&self) -> PathBuf {
        self.wan().join("control")
    }

    /// A region's.
    pub fn region(&self, region: Region) -> PathBuf {
        self.state.join(region.name())
    }

    /// A region's certificates and keys.
    pub fn pki(&self, region: Region) -> PathBuf {
        self.region(region).join("pki")
    }

    /// A region's S3 server.
    pub fn s3(&self, region: Region) -> PathBuf {
        self.region(region).join("s3")
    }

    /// A node's.
    pub fn node(&self, node: Node) -> PathBuf {
        self.region(node.region).join("nodes").join(node.to_string())
    }

    /// The record of a node's process.
    pub fn node_process(&self, node: Node) -> PathBuf {
        self.node(node).join("process")
    }

    /// A node's logs.
    pub fn node_logs(&self, node: Node) -> PathBuf {
        self.node(node).join("log")
    }
}
