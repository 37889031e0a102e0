//! Networks of the regions and links of the nodes.
//!
//! ```text
//!  this machine           network namespace twinshore-east                twinshore-east-1
//!  twinshore-east <----> host - bridge region - node1 <-----------------> eth0
//!                          router, S3 server  - node2 <-----------------> eth0 of twinshore-east-2
//!                                 wan  (while the line between the regions is up)
//! ```
//!
//! Invariants: the regions have no path to each other but through `wan`, whatever this machine forwards, as each region's router knows the other region's
//! addresses only there. No region has a default route: nothing leaves the machine. Deleting the namespaces deletes
//! all links, routes and rules, on this machine too, as one end of its links is in them.
//!
//! Every step states what shall be, so making a network that is half there completes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{UnmountFlags, unmount};

use crate::address::{Node, PREFIX, Region};
use crate::command::Run;
use crate::failure::Failure;
use crate::patience::{Look, wait_for};
use crate::process::Process;

/// Where names of network namespaces are.
const NAMES: &str = "/run/netns";

/// The bridge of a region.
const BRIDGE: &str = "region";

/// Names of links that the kernel has accepted but not yet removed stay for a moment.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(20);

/// The file that stands for a network namespace.
pub fn namespace_file(name: &str) -> PathBuf {
    Path::new(NAMES).join(name)
}

/// Names of all network namespaces of the lab.
pub fn namespaces() -> Vec<String> {
    let Ok(entries) = fs::read_dir(NAMES) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(PREFIX))
        .collect()
}

fn ip(arguments: &str) -> Result<(), Failure> {
    Ok(Run::words(&format!("ip {arguments}")).done()?)
}

fn ip_in(namespace: &str, arguments: &str) -> Result<(), Failure> {
    ip(&format!("-n {namespace} {arguments}"))
}

fn has_link(namespace: Option<&str>, link: &str) -> bool {
    let within = namespace.map_or(String::new(), |namespace| format!("-n {namespace} "));
    Run::words(&format!("ip {within}link show dev {link}")).succeeds()
}

/// Settings of the network of a namespace, as `name=value`.
fn settings(namespace: &str, values: &[&str]) -> Result<(), Failure> {
    let network = format!("--net={}", namespace_file(namespace).display());
    let arguments = [&[network.as_str(), "sysctl", "-qw"], values].concat();
    Ok(Run::new("nsenter", arguments).done()?)
}

fn add_namespace(name: &str) -> Result<(), Failure> {
    if !namespace_file(name).exists() {
        ip(&format!("netns add {name}"))?;
    }
    ip_in(name, "link set lo up")
}

/// Makes the network of a region and this machine's way into it.
pub fn ensure_region(region: Region) -> Result<(), Failure> {
    let namespace = region.network_namespace();
    add_namespace(&namespace)?;
    settings(
        &namespace,
        &[
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.all.send_redirects=0",
            "net.ipv4.conf.default.send_redirects=0",
        ],
    )?;
    if !has_link(Some(&namespace), BRIDGE) {
        ip_in(&namespace, &format!("link add {BRIDGE} type bridge"))?;
    }
    let bits = region.network().prefix_length();
    for address in [region.router(), region.s3()] {
        ip_in(&namespace, &format!("addr replace {address}/{bits} dev {BRIDGE}"))?;
    }
    ip_in(&namespace, &format!("link set {BRIDGE} up"))?;
    let link = region.host_link();
    if !has_link(None, &link) {
        ip(&format!(
            "link add {link} type veth peer name host netns {namespace}"
        ))?;
    }
    ip_in(&namespace, &format!("link set host master {BRIDGE} up"))?;
    ip(&format!("addr replace {}/{bits} dev {link}", region.host()))?;
    ip(&format!("link set {link} up"))?;
    for node in region.nodes() {
        let route = format!("route replace {} via {}", node.pods(), node.address());
        ip_in(&namespace, &route)?;
        ip(&route)?;
    }
    // Every node translates addresses of services; the first one does it for whoever is not a node.
    let services = format!(
        "route replace {} via {}",
        region.services(),
        region.first_node().address()
    );
    ip_in(&namespace, &services)?;
    ip(&services)
}

/// Links a node to the network of its region.
pub fn ensure_node(node: Node) -> Result<(), Failure> {
    let namespace = node.namespace();
    let region = node.region;
    let region_namespace = region.network_namespace();
    add_namespace(&namespace)?;
    if !has_link(Some(&namespace), "eth0") {
        ip_in(
            &region_namespace,
            &format!(
                "link add {} type veth peer name eth0 netns {namespace}",
                node.link()
            ),
        )?;
    }
    ip_in(
        &region_namespace,
        &format!("link set {} master {BRIDGE} up", node.link()),
    )?;
    let bits = region.network().prefix_length();
    ip_in(
        &namespace,
        &format!("addr replace {}/{bits} dev eth0", node.address()),
    )?;
    ip_in(&namespace, "link set eth0 up")?;
    // All of the lab, and nothing else.
    ip_in(
        &namespace,
        &format!("route replace 10.0.0.0/8 via {}", region.router()),
    )?;
    for other in region.nodes().filter(|other| *other != node) {
        ip_in(
            &namespace,
            &format!("route replace {} via {}", other.pods(), other.address()),
        )?;
    }
    // A pod reaches a service whose pod is behind the same bridge only if bridged packets pass the rules too.
    settings(
        &namespace,
        &[
            "net.ipv4.ip_forward=1",
            "net.bridge.bridge-nf-call-iptables=1",
            "net.ipv4.conf.all.route_localnet=1",
        ],
    )
}

/// Makes the line's end in a region usable; the link itself is there as long as the line's process.
pub fn connect_wan(region: Region, link: &str) -> Result<(), Failure> {
    let namespace = region.network_namespace();
    let other = region.other();
    ip_in(&namespace, &format!("link set {link} mtu 1500 up"))?;
    for there in [other.network(), other.pods()] {
        ip_in(&namespace, &format!("route replace {there} dev {link}"))?;
    }
    Ok(())
}

/// Processes in a network namespace.
pub fn processes_in(namespace: &str) -> Vec<Process> {
    Run::words(&format!("ip netns pids {namespace}"))
        .output()
        .unwrap_or_default()
        .lines()
        .filter_map(|line| Process::of(line.trim().parse().ok()?))
        .collect()
}

/// Removes a network namespace and all links of it, with whatever still runs in it.
pub fn remove_namespace(name: &str) -> Result<(), Failure> {
    for process in processes_in(name) {
        process.kill(&format!("process {} in {name}", process.pid()))?;
    }
    if namespace_file(name).exists() {
        ip(&format!("netns del {name}"))?;
    }
    Ok(())
}

/// Waits until this machine's links into the regions are gone, and removes what `ip netns` made for the first namespace.
pub fn finish_removal() -> Result<(), Failure> {
    for region in Region::BOTH {
        let link = region.host_link();
        wait_for(&format!("the link {link} to be gone"), REMOVAL_PATIENCE, || {
            Look::at(!has_link(None, &link), "it is there")
        })?;
    }
    let names = Path::new(NAMES);
    let is_empty = fs::read_dir(names).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty {
        // It is mounted on itself; not by us if this fails.
        let _ = unmount(names, UnmountFlags::DETACH);
        let _ = fs::remove_dir(names);
    }
    Ok(())
}
