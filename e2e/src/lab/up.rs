//! Bringing the lab up.
//!
//! Every step looks at what is there and does what is missing, so it goes on where an earlier try failed, restarts what has died, and does nothing to a lab that is
//! up. Nothing is said to be ready before it has answered in this run: a cluster's own record of a node may be of the last one.
//!
//! Order: networks before processes in them; certificates before nodes; images
//! before the pods that need them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::address::{Node, Region};
use crate::certificates::Pki;
use crate::failure::{Failure, at_once, chain, make_directory, write_file};
use crate::image::catalog;
use crate::kubectl::Kubectl;
use crate::lab::{Lock, product};
use crate::node::{NodeHandle, make_directories};
use crate::patience::{Look, wait_for};
use crate::place::Place;
use crate::s3::S3Server;
use crate::wan::Wan;
use crate::{cgroups, kubeconfig, network, node, wan};

/// For the API server: 10 s on a quiet machine.
const API_PATIENCE: Duration = Duration::from_mins(5);

/// For kubelets and the cluster's DNS, once the API server answers.
const READY_PATIENCE: Duration = Duration::from_mins(3);

const DNS: &str = include_str!("../../manifests/coredns.yaml");

/// How it shall be.
#[derive(Clone, Debug)]
pub struct Options {
    /// From shore to shore and back; if it is not given, as the line is, or as usual.
    pub round_trip: Option<Duration>,
    /// Where our own programs are, for the image of them. Without any the image is left out.
    pub product: PathBuf,
}

/// Says what is done, with the time since the beginning.
struct Progress(Instant);

impl Progress {
    fn say(&self, text: &str) {
        println!("[{:6.1} s] {text}", self.0.elapsed().as_secs_f64());
    }
}

/// Brings the lab up, or what is missing of it.
pub fn up(place: &Place, options: &Options) -> Result<(), Failure> {
    let progress = Progress(Instant::now());
    check(place)?;
    let lock = Lock::take(place)?;
    record_programs(place)?;
    progress.say("images");
    let archives = catalog::ensure(place)?;
    node::make_points(&place.mount_points())?;
    progress.say("certificates and networks");
    for region in Region::BOTH {
        Pki::of(place, region).ensure()?;
        network::ensure_region(region)?;
        for node in region.nodes() {
            network::ensure_node(node)?;
        }
    }
    write_kubeconfig(place)?;
    for node in Node::all() {
        start_node(place, node, &progress)?;
    }
    let wan = Wan::of(place);
    wan.start()?;
    if let Some(round_trip) = options.round_trip {
        wan.set_round_trip(round_trip)?;
    }
    progress.say(&format!(
        "the line between the regions: {} ms round trip",
        wan.status()?[0].round_trip.as_millis()
    ));
    for region in Region::BOTH {
        let server = S3Server::of(place, region);
        server.start(place)?;
        progress.say(&format!(
            "{region}: S3 at {}, bucket {}",
            region.s3_endpoint(),
            server.bucket()
        ));
    }
    let nodes: Vec<Node> = Node::all().collect();
    at_once("import images", &nodes, |node| {
        import(place, *node, &archives)?;
        progress.say(&format!("{node}: images are there"));
        Ok(())
    })?;
    let [east, west] = Region::BOTH.map(Waiting::Cluster);
    at_once(
        "wait for the clusters",
        &[east, west, Waiting::OurImage],
        |waiting| match waiting {
            Waiting::Cluster(region) => wait_for_cluster(place, *region, &progress),
            Waiting::OurImage => import_ours(place, &options.product, &progress),
        },
    )?;
    drop(lock);
    progress.say("the lab is up");
    println!(
        "\n  export KUBECONFIG={}\n  kubectl --context east get nodes        (or: cargo xtask lab shell)",
        place.kubeconfig().display()
    );
    Ok(())
}

/// What is waited for at once, when all images but ours are there.
enum Waiting {
    Cluster(Region),
    OurImage,
}

/// Whether this machine can have a lab at all: found out before anything is made.
fn check(place: &Place) -> Result<(), Failure> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::Missing {
            what: "nodes are namespaces of this machine, which only root can make".to_owned(),
            remedy: "run it as root".to_owned(),
        });
    }
    place.programs()?;
    cgroups::check()?;
    wan::check()
}

/// A lab that is up goes on with the programs that it was brought up with.
fn record_programs(place: &Place) -> Result<(), Failure> {
    let wanted = place.programs()?;
    let record = place.recorded_programs();
    match fs::read_link(&record) {
        Ok(recorded) if recorded == wanted => Ok(()),
        Ok(recorded) if super::is_up(place)? => Err(Failure::Wrong(format!(
            "the lab runs with the programs in {}, and now they would be those in {}: take it down first",
            recorded.display(),
            wanted.display()
        ))),
        found => {
            if found.is_ok() {
                fs::remove_file(&record).map_err(Failure::file("remove", &record))?;
            }
            make_directory(place.state())?;
            symlink(&wanted, &record).map_err(Failure::file("make the link", &record))
        }
    }
}

fn write_kubeconfig(place: &Place) -> Result<(), Failure> {
    let identities = Region::BOTH.map(|region| Pki::of(place, region).identity("admin"));
    write_file(&place.kubeconfig(), kubeconfig::text(&identities))
}

fn start_node(place: &Place, node: Node, progress: &Progress) -> Result<(), Failure> {
    let handle = NodeHandle::of(place, node);
    if handle.process()?.is_some() {
        progress.say(&format!("{node}: runs"));
        return Ok(());
    }
    make_directories(place, node)?;
    cgroups::ensure(node)?;
    handle.start()?;
    progress.say(&format!("{node}: started"));
    Ok(())
}

fn import(place: &Place, node: Node, archives: &[PathBuf]) -> Result<(), Failure> {
    let handle = NodeHandle::of(place, node);
    with_log(place, node, "node", handle.wait_for_containerd())?;
    // Which archives were imported is written down, as one may hold several names. The list lies with what containerd keeps.
    let record = place.node(node).join("imported");
    let mut imported = fs::read_to_string(&record).unwrap_or_default();
    for archive in archives {
        let line = format!("{}\n", archive.display());
        if !imported.contains(&line) {
            handle.import(archive)?;
            imported.push_str(&line);
            write_file(&record, &imported)?;
        }
    }
    Ok(())
}

fn wait_for_cluster(place: &Place, region: Region, progress: &Progress) -> Result<(), Failure> {
    let kubectl = Kubectl::of(place, region)?;
    let raw = |path: &str, expected: &str| match kubectl.say(&format!("get --raw {path}")) {
        Ok(said) => Look::at(said == expected, said),
        Err(error) => Look::NotYet(chain(&error)),
    };
    let api = wait_for(&format!("the API server of {region}"), API_PATIENCE, || {
        raw("/readyz", "ok")
    });
    with_log(
        place,
        region.first_node(),
        "kube-apiserver",
        api.map_err(Failure::from),
    )?;
    progress.say(&format!("{region}: the API server answers"));
    for node in region.nodes() {
        let path = format!("/api/v1/nodes/{node}/proxy/healthz");
        let kubelet = wait_for(&format!("the kubelet of {node}"), READY_PATIENCE, || {
            raw(&path, "ok")
        });
        with_log(place, node, "kubelet", kubelet.map_err(Failure::from))?;
        let ready = kubectl.wait_for_condition(&format!("node/{node}"), "Ready", "True", READY_PATIENCE);
        with_log(place, node, "kubelet", ready)?;
        progress.say(&format!("{node}: ready"));
    }
    // Pods are refused before it exists.
    for namespace in ["default", "kube-system"] {
        kubectl
            .in_namespace(namespace)
            .wait_until("serviceaccount/default", READY_PATIENCE, |_| Look::Done(()))?;
    }
    bring_up_dns(place, region)?;
    progress.say(&format!("{region}: DNS answers"));
    Ok(())
}

fn import_ours(place: &Place, directory: &Path, progress: &Progress) -> Result<(), Failure> {
    match product::load_programs(place, directory)? {
        Some(name) => progress.say(&format!("our image: {name}")),
        None => progress.say(&format!(
            "no programs of ours in {}: their image is left out",
            directory.display()
        )),
    }
    Ok(())
}

fn bring_up_dns(place: &Place, region: Region) -> Result<(), Failure> {
    let kubectl = Kubectl::of(place, region)?.in_namespace("kube-system");
    let manifests = DNS
        .replace("{image}", catalog::COREDNS)
        .replace("{address}", &region.dns_service().to_string());
    kubectl.apply(&manifests)?;
    kubectl.wait_for_rollout("deployment/coredns", READY_PATIENCE)
}

/// An error about a component, with what the component has said last.
fn with_log(place: &Place, node: Node, component: &str, result: Result<(), Failure>) -> Result<(), Failure> {
    result.map_err(|error| {
        let log = NodeHandle::of(place, node).log(component);
        Failure::Wrong(format!(
            "{error}; the end of {}:\n{}",
            log.display(),
            end_of(&log)
        ))
    })
}

/// The last lines of a log.
fn end_of(log: &Path) -> String {
    const LINES: usize = 15;
    let bytes = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}
