//! A real API server with etcd and the controller manager, in a temporary directory, for the tests of one program.
//!
//! The programs are those of the lab: `TWINSHORE_LAB_PROGRAMS` names the directory that holds them, or they lie in the cache
//! (`TWINSHORE_CACHE`, else `~/.cache/twinshore`) as `tools/go/<name>-<key>/<name>`. A test that lacks them fails and says so.
//!
//! Each program is a child of a shell that waits for the end of its input. That is a pipe from this process, so however this process
//! ends, they end too.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(dead_code)] // Each test program uses a part of it.

use std::future::Future;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Config};
use serde_json::json;
use tokio::sync::OnceCell;

/// The token of somebody who may do everything.
pub const ADMIN_TOKEN: &str = "admin-token";
/// The token of the operators, who may do everything too: the audit log tells what they did.
pub const OPERATOR_TOKEN: &str = "operator-token";
/// How long the machine is given for anything; a busy one needs minutes.
const PATIENCE: Duration = Duration::from_mins(3);

/// A running cluster without nodes.
pub struct Cluster {
    /// Where the API server is.
    pub url: String,
    /// Everything it keeps.
    pub directory: PathBuf,
    processes: Vec<Child>,
}

static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();

/// The cluster of this test program, with the resource definition.
pub async fn cluster() -> &'static Cluster {
    let with_definition = || async {
        let cluster = start().await;
        install_definition(&cluster.admin()).await;
        cluster
    };
    CLUSTER.get_or_init(with_definition).await
}

/// The cluster of this test program, without it.
pub async fn bare_cluster() -> &'static Cluster {
    CLUSTER.get_or_init(start).await
}

/// A program of the cluster.
pub fn program(name: &str) -> PathBuf {
    if let Some(directory) = std::env::var_os("TWINSHORE_LAB_PROGRAMS") {
        let program = Path::new(&directory).join(name);
        if program.is_file() {
            return program;
        }
    }
    let cache = std::env::var_os("TWINSHORE_CACHE").map_or_else(
        || Path::new(&std::env::var_os("HOME").unwrap_or_default()).join(".cache/twinshore"),
        PathBuf::from,
    );
    let tools = cache.join("tools/go");
    let prefix = format!("{name}-");
    let mut found: Vec<PathBuf> = std::fs::read_dir(&tools)
        .into_iter()
        .flatten()
        .filter_map(Result::ok)
        .filter(|entry| {
            let directory = entry.file_name().to_string_lossy().into_owned();
            directory
                .strip_prefix(&prefix)
                .is_some_and(|key| key.bytes().all(|byte| byte.is_ascii_hexdigit()))
        })
        .map(|entry| entry.path().join(name))
        .filter(|program| program.is_file())
        .collect();
    found.sort_by_key(|program| program.metadata().and_then(|metadata| metadata.modified()).ok());
    found.pop().unwrap_or_else(|| {
        panic!(
            "{name} is missing: there is none in {}; `cargo xtask lab up` builds it once, or TWINSHORE_LAB_PROGRAMS names a \
             directory that holds it",
            tools.display()
        )
    })
}

#[allow(clippy::too_many_lines)] // One list of flags after the other.
async fn start() -> Cluster {
    // Read by nobody else at that time; a second installation of the same is no error.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let directory = tempfile::Builder::new()
        .prefix("twinshore-cluster-")
        .tempdir()
        .unwrap()
        .keep();
    let write = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let [etcd_port, peer_port, api_port] = free_ports();
    let url = format!("https://127.0.0.1:{api_port}");
    let key = rcgen::KeyPair::generate().unwrap();
    let signing_key = write("accounts.key", &key.serialize_pem());
    let public_key = write("accounts.pub", &key.public_key_pem());
    let tokens = write(
        "tokens",
        &format!(
            "{ADMIN_TOKEN},admin,admin,system:masters\n{OPERATOR_TOKEN},operator,operator,system:masters\n"
        ),
    );
    let policy = write(
        "audit.yaml",
        "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata}]\n",
    );
    let kubeconfig = write(
        "kubeconfig",
        &json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": url, "insecure-skip-tls-verify": true}}],
            "users": [{"name": "u", "user": {"token": ADMIN_TOKEN}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        })
        .to_string(),
    );
    let at = |name: &str| directory.join(name).display().to_string();
    let etcd = format!("http://127.0.0.1:{etcd_port}");
    let peers = format!("http://127.0.0.1:{peer_port}");
    let mut processes = vec![
        spawn(
            &directory,
            "etcd",
            &[
                format!("--data-dir={}", at("etcd")),
                format!("--listen-client-urls={etcd}"),
                format!("--advertise-client-urls={etcd}"),
                format!("--listen-peer-urls={peers}"),
                format!("--initial-advertise-peer-urls={peers}"),
                format!("--initial-cluster=default={peers}"),
                "--unsafe-no-fsync".to_owned(),
                "--log-level=error".to_owned(),
            ],
        ),
        spawn(
            &directory,
            "kube-apiserver",
            &[
                format!("--etcd-servers={etcd}"),
                format!("--secure-port={api_port}"),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--cert-dir={}", at("certificates")),
                format!("--token-auth-file={tokens}"),
                "--authorization-mode=RBAC".to_owned(),
                "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
                format!("--service-account-signing-key-file={signing_key}"),
                format!("--service-account-key-file={public_key}"),
                "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
                format!("--audit-policy-file={policy}"),
                format!("--audit-log-path={}", at("audit.log")),
                "--audit-log-mode=blocking-strict".to_owned(),
                "--profiling=false".to_owned(),
                // The node plugin is.
                "--allow-privileged=true".to_owned(),
            ],
        ),
    ];
    let client = client(&url, ADMIN_TOKEN);
    let wait = eventually("the API server to be ready", || async {
        let request = http_get("/readyz");
        client.request_text(request).await.is_ok().then_some(())
    });
    wait.await;
    processes.push(spawn(
        &directory,
        "kube-controller-manager",
        &[
            format!("--kubeconfig={kubeconfig}"),
            format!("--authentication-kubeconfig={kubeconfig}"),
            format!("--authorization-kubeconfig={kubeconfig}"),
            "--leader-elect=false".to_owned(),
            format!("--service-account-private-key-file={signing_key}"),
            "--secure-port=0".to_owned(),
        ],
    ));
    Cluster {
        url,
        directory,
        processes,
    }
}

fn http_get(path: &str) -> http::Request<Vec<u8>> {
    http::Request::get(path).body(Vec::new()).unwrap()
}

/// Ports that are free now. All are held until all are known, so that they differ.
fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn spawn(directory: &Path, name: &str, arguments: &[String]) -> Child {
    let log = std::fs::File::create(directory.join(format!("{name}.log"))).unwrap();
    // The last of them to end removes the directory: what others still write is left to it.
    let script =
        r#"directory=$1; shift; "$@" <&- & child=$!; read -r _; kill -9 $child; wait; rm -rf "$directory""#;
    Command::new("sh")
        .args(["-c", script, "sh"])
        .arg(directory)
        .arg(program(name))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

/// The resource definition as the chart ships it.
pub async fn install_definition(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let definition = twinshore_crds::yaml::definition().unwrap();
    definitions
        .patch(
            "replicatedvolumes.twinshore.io",
            &PatchParams::apply("test").force(),
            &Patch::Apply(&definition),
        )
        .await
        .unwrap();
    established(client).await;
}

/// Waits until the resource is served.
pub async fn established(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let established = eventually("the resource to be served", || async {
        let definition = definitions.get("replicatedvolumes.twinshore.io").await.ok()?;
        definition
            .status?
            .conditions?
            .iter()
            .any(|condition| condition.type_ == "Established" && condition.status == "True")
            .then_some(())
    });
    established.await;
}

fn client(url: &str, token: &str) -> Client {
    let mut config = Config::new(url.parse().unwrap());
    config.accept_invalid_certs = true;
    config.auth_info.token = Some(token.to_owned().into());
    Client::try_from(config).unwrap()
}

impl Cluster {
    /// A client with a token.
    pub fn client(&self, token: &str) -> Client {
        client(&self.url, token)
    }

    /// A client that may do everything.
    pub fn admin(&self) -> Client {
        self.client(ADMIN_TOKEN)
    }

    /// A file for kubectl and helm.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.join("kubeconfig")
    }

    /// A new namespace.
    pub async fn namespace(&self, name: &str) -> String {
        let namespaces: Api<Namespace> = Api::all(self.admin());
        let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        namespaces
            .create(&PostParams::default(), &namespace)
            .await
            .unwrap();
        name.to_owned()
    }

    /// Requests of operators in the audit log that could have changed something in a namespace. The controllers of Kubernetes go on
    /// telling in events that there is no disk for a claim.
    pub fn writes(&self, namespace: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.directory.join("audit.log")).unwrap();
        log.lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|entry| entry["user"]["username"] == "operator")
            .filter(|entry| entry["objectRef"]["namespace"] == namespace)
            .filter(|entry| !["get", "list", "watch"].contains(&entry["verb"].as_str().unwrap_or_default()))
            .map(|entry| {
                format!(
                    "{} {} {}{}",
                    entry["verb"].as_str().unwrap_or_default(),
                    entry["objectRef"]["resource"].as_str().unwrap_or_default(),
                    entry["objectRef"]["name"].as_str().unwrap_or_default(),
                    entry["objectRef"]["subresource"]
                        .as_str()
                        .map(|part| format!("/{part}"))
                        .unwrap_or_default()
                )
            })
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in &mut self.processes {
            if let Some(mut input) = process.stdin.take() {
                let _ = input.write_all(b"\n");
            }
        }
    }
}

/// Waits until something is there.
pub async fn eventually<T, F>(what: &str, mut attempt: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let begin = Instant::now();
    loop {
        if let Some(found) = attempt().await {
            return found;
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "waited {PATIENCE:?} in vain for {what}"
        );
        // The pause between two looks at a condition, not a guess of how long something takes.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
