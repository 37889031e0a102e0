//! The chart in both clusters and one volume in both: what suites about volumes begin with.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::address::Region;
use crate::command::Run;
use crate::failure::{Failure, at_once};
use crate::image::product;
use crate::kubectl::Kubectl;
use crate::scenarios::{Cluster, Context, POD_PATIENCE, busybox_pod};

/// Where the chart goes, and its release's name.
pub const SYSTEM_NAMESPACE: &str = "twinshore-system";
pub const RELEASE: &str = "twinshore";

/// The definition of the resource; it stays when the chart goes.
const DEFINITION: &str = "customresourcedefinition/replicatedvolumes.twinshore.io";

/// The volume.
pub const VOLUME: &str = "documents";

/// Where the other region reaches the metadata service.
const NODE_PORT: u16 = 30_770;

/// Disks of the node, which stay until the lab goes down.
const DISKS: &str = "/var/lib/kubelet/disks";

/// The user of our image.
const USER: u32 = 65_532;

/// For Helm to have everything accepted and running.
const INSTALL_PATIENCE: Duration = Duration::from_mins(4);

/// For a volume to be ready: pods start, a service recovers, status is fresh within 10 s.
pub const READY_PATIENCE: Duration = Duration::from_mins(3);

/// The chart in both clusters and a volume that is ready in both.
pub fn bring_up(context: &Context) -> Result<(), Failure> {
    install_everywhere(context)?;
    apply_volume(context)?;
    context.step("east: it is ready", || is_ready(&context.east.kubectl, "Primary"))?;
    context.step("west: it is ready when it has the join bundle", || {
        hand_over(&context.east.kubectl, &context.west.kubectl)?;
        is_ready(&context.west.kubectl, "Target")
    })
}

/// The chart in both clusters.
pub fn install_everywhere(context: &Context) -> Result<(), Failure> {
    context.step("the chart in both clusters", || {
        at_once("install the chart", &context.clusters(), |cluster| {
            install(context, cluster)
        })
    })
}

/// The volume in both clusters, with the keys of both buckets, and a disk for its metadata.
pub fn apply_volume(context: &Context) -> Result<(), Failure> {
    let disk = disk_name();
    context.step("a disk for the metadata service", || {
        make_disk(&context.east.kubectl, &disk)
    })?;
    let volume = volume(context, &disk);
    context.step("the same volume in both clusters", || {
        for cluster in context.clusters() {
            for of in context.clusters() {
                cluster.kubectl.apply(&keys(of)?.to_string())?;
            }
            cluster.kubectl.apply(&volume.to_string())?;
        }
        Ok(())
    })
}

/// The volume, for kubectl.
pub fn resource() -> String {
    format!("replicatedvolume/{VOLUME}")
}

fn helm(context: &Context, cluster: &Cluster, arguments: &[&str]) -> Result<Run, Failure> {
    let kubeconfig = context.place.kubeconfig();
    let program = context.place.programs()?.join("helm");
    let mut all = vec![
        "--kube-context",
        cluster.region.name(),
        "--namespace",
        SYSTEM_NAMESPACE,
    ];
    all.extend(arguments);
    Ok(Run::new(program, all)
        .environment("KUBECONFIG", kubeconfig)
        .patience(INSTALL_PATIENCE))
}

fn install(context: &Context, cluster: &Cluster) -> Result<(), Failure> {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/twinshore");
    let chart = chart.display().to_string();
    let region = format!("region={}", cluster.region);
    let (name, tag) = product::NAME.split_once(':').unwrap_or((product::NAME, ""));
    let (registry, repository) = name.split_once('/').unwrap_or(("", name));
    let image = format!("image.registry={registry},image.repository={repository},image.tag={tag}");
    let arguments = [
        "upgrade",
        "--install",
        RELEASE,
        &chart,
        "--create-namespace",
        "--wait",
        "--timeout",
        "3m",
        "--set",
        &region,
        "--set",
        &image,
        "--set",
        "operator.replicas=1,csi.controller.replicas=1",
    ];
    Ok(helm(context, cluster, &arguments)?.done()?)
}

/// A new disk each time: a suite that was interrupted has left another volume's metadata.
fn disk_name() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("disk-{}", since.as_secs())
}

/// A directory of a node as a disk, for the user of our image.
fn make_disk(kubectl: &Kubectl, name: &str) -> Result<(), Failure> {
    let node = Region::East.first_node().to_string();
    let script = format!("mkdir /disks/{name} && chown {USER}:{USER} /disks/{name} && exec sleep 1000000");
    let mut maker = busybox_pod("disk-maker", &script, Some(&node), "32Mi");
    maker["spec"]["volumes"] = json!([{
        "name": "disks",
        "hostPath": { "path": DISKS, "type": "DirectoryOrCreate" },
    }]);
    maker["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "disks", "mountPath": "/disks" }]);
    maker["spec"]["containers"][0]["readinessProbe"] = json!({
        "exec": { "command": ["test", "-d", format!("/disks/{name}")] },
        "periodSeconds": 1,
    });
    kubectl.apply(&maker.to_string())?;
    kubectl.wait_for_pod("disk-maker", POD_PATIENCE)?;
    let disk = json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": { "name": name },
        "spec": {
            "capacity": { "storage": "1Gi" },
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": name,
            "local": { "path": format!("{DISKS}/{name}") },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [{
                "key": "kubernetes.io/hostname", "operator": "In", "values": [node],
            }] }] } },
        },
    });
    kubectl.apply(&disk.to_string())
}

fn secret_name(region: Region) -> String {
    format!("keys-{region}")
}

/// The keys of a region's bucket.
fn keys(of: &Cluster) -> Result<Value, Failure> {
    let keys = of.s3.keys()?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": secret_name(of.region) },
        "stringData": { "accessKey": keys.access_key, "secretKey": keys.secret_key },
    }))
}

fn volume(context: &Context, disk: &str) -> Value {
    let region = |cluster: &Cluster| {
        json!({
            "region": cluster.region.name(),
            "bucket": {
                "name": cluster.s3.bucket(),
                "endpoint": cluster.region.s3_endpoint(),
                "prefix": disk,
            },
            "credentialsSecretRef": { "name": secret_name(cluster.region) },
        })
    };
    json!({
        "apiVersion": "twinshore.io/v1alpha1",
        "kind": "ReplicatedVolume",
        "metadata": { "name": VOLUME },
        "spec": {
            "primary": region(&context.east),
            "target": region(&context.west),
            "metadata": {
                "storage": { "className": disk, "size": "1Gi" },
                "exposure": {
                    "type": "NodePort",
                    "address": Region::East.first_node().address().to_string(),
                    "port": NODE_PORT,
                },
            },
        },
    })
}

/// Waits until the volume is ready.
pub fn is_ready(kubectl: &Kubectl, role: &str) -> Result<(), Failure> {
    kubectl.wait_for_condition(&resource(), "Ready", "True", READY_PATIENCE)?;
    let found = kubectl.get(&resource())?;
    if found["status"]["role"] == role {
        return Ok(());
    }
    Err(Failure::wrong(format!(
        "its role is {} instead of {role}",
        found["status"]["role"]
    )))
}

/// As a person would: the bundle holds a manifest for the other cluster.
pub fn hand_over(from: &Kubectl, to: &Kubectl) -> Result<(), Failure> {
    let manifest = from
        .command([
            "get",
            "secret",
            &format!("{VOLUME}-join"),
            "--output=go-template={{.data.manifest | base64decode}}",
        ])
        .output()?;
    to.apply(&manifest)
}

/// Removes the volume and the chart from both.
pub fn remove(context: &Context) -> Result<(), Failure> {
    at_once("remove the volume", &context.clusters(), |cluster| {
        // Without the definition there are no resources to ask for.
        if cluster.kubectl.find(DEFINITION)?.is_some() {
            cluster.kubectl.delete(&resource())?;
        }
        helm(
            context,
            cluster,
            &["uninstall", RELEASE, "--ignore-not-found", "--wait"],
        )?
        .done()?;
        cluster.kubectl.in_namespace(SYSTEM_NAMESPACE).delete_namespace()
    })
}
