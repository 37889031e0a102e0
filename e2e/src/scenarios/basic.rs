//! What everything else builds on: pods on every node, names, services, node ports, logs, `exec`, limits of memory.

use crate::address::Node;
use crate::failure::{Failure, at_once, chain};
use crate::patience::{Look, wait_for};
use crate::scenarios::{Cluster, Context, POD_PATIENCE, busybox_pod, http};

/// Where each cluster's service can be reached on every node.
const NODE_PORT: u16 = 30_080;

/// Serves the pod's name.
const SERVE: &str = "mkdir /www; hostname > /www/index.html; echo started; exec httpd -f -p 8080 -h /www";

pub fn run(context: &Context) -> Result<(), Failure> {
    context.step("a pod on every node serves", || {
        at_once("start servers", &context.clusters(), |cluster| {
            start_servers(cluster)
        })
    })?;
    for cluster in context.clusters() {
        let region = cluster.region;
        context.step(&format!("{region}: logs and exec"), || logs_and_exec(cluster))?;
        context.step(
            &format!("{region}: a service by name, by address, from every node to every node"),
            || service_from_pods(cluster),
        )?;
        context.step(
            &format!("{region}: a service and a node port from outside"),
            || service_from_outside(cluster),
        )?;
        context.step(&format!("{region}: statistics of pods"), || statistics(cluster))?;
        context.step(
            &format!("{region}: a mount made in one pod is seen in another"),
            || mount_propagation(cluster),
        )?;
        context.step(&format!("{region}: a limit of memory"), || memory_limit(cluster))?;
    }
    Ok(())
}

fn server_name(node: Node) -> String {
    format!("server-{node}")
}

fn start_servers(cluster: &Cluster) -> Result<(), Failure> {
    let kubectl = &cluster.kubectl;
    for node in cluster.region.nodes() {
        let mut pod = busybox_pod(&server_name(node), SERVE, Some(&node.to_string()), "32Mi");
        pod["metadata"]["labels"] = serde_json::json!({ "app": "server" });
        pod["spec"]["containers"][0]["readinessProbe"] = serde_json::json!({
            "httpGet": { "path": "/", "port": 8080 },
            "periodSeconds": 1,
        });
        kubectl.apply(&pod.to_string())?;
    }
    let service = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": "server" },
        "spec": {
            "type": "NodePort",
            "selector": { "app": "server" },
            "ports": [{ "port": 80, "targetPort": 8080, "nodePort": NODE_PORT }],
        },
    });
    kubectl.apply(&service.to_string())?;
    for node in cluster.region.nodes() {
        let name = server_name(node);
        kubectl.wait_for_pod(&name, POD_PATIENCE)?;
        let pod = kubectl.get(&format!("pod/{name}"))?;
        if pod["spec"]["nodeName"] != node.to_string() {
            return Err(Failure::wrong(format!(
                "{name} runs on {}",
                pod["spec"]["nodeName"]
            )));
        }
    }
    Ok(())
}

fn expect(what: &str, found: &str, expected: &str) -> Result<(), Failure> {
    if found == expected {
        return Ok(());
    }
    Err(Failure::wrong(format!(
        "{what}: `{found}` instead of `{expected}`"
    )))
}

fn logs_and_exec(cluster: &Cluster) -> Result<(), Failure> {
    for node in cluster.region.nodes() {
        let name = server_name(node);
        expect("logs", &cluster.kubectl.logs(&name)?, "started")?;
        expect("exec", &cluster.kubectl.exec(&name, ["hostname"])?, &name)?;
    }
    Ok(())
}

/// Each pod asks until every server has answered: the service chooses at random.
fn service_from_pods(cluster: &Cluster) -> Result<(), Failure> {
    let kubectl = &cluster.kubectl;
    let service = kubectl.get("service/server")?;
    let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    let name = format!("server.{}.svc.cluster.local", kubectl.namespace());
    for node in cluster.region.nodes() {
        let from = server_name(node);
        for host in [address, "server", name.as_str()] {
            let mut missing: Vec<String> = cluster.region.nodes().map(server_name).collect();
            let what = format!("every server to answer {from} at {host}");
            wait_for(&what, POD_PATIENCE, || {
                let said = kubectl.shell(&from, &format!("timeout 5 wget -qO- http://{host}/"));
                match said {
                    Ok(said) => {
                        missing.retain(|server| *server != said);
                        Look::at(missing.is_empty(), format!("{said} answered"))
                    }
                    Err(error) => Look::NotYet(chain(&error)),
                }
            })?;
        }
    }
    Ok(())
}

fn service_from_outside(cluster: &Cluster) -> Result<(), Failure> {
    let service = cluster.kubectl.get("service/server")?;
    let address = service["spec"]["clusterIP"]
        .as_str()
        .and_then(|address| address.parse().ok())
        .ok_or_else(|| Failure::wrong("the service has no address"))?;
    let ways = cluster
        .region
        .nodes()
        .map(|node| (node.address(), NODE_PORT))
        .chain([(address, 80)]);
    for (address, port) in ways {
        wait_for(
            &format!("an answer from {address}:{port}"),
            POD_PATIENCE,
            || match http::request("GET", address, port, "/", "") {
                Ok(answer) => Look::at(answer.body.starts_with("server-"), format!("{answer:?}")),
                Err(error) => Look::NotYet(error.to_string()),
            },
        )?;
    }
    Ok(())
}

/// What `kubectl top` and the statistics of volumes come from.
fn statistics(cluster: &Cluster) -> Result<(), Failure> {
    for node in cluster.region.nodes() {
        let path = format!("get --raw /api/v1/nodes/{node}/proxy/stats/summary");
        let name = server_name(node);
        wait_for(&format!("statistics of {name}"), POD_PATIENCE, || {
            match cluster.kubectl.say(&path) {
                Ok(said) => Look::at(said.contains(&name), "not among the pods"),
                Err(error) => Look::NotYet(chain(&error)),
            }
        })?;
    }
    Ok(())
}

/// What CSI drivers do: a privileged pod mounts, other pods see it, and this machine does not.
fn mount_propagation(cluster: &Cluster) -> Result<(), Failure> {
    const MOUNT: &str =
        "mkdir -p /shared/mount && mount -t tmpfs none /shared/mount && echo seen > /shared/mount/file";
    let kubectl = &cluster.kubectl;
    let node = cluster.region.first_node().to_string();
    for (name, propagation, is_privileged) in [
        ("mounter", "Bidirectional", true),
        ("onlooker", "HostToContainer", false),
    ] {
        let mut pod = busybox_pod(name, "exec sleep 1000000", Some(&node), "16Mi");
        let container = &mut pod["spec"]["containers"][0];
        container["securityContext"] = serde_json::json!({ "privileged": is_privileged });
        container["volumeMounts"] = serde_json::json!([
            { "name": "shared", "mountPath": "/shared", "mountPropagation": propagation },
        ]);
        pod["spec"]["volumes"] = serde_json::json!([{
            "name": "shared",
            "hostPath": { "path": format!("/var/lib/kubelet/plugins/{}", kubectl.namespace()), "type": "DirectoryOrCreate" },
        }]);
        kubectl.apply(&pod.to_string())?;
        kubectl.wait_for_pod(name, POD_PATIENCE)?;
    }
    kubectl.shell("mounter", MOUNT)?;
    expect(
        "the file",
        &kubectl.exec("onlooker", ["cat", "/shared/mount/file"])?,
        "seen",
    )?;
    let machine = std::fs::read_to_string("/proc/self/mountinfo").map_err(Failure::io("read the mounts"))?;
    if machine.contains(kubectl.namespace()) {
        return Err(Failure::wrong("the mount is one of the machine too"));
    }
    kubectl.exec("mounter", ["umount", "/shared/mount"])?;
    expect(
        "the directory",
        &kubectl.exec("onlooker", ["ls", "/shared/mount"])?,
        "",
    )?;
    // What file systems in user space need.
    kubectl.exec("mounter", ["test", "-c", "/dev/fuse"])?;
    Ok(())
}

fn memory_limit(cluster: &Cluster) -> Result<(), Failure> {
    // It keeps the last line of what never ends.
    let pod = busybox_pod("hungry", "tail /dev/zero", None, "16Mi");
    cluster.kubectl.apply(&pod.to_string())?;
    cluster.kubectl.wait_until("pod/hungry", POD_PATIENCE, |pod| {
        let state = &pod["status"]["containerStatuses"][0]["state"];
        // The pod's limit is the container's: which of the two groups the kernel finds full first is chance, and only for the container's
        // does containerd tell the reason. Either way the process is killed.
        let ended = &state["terminated"];
        Look::at(
            ended["reason"] == "OOMKilled" || ended["exitCode"] == 137,
            state.to_string(),
        )
    })
}
