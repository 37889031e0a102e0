//! Volumes, with the keys of their buckets and the disks of their metadata services: what suites about volumes begin with.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::address::Region;
use crate::failure::{Failure, at_once};
use crate::kubectl::Kubectl;
use crate::patience::Look;
use crate::s3::Keys;
use crate::scenarios::chart::{install_everywhere, uninstall};
use crate::scenarios::{Cluster, Context, POD_PATIENCE, busybox_pod};

/// The definition of the resource; it stays when the chart goes.
const DEFINITION: &str = "customresourcedefinition/replicatedvolumes.twinshore.io";

/// The volume.
pub const VOLUME: &str = "documents";

/// Where the other region reaches the metadata service.
const NODE_PORT: u16 = 30_770;

/// Disks of the node, which stay until the lab goes down.
const DISKS: &str = "/var/lib/kubelet/disks";

/// The pod that makes them.
const DISK_MAKER: &str = "disk-maker";

/// The user of our image.
const USER: u32 = 65_532;

/// For a volume to be ready: pods start, a service recovers, status is fresh within 10 s.
pub const READY_PATIENCE: Duration = Duration::from_mins(3);

/// The chart in both clusters and a volume that is ready in both.
pub fn bring_up(context: &Context) -> Result<(), Failure> {
    install_everywhere(context)?;
    apply_volume(context)?;
    context.step("east: it is ready", || is_ready(&context.east.kubectl, "Primary"))?;
    context.step("west: it is ready when it has the join bundle", || join(context))
}

/// Hands the join bundle over; the volume is ready in the other cluster then.
pub fn join(context: &Context) -> Result<(), Failure> {
    hand_over(&context.east.kubectl, &context.west.kubectl)?;
    is_ready(&context.west.kubectl, "Target")
}

/// The volume in both clusters, with the keys of both buckets, and a disk for its metadata.
pub fn apply_volume(context: &Context) -> Result<(), Failure> {
    let disk = disk_name();
    context.step("a disk for the metadata service", || {
        make_disks(&context.east, &[&disk])
    })?;
    let volume = volume(context, &disk);
    context.step("the same volume in both clusters", || {
        for cluster in context.clusters() {
            for of in context.clusters() {
                cluster.kubectl.apply(&keys_of_owner(of)?.to_string())?;
            }
            cluster.kubectl.apply(&volume.to_string())?;
        }
        Ok(())
    })
}

/// The volume, for kubectl.
pub fn resource() -> String {
    resource_named(VOLUME)
}

/// Another one.
pub fn resource_named(name: &str) -> String {
    format!("replicatedvolume/{name}")
}

/// A new disk each time: a suite that was interrupted has left another volume's metadata.
pub fn disk_name() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("disk-{}", since.as_secs())
}

/// Directories of a cluster's first node as disks, for the user of our image.
pub fn make_disks(cluster: &Cluster, names: &[&str]) -> Result<(), Failure> {
    let kubectl = &cluster.kubectl;
    let node = cluster.region.first_node().to_string();
    let all = names
        .iter()
        .fold(String::new(), |all, name| all + " /disks/" + name);
    let script = format!("mkdir{all} && chown {USER}:{USER}{all} && touch /tmp/made && exec sleep 1000000");
    let mut maker = busybox_pod(DISK_MAKER, &script, Some(&node), "32Mi");
    maker["spec"]["volumes"] = json!([{
        "name": "disks",
        "hostPath": { "path": DISKS, "type": "DirectoryOrCreate" },
    }]);
    maker["spec"]["containers"][0]["volumeMounts"] = json!([{ "name": "disks", "mountPath": "/disks" }]);
    maker["spec"]["containers"][0]["readinessProbe"] = json!({
        "exec": { "command": ["test", "-e", "/tmp/made"] },
        "periodSeconds": 1,
    });
    kubectl.apply(&maker.to_string())?;
    kubectl.wait_for_pod(DISK_MAKER, POD_PATIENCE)?;
    kubectl.delete(&format!("pod/{DISK_MAKER}"))?;
    for name in names {
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
        kubectl.apply(&disk.to_string())?;
    }
    Ok(())
}

/// The Secret with the keys of a region's bucket.
pub fn secret_name(region: Region) -> String {
    format!("keys-{region}")
}

/// Keys as a Secret.
pub fn secret(name: &str, keys: &Keys) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": name },
        "stringData": { "accessKey": keys.access_key, "secretKey": keys.secret_key },
    })
}

/// The keys of the owner of a region's bucket.
pub fn keys_of_owner(of: &Cluster) -> Result<Value, Failure> {
    Ok(secret(&secret_name(of.region), &of.s3.keys()?))
}

/// A region as volumes name it, with everything below a prefix of its bucket.
fn region(cluster: &Cluster, prefix: &str) -> Value {
    json!({
        "region": cluster.region.name(),
        "bucket": {
            "name": cluster.s3.bucket(),
            "endpoint": cluster.region.s3_endpoint(),
            "prefix": prefix,
        },
        "credentialsSecretRef": { "name": secret_name(cluster.region) },
    })
}

/// The volume, in both regions.
pub fn volume(context: &Context, disk: &str) -> Value {
    let mut volume = single(&context.east, VOLUME, disk);
    volume["spec"]["target"] = region(&context.west, disk);
    volume
}

/// A volume of one region, which could have a second one later.
pub fn single(cluster: &Cluster, name: &str, disk: &str) -> Value {
    json!({
        "apiVersion": "twinshore.io/v1alpha1",
        "kind": "ReplicatedVolume",
        "metadata": { "name": name },
        "spec": {
            "primary": region(cluster, disk),
            "metadata": {
                "storage": { "className": disk, "size": "1Gi" },
                "exposure": {
                    "type": "NodePort",
                    "address": cluster.region.first_node().address().to_string(),
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
    let bundle = format!("{VOLUME}-join");
    from.wait_until(&format!("secret/{bundle}"), READY_PATIENCE, |_| Look::Done(()))?;
    let manifest = from
        .command([
            "get",
            "secret",
            &bundle,
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
            let all = ["delete", "replicatedvolumes", "--all", "--timeout=90s"];
            let patience = Duration::from_secs(100);
            cluster.kubectl.command(all).patience(patience).done()?;
        }
        uninstall(context, cluster)
    })
}
