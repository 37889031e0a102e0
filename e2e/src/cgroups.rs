//! Control groups of the nodes.
//!
//! Two kubelets on one machine must not share a tree of groups, or each removes the other's pods' groups as orphans. Each node has `/twinshore-NODE` below
//! every controller, which its kubelet is told to be the root. Made before the node starts, removed after it has ended:
//! a group can be removed only when its last process is gone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::address::Node;
use crate::failure::Failure;
use crate::patience::{Look, wait_for};

/// Where the controllers are mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// What kubelet and runc work with.
const NEEDED: [&str; 5] = ["cpu", "cpuset", "memory", "devices", "pids"];

/// Processes that were killed leave their groups when the kernel has torn them down.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whether this machine's control groups are of the kind that the lab knows.
pub fn check() -> Result<(), Failure> {
    let missing: Vec<&str> = NEEDED
        .into_iter()
        .filter(|controller| !Path::new(ROOT).join(controller).join("tasks").exists())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(Failure::Missing {
        what: format!(
            "control groups of version 1 are not mounted ({})",
            missing.join(", ")
        ),
        remedy: "boot with systemd.unified_cgroup_hierarchy=0: the lab has not been tried with version 2"
            .to_owned(),
    })
}

/// The group of a node, as its kubelet names it.
pub fn name(node: Node) -> String {
    format!("/{}", node.namespace())
}

/// Every hierarchy: a mount for each controller, and the unified one beside them, in which runc makes groups too.
fn hierarchies() -> Result<Vec<PathBuf>, Failure> {
    let root = Path::new(ROOT);
    let mut found = Vec::new();
    for entry in fs::read_dir(root).map_err(Failure::file("read", root))? {
        let path = entry.map_err(Failure::file("read", root))?.path();
        if path.join("cgroup.procs").exists() {
            found.push(path);
        }
    }
    Ok(found)
}

/// Makes the groups of a node.
pub fn ensure(node: Node) -> Result<(), Failure> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(node.namespace());
        match fs::create_dir(&group) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Failure::file("make the control group", &group)(error)),
        }
        // A new group has no processors and no memory until it is told which.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let from = hierarchy.join(file);
            if from.exists() {
                let value = fs::read(&from).map_err(Failure::file("read", &from))?;
                let to = group.join(file);
                fs::write(&to, value).map_err(Failure::file("write", &to))?;
            }
        }
    }
    Ok(())
}

/// Removes the groups of a node and all below.
pub fn remove(node: Node) -> Result<(), Failure> {
    for hierarchy in hierarchies()? {
        let group = hierarchy.join(node.namespace());
        wait_for(
            &format!("the control group {} to be empty", group.display()),
            PATIENCE,
            || match remove_tree(&group) {
                Ok(()) => Look::Done(()),
                Err(error) => Look::NotYet(error.to_string()),
            },
        )?;
    }
    Ok(())
}

/// Only directories can be removed in a control group's file system; the files in them go with them.
fn remove_tree(group: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(group) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
