//! A node: what its first process does, and how it is handled from outside.
//!
//! A node is one `unshare` process with mount, host name, IPC and process namespaces of its own, in the node's network namespace. Its child is process 1 of
//! the node, [`run`]: it arranges the mounts, writes the configuration, starts the components and starts again what ended. There is no supervisor beside
//! it: when `unshare` is killed, the kernel kills process 1, and with it every process, container and mount of the node.
//!
//! States: *absent* (no record), *running* (the record names a living process), *dead* (it does not). A dead node is started again with what it has on disk, as
//! a machine that lost power. `up` makes it ready, `down` absent.
//!
//! The node sees its directories at the standard paths (`/var/lib/kubelet`, `/run/containerd`, ...), so manifests and charts need no changes.

mod components;
mod configuration;
mod mounts;
mod supervisor;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::address::Node;
use crate::command::Run;
use crate::failure::{Failure, make_directory};
use crate::network::namespace_file;
use crate::patience::{Look, wait_for};
use crate::place::Place;
use crate::process::{self, PROGRAM_PATH, Process};

pub use components::names as component_names;
pub use mounts::{make_points, remove_points};

/// Where containerd listens, in the node.
const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// For containerd to answer.
const CONTAINERD_PATIENCE: Duration = Duration::from_mins(1);

/// For one image: it is copied, some 80 MB.
const IMPORT_PATIENCE: Duration = Duration::from_mins(3);

/// Process 1 of a node. Returns only if something cannot be arranged.
pub fn run(place: &Place, node: Node) -> Result<(), Failure> {
    mounts::arrange(place, node)?;
    configuration::write(place, node)?;
    let components = components::of(place, node)?;
    supervisor::run(&components, &place.node_logs(node))
}

/// A node, from outside.
#[derive(Clone, Debug)]
pub struct NodeHandle {
    node: Node,
    place: Place,
}

impl NodeHandle {
    /// That node of a lab.
    pub fn of(place: &Place, node: Node) -> Self {
        Self {
            node,
            place: place.clone(),
        }
    }

    /// The `unshare` process, if it runs.
    pub fn process(&self) -> Result<Option<Process>, Failure> {
        Process::alive(&self.place.node_process(self.node))
    }

    /// Starts it. It must not be running; its network must be there.
    pub fn start(&self) -> Result<(), Failure> {
        let program = std::env::current_exe().map_err(Failure::io("find this program"))?;
        let network = namespace_file(&self.node.namespace());
        let mut command = Command::new("nsenter");
        // Not `ip netns exec`: that mounts /sys anew and hides the control groups below it.
        command
            .arg(format!("--net={}", network.display()))
            .args(["unshare", "--mount", "--uts", "--ipc", "--pid"])
            .args(["--fork", "--kill-child", "--mount-proc"])
            .arg(program)
            .args(["run-node", &self.node.to_string()]);
        let log = self.log("node");
        process::start(
            &self.node.to_string(),
            &command,
            &log,
            &self.place.node_process(self.node),
        )?;
        Ok(())
    }

    /// Kills it with everything in it.
    pub fn kill(&self) -> Result<(), Failure> {
        match self.process()? {
            Some(process) => process.kill(&self.node.to_string()),
            None => Ok(()),
        }
    }

    /// The log of one of its components, or of process 1 (`node`).
    pub fn log(&self, component: &str) -> PathBuf {
        self.place.node_logs(self.node).join(format!("{component}.log"))
    }

    /// A program to be run in the node: its files, processes and network.
    pub fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Run, Failure> {
        let first = self
            .process()?
            .and_then(Process::first_child)
            .ok_or_else(|| Failure::wrong(format!("{} does not run", self.node)))?;
        let enter = format!("--target={first} --mount --uts --ipc --net --pid --");
        let enter = enter.split(' ').map(str::to_owned);
        let arguments: Vec<String> = enter.chain(arguments.into_iter().map(str::to_owned)).collect();
        Ok(Run::new("nsenter", arguments).environment("PATH", PROGRAM_PATH))
    }

    /// Waits until containerd answers.
    pub fn wait_for_containerd(&self) -> Result<(), Failure> {
        wait_for(
            &format!("containerd of {}", self.node),
            CONTAINERD_PATIENCE,
            || match self.ctr(&["version"]) {
                Ok(_) => Look::Done(()),
                Err(error) => Look::NotYet(error.to_string()),
            },
        )?;
        Ok(())
    }

    /// Names of the images that it has.
    pub fn images(&self) -> Result<Vec<String>, Failure> {
        let list = self.ctr(&["--namespace", "k8s.io", "images", "list", "--quiet"])?;
        Ok(list.lines().map(str::to_owned).collect())
    }

    /// Copies an image into it. It is unpacked when the first container needs it.
    pub fn import(&self, archive: &Path) -> Result<(), Failure> {
        let path = archive.display().to_string();
        self.ctr(&["--namespace", "k8s.io", "images", "import", "--no-unpack", &path])?;
        Ok(())
    }

    /// Gives an image that it has another name.
    pub fn name_image(&self, image: &str, name: &str) -> Result<(), Failure> {
        self.ctr(&["--namespace", "k8s.io", "images", "tag", "--force", image, name])?;
        Ok(())
    }

    fn ctr(&self, arguments: &[&str]) -> Result<String, Failure> {
        let program = ["ctr", "--address", CONTAINERD_SOCKET];
        let run = self.run(program.iter().chain(arguments).copied())?;
        Ok(run.patience(IMPORT_PATIENCE).output()?)
    }
}

/// Makes the directories that a node keeps on disk.
pub fn make_directories(place: &Place, node: Node) -> Result<(), Failure> {
    for (name, _) in mounts::KEPT {
        make_directory(&place.node(node).join(name))?;
    }
    make_directory(&place.node(node).join("etcd"))?;
    make_directory(&place.node_logs(node))
}
