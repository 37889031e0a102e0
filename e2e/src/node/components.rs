//! What runs on a node, and with which arguments.

use std::path::{Path, PathBuf};

use crate::address::Node;
use crate::certificates::Pki;
use crate::failure::Failure;
use crate::place::Place;

/// A program that runs as long as its node does.
#[derive(Clone, Debug)]
pub struct Component {
    /// What it is called here, also the name of its log.
    pub name: &'static str,
    /// The file.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}

/// Names of the components of a node, in the order in which they start.
pub fn names(node: Node) -> &'static [&'static str] {
    const ALL: [&str; 7] = [
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
        "containerd",
        "kubelet",
        "kube-proxy",
    ];
    if node.has_control_plane() { &ALL } else { &ALL[4..] }
}

/// The components of a node.
pub fn of(place: &Place, node: Node) -> Result<Vec<Component>, Failure> {
    let programs = place.programs()?;
    let directory = place.node(node);
    let pki = Pki::of(place, node.region);
    let of_one = |name: &'static str| {
        let arguments = match name {
            "etcd" => etcd(node, &directory),
            "kube-apiserver" => api_server(node, &pki),
            "kube-controller-manager" => controller_manager(node, &pki),
            "kube-scheduler" => scheduler(&pki),
            "containerd" => vec![option("config", &directory.join("containerd.toml"))],
            "kubelet" => kubelet(node, &directory, &pki),
            _ => vec![option("config", &directory.join("kube-proxy.yaml"))],
        };
        let program = if name == "containerd" {
            // From Debian.
            PathBuf::from(name)
        } else {
            programs.join(name)
        };
        Component {
            name,
            program,
            arguments,
        }
    };
    Ok(names(node).iter().copied().map(of_one).collect())
}

fn option(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

fn options(values: &[(&str, String)]) -> Vec<String> {
    values
        .iter()
        .map(|(name, value)| format!("--{name}={value}"))
        .collect()
}

fn etcd(node: Node, directory: &Path) -> Vec<String> {
    let name = node.to_string();
    let clients = "http://127.0.0.1:2379".to_owned();
    let peers = "http://127.0.0.1:2380".to_owned();
    let mut arguments = options(&[
        ("initial-cluster", format!("{name}={peers}")),
        ("name", name),
        ("listen-client-urls", clients.clone()),
        ("advertise-client-urls", clients),
        ("listen-peer-urls", peers.clone()),
        ("initial-advertise-peer-urls", peers),
        ("auto-compaction-mode", "periodic".to_owned()),
        ("auto-compaction-retention", "5m".to_owned()),
        ("log-level", "warn".to_owned()),
        // A lab that lost power is made anew.
        ("unsafe-no-fsync", "true".to_owned()),
    ]);
    arguments.push(option("data-dir", &directory.join("etcd")));
    arguments
}

fn api_server(node: Node, pki: &Pki) -> Vec<String> {
    let region = node.region;
    let mut arguments = options(&[
        ("advertise-address", node.address().to_string()),
        ("bind-address", "0.0.0.0".to_owned()),
        ("secure-port", "6443".to_owned()),
        ("etcd-servers", "http://127.0.0.1:2379".to_owned()),
        ("service-cluster-ip-range", region.services().to_string()),
        // Logs and `exec` would otherwise look the node's name up.
        ("kubelet-preferred-address-types", "InternalIP".to_owned()),
        (
            "service-account-issuer",
            "https://kubernetes.default.svc.cluster.local".to_owned(),
        ),
        ("requestheader-allowed-names", "front-proxy-client".to_owned()),
        ("requestheader-extra-headers-prefix", "X-Remote-Extra-".to_owned()),
        ("requestheader-group-headers", "X-Remote-Group".to_owned()),
        ("requestheader-username-headers", "X-Remote-User".to_owned()),
        ("authorization-mode", "Node,RBAC".to_owned()),
        ("enable-admission-plugins", "NodeRestriction".to_owned()),
        // Node plugins of CSI drivers mount.
        ("allow-privileged", "true".to_owned()),
        // Webhooks and aggregated servers are reached without a proxy of the control plane's own.
        ("enable-aggregator-routing", "true".to_owned()),
        ("profiling", "false".to_owned()),
        ("v", "1".to_owned()),
    ]);
    for (name, path) in [
        ("client-ca-file", pki.certificate("ca")),
        ("tls-cert-file", pki.certificate("apiserver")),
        ("tls-private-key-file", pki.key("apiserver")),
        ("kubelet-client-certificate", pki.certificate("apiserver-kubelet")),
        ("kubelet-client-key", pki.key("apiserver-kubelet")),
        (
            "service-account-key-file",
            pki.directory().join("service-accounts.pub"),
        ),
        ("service-account-signing-key-file", pki.key("service-accounts")),
        ("requestheader-client-ca-file", pki.certificate("front-proxy-ca")),
        ("proxy-client-cert-file", pki.certificate("front-proxy-client")),
        ("proxy-client-key-file", pki.key("front-proxy-client")),
    ] {
        arguments.push(option(name, &path));
    }
    arguments
}

fn controller_manager(node: Node, pki: &Pki) -> Vec<String> {
    let mut arguments = as_client("kube-controller-manager", pki);
    arguments.extend(options(&[
        ("cluster-name", node.region.name().to_owned()),
        ("use-service-account-credentials", "true".to_owned()),
        ("allocate-node-cidrs", "false".to_owned()),
        // A node that is cut off is noticed while a test waits for it.
        ("node-monitor-grace-period", "20s".to_owned()),
        ("node-monitor-period", "2s".to_owned()),
    ]));
    for (name, path) in [
        ("service-account-private-key-file", pki.key("service-accounts")),
        ("root-ca-file", pki.certificate("ca")),
        ("cluster-signing-cert-file", pki.certificate("ca")),
        ("cluster-signing-key-file", pki.key("ca")),
    ] {
        arguments.push(option(name, &path));
    }
    arguments
}

fn scheduler(pki: &Pki) -> Vec<String> {
    as_client("kube-scheduler", pki)
}

/// A part of the control plane, of which there is one.
fn as_client(name: &str, pki: &Pki) -> Vec<String> {
    let kubeconfig = pki.kubeconfig(name);
    let mut arguments: Vec<String> = [
        "kubeconfig",
        "authentication-kubeconfig",
        "authorization-kubeconfig",
    ]
    .into_iter()
    .map(|name| option(name, &kubeconfig))
    .collect();
    arguments.extend(options(&[
        ("bind-address", "127.0.0.1".to_owned()),
        ("leader-elect", "false".to_owned()),
        ("v", "1".to_owned()),
    ]));
    arguments
}

fn kubelet(node: Node, directory: &Path, pki: &Pki) -> Vec<String> {
    let mut arguments = vec![
        option("config", &directory.join("kubelet.yaml")),
        option("kubeconfig", &pki.kubeconfig(&format!("kubelet-{node}"))),
    ];
    arguments.extend(options(&[
        ("hostname-override", node.to_string()),
        ("node-ip", node.address().to_string()),
        ("root-dir", "/var/lib/kubelet".to_owned()),
        (
            "node-labels",
            format!(
                "topology.kubernetes.io/region={},topology.kubernetes.io/zone={node}",
                node.region
            ),
        ),
        ("v", "2".to_owned()),
    ]));
    arguments
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn only_the_first_node_runs_the_control_plane() {
        let [first, second] = ["east-1", "east-2"].map(|name| Node::named(name).unwrap());
        assert!(names(first).contains(&"etcd"));
        assert_eq!(names(second), ["containerd", "kubelet", "kube-proxy"]);
    }
}
