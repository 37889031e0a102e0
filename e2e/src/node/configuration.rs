//! Configuration files of a node's components.
//!
//! What differs from usual clusters, and why:
//!
//! * Nobody may lower `oom_score_adj`, as the lab may run without `CAP_SYS_RESOURCE`: 0 everywhere, or no container starts.
//! * No systemd, `AppArmor` or huge pages: control groups by hand (`cgroupfs`), below a root of the node's own.
//! * Images are imported and cannot be pulled again, so the kubelet must not collect them.
//! * kube-proxy must not change settings of connection tracking of the whole machine.

use crate::address::Node;
use crate::certificates::Pki;
use crate::cgroups;
use crate::failure::{Failure, write_file};
use crate::image::catalog::PAUSE;
use crate::node::CONTAINERD_SOCKET;
use crate::node::mounts::resolver_file;
use crate::place::Place;

/// Where Debian's `containernetworking-plugins` has its programs.
const NETWORK_PLUGINS: &str = "/usr/lib/cni";

/// Writes all of them. The node's directories must be mounted.
pub fn write(place: &Place, node: Node) -> Result<(), Failure> {
    let directory = place.node(node);
    let pki = Pki::of(place, node.region);
    write_file(
        &directory.join("cni-configuration/10-lab.conflist"),
        network(node),
    )?;
    write_file(&directory.join("containerd.toml"), containerd())?;
    write_file(
        &directory.join("kubelet.yaml"),
        kubelet(
            node,
            &pki.certificate("ca").display().to_string(),
            &resolver_file(&directory).display().to_string(),
        ),
    )?;
    write_file(
        &directory.join("kube-proxy.yaml"),
        kube_proxy(node, &pki.kubeconfig("kube-proxy").display().to_string()),
    )
}

/// Pods of a node are on one bridge. Their addresses are routed as they are, to the other nodes and to the other region.
fn network(node: Node) -> String {
    format!(
        r#"{{
  "cniVersion": "0.4.0",
  "name": "lab",
  "plugins": [
    {{
      "type": "bridge",
      "bridge": "pods",
      "isGateway": true,
      "isDefaultGateway": true,
      "ipMasq": false,
      "hairpinMode": true,
      "ipam": {{ "type": "host-local", "ranges": [[{{ "subnet": "{pods}" }}]] }}
    }},
    {{ "type": "portmap", "capabilities": {{ "portMappings": true }} }}
  ]
}}
"#,
        pods = node.pods()
    )
}

fn containerd() -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
oom_score = 0
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp"]

[grpc]
  address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_apparmor = true
  tolerate_missing_hugetlb_controller = true
  disable_hugetlb_controller = true

  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"

      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{NETWORK_PLUGINS}"
    conf_dir = "/etc/cni/net.d"
"#
    )
}

fn kubelet(node: Node, authority: &str, resolver: &str) -> String {
    let cgroup = cgroups::name(node);
    let dns = node.region.dns_service();
    format!(
        r"apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{ enabled: false }}
  webhook: {{ enabled: true }}
  x509: {{ clientCAFile: {authority} }}
authorization: {{ mode: Webhook }}
containerRuntimeEndpoint: unix://{CONTAINERD_SOCKET}
cgroupDriver: cgroupfs
cgroupRoot: {cgroup}
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
clusterDomain: cluster.local
clusterDNS: [{dns}]
resolvConf: {resolver}
evictionHard:
  memory.available: 200Mi
  nodefs.available: 1%
  nodefs.inodesFree: 1%
  imagefs.available: 1%
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
serializeImagePulls: false
kubeAPIQPS: 100
kubeAPIBurst: 200
syncFrequency: 10s
volumeStatsAggPeriod: 10s
"
    )
}

fn kube_proxy(node: Node, kubeconfig: &str) -> String {
    let pods = node.region.pods();
    format!(
        r"apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: {pods}
hostnameOverride: {node}
oomScoreAdj: 0
clientConnection: {{ kubeconfig: {kubeconfig} }}
conntrack:
  maxPerCore: 0
  min: 0
  tcpEstablishedTimeout: 0s
  tcpCloseWaitTimeout: 0s
iptables:
  minSyncPeriod: 100ms
  syncPeriod: 30s
"
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_network_of_pods_is_the_nodes_own() {
        let node = Node::named("east-2").unwrap();
        let value: serde_json::Value = serde_json::from_str(&network(node)).unwrap();
        assert_eq!(
            value["plugins"][0]["ipam"]["ranges"][0][0]["subnet"],
            "10.11.2.0/24"
        );
    }
}
