//! What a suite works with.

use std::time::Instant;

use crate::address::Region;
use crate::failure::{Failure, at_once};
use crate::image::catalog::BUSYBOX;
use crate::kubectl::Kubectl;
use crate::place::Place;
use crate::s3::S3Server;
use crate::wan::{ROUND_TRIP, Wan};

/// One region's.
pub struct Cluster {
    /// Which.
    pub region: Region,
    /// The cluster, in the suite's namespace.
    pub kubectl: Kubectl,
    /// The S3 server.
    pub s3: S3Server,
}

/// What a suite works with.
pub struct Context {
    /// Where the lab is.
    pub place: Place,
    /// The primary region.
    pub east: Cluster,
    /// The target region.
    pub west: Cluster,
    /// The line between them.
    pub wan: Wan,
}

impl Context {
    /// The lab as it is, with a namespace to work in.
    pub fn open(place: &Place, namespace: &str) -> Result<Self, Failure> {
        let cluster = |region| {
            Ok::<Cluster, Failure>(Cluster {
                region,
                kubectl: Kubectl::of(place, region)?.in_namespace(namespace),
                s3: S3Server::of(place, region),
            })
        };
        Ok(Self {
            place: place.clone(),
            east: cluster(Region::East)?,
            west: cluster(Region::West)?,
            wan: Wan::of(place),
        })
    }

    /// An empty namespace in each cluster, the line open, the servers running.
    pub fn set_up(place: &Place, namespace: &str) -> Result<Self, Failure> {
        let context = Self::open(place, namespace)?;
        context.put_right()?;
        at_once("make namespaces", &context.clusters(), |cluster| {
            // What a suite that was interrupted has left.
            cluster.kubectl.delete_namespace()?;
            cluster.kubectl.ensure_namespace()
        })?;
        Ok(context)
    }

    /// Both.
    pub fn clusters(&self) -> [&Cluster; 2] {
        [&self.east, &self.west]
    }

    /// That of a region.
    pub fn cluster(&self, region: Region) -> &Cluster {
        match region {
            Region::East => &self.east,
            Region::West => &self.west,
        }
    }

    fn put_right(&self) -> Result<(), Failure> {
        self.wan.start()?;
        self.wan.heal()?;
        self.wan.set_round_trip(ROUND_TRIP)?;
        for cluster in self.clusters() {
            cluster.s3.start(&self.place)?;
        }
        Ok(())
    }

    /// Puts the line and the servers right and removes the namespaces.
    pub fn clean_up(&self) -> Result<(), Failure> {
        self.put_right()?;
        at_once("remove namespaces", &self.clusters(), |cluster| {
            cluster.kubectl.delete_namespace()
        })
    }

    /// Prints what happened in the suite's namespaces, for whoever looks for the reason of a failure.
    pub fn tell_events(&self) {
        for cluster in self.clusters() {
            let events = cluster.kubectl.events().unwrap_or_else(|error| error.to_string());
            println!("events in {}:\n{events}", cluster.region);
        }
    }

    /// One step of a suite: says what it is, whether it came out right, and how long it took.
    pub fn step<T>(&self, what: &str, step: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
        let started = Instant::now();
        let result = step();
        let seconds = started.elapsed().as_secs_f64();
        let outcome = if result.is_ok() { "ok" } else { "FAILED" };
        println!("  {what}: {outcome} ({seconds:.1} s)");
        result
    }
}

/// A pod with the small programs, running a script. It is given a label `app` of the same name.
pub fn busybox_pod(name: &str, script: &str, node: Option<&str>, memory: &str) -> serde_json::Value {
    let mut pod = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "app": name } },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "restartPolicy": "Never",
            "containers": [{
                "name": "main",
                "image": BUSYBOX,
                "imagePullPolicy": "Never",
                "command": ["sh", "-c", script],
                "resources": { "limits": { "memory": memory } },
            }],
        },
    });
    if let Some(node) = node {
        pod["spec"]["nodeSelector"] = serde_json::json!({ "kubernetes.io/hostname": node });
    }
    pod
}
