//! The node's view of the file system.
//!
//! The order matters. Everything is first made private and arranged so: were a bind mount made while its origin is shared, both would be
//! peers, every mount of a container would appear twice, and detaching one copy would detach the machine's own. Only then everything is made shared
//! within the node, which mounts of the CSI driver need to reach pods.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind, mount_change,
    move_mount, open_tree,
};

use crate::address::Node;
use crate::failure::{Failure, make_directory, write_file};
use crate::place::Place;

/// What a node keeps on disk: the name in its directory, and where the node sees it.
pub const KEPT: [(&str, &str); 6] = [
    ("kubelet", "/var/lib/kubelet"),
    ("containerd", "/var/lib/containerd"),
    ("cni-configuration", "/etc/cni/net.d"),
    ("cni-state", "/var/lib/cni"),
    ("pod-logs", "/var/log/pods"),
    ("container-logs", "/var/log/containers"),
];

/// Settings of the whole machine that a kubelet makes when it starts, with the values that it wants: memory promised freely, a restart when the kernel fails.
const SETTINGS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// Makes the directories that nodes mount theirs over, where the machine has none, and writes down which.
pub fn make_points(record: &Path) -> Result<(), Failure> {
    let mut made = fs::read_to_string(record).unwrap_or_default();
    for (_, seen) in KEPT {
        let mut missing: Vec<&Path> = Path::new(seen)
            .ancestors()
            .take_while(|path| !path.exists())
            .collect();
        while let Some(path) = missing.pop() {
            // Written down first: what is not there when it is to be removed does no harm.
            let _ = writeln!(made, "{}", path.display());
            write_file(record, &made)?;
            fs::create_dir(path).map_err(Failure::file("make the directory", path))?;
        }
    }
    Ok(())
}

/// Removes those that were made, unless somebody else has put something there.
pub fn remove_points(record: &Path) -> Result<(), Failure> {
    let made = fs::read_to_string(record).unwrap_or_default();
    for path in made.lines().rev().map(Path::new) {
        match fs::remove_dir(path) {
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                return Err(Failure::file("remove", path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Arranges all of it, and names the host.
pub fn arrange(place: &Place, node: Node) -> Result<(), Failure> {
    rustix::system::sethostname(node.to_string().as_bytes())
        .map_err(Failure::system("set the host's name"))?;
    change_all(MountPropagationFlags::PRIVATE)?;
    system_directory()?;
    let directory = place.node(node);
    // Found before /run is hidden, where the link may lead.
    let resolver = target_of(Path::new("/etc/resolv.conf"));
    temporary_directory(Path::new("/run"))?;
    for below in ["/run/lock", "/run/containerd", "/run/netns"] {
        make_directory(Path::new(below))?;
    }
    for (name, seen) in KEPT {
        bind(&directory.join(name), Path::new(seen))?;
    }
    names(&directory, node, &resolver)?;
    settings(&directory)?;
    change_all(MountPropagationFlags::SHARED)
}

fn change_all(propagation: MountPropagationFlags) -> Result<(), Failure> {
    mount_change("/", propagation | MountPropagationFlags::REC)
        .map_err(Failure::system("change how mounts propagate"))
}

/// `/sys` of the node's network namespace, with the machine's control groups in it.
fn system_directory() -> Result<(), Failure> {
    let groups = open_tree(
        CWD,
        CONTROL_GROUPS,
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::AT_RECURSIVE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
    )
    .map_err(Failure::system("take the control groups along"))?;
    mount("sysfs", "/sys", "sysfs", MountFlags::empty(), None).map_err(Failure::system("mount /sys"))?;
    move_mount(
        &groups,
        "",
        CWD,
        CONTROL_GROUPS,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )
    .map_err(Failure::system("mount the control groups"))
}

fn temporary_directory(path: &Path) -> Result<(), Failure> {
    mount("tmpfs", path, "tmpfs", MountFlags::NOSUID, Some(c"mode=755"))
        .map_err(Failure::system(format!("mount {}", path.display())))
}

fn bind(from: &Path, to: &Path) -> Result<(), Failure> {
    mount_bind(from, to).map_err(Failure::system(format!(
        "mount {} at {}",
        from.display(),
        to.display()
    )))
}

/// The node sees them as its kubelet wants them, in files of its own; the machine's stay as they are.
fn settings(directory: &Path) -> Result<(), Failure> {
    for (name, value) in SETTINGS {
        let file = directory.join("settings").join(name);
        write_file(&file, format!("{value}\n"))?;
        bind(&file, &Path::new("/proc/sys").join(name))?;
    }
    Ok(())
}

/// No look-up of a name leaves the node: the API server would ask the machine's resolver for `east-1`, and wait.
fn names(directory: &Path, node: Node, resolver: &Path) -> Result<(), Failure> {
    let resolver_file = resolver_file(directory);
    write_file(
        &resolver_file,
        "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    )?;
    if !resolver.exists() {
        write_file(resolver, "")?;
    }
    bind(&resolver_file, resolver)?;
    let mut hosts = "127.0.0.1 localhost\n".to_owned();
    for other in node.region.nodes() {
        // Writing to a string does not fail.
        let _ = writeln!(hosts, "{} {other}", other.address());
    }
    let hosts_file = directory.join("hosts");
    write_file(&hosts_file, hosts)?;
    match File::open("/etc/hosts") {
        Ok(_) => bind(&hosts_file, Path::new("/etc/hosts")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::file("open", Path::new("/etc/hosts"))(error)),
    }
}

/// What the node and its pods without cluster DNS ask.
pub fn resolver_file(directory: &Path) -> PathBuf {
    directory.join("resolv.conf")
}

/// Where a link leads, also if nothing is there.
fn target_of(path: &Path) -> PathBuf {
    match fs::read_link(path) {
        Ok(target) => path.parent().unwrap_or(Path::new("/")).join(target),
        Err(_) => path.to_owned(),
    }
}
