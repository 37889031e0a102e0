//! The console against a real API server: a person sees and changes what the token may, and nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;
mod operator;

use cluster::{ADMIN_TOKEN, Cluster, cluster};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::PostParams;
use operator::{Space, volume};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use twinshore_operator::console::{Console, History, router};

/// A console, and what it answers.
struct Page {
    address: std::net::SocketAddr,
    server: tokio::task::JoinHandle<()>,
}

impl Page {
    async fn start(cluster: &Cluster) -> Self {
        let mut config = kube::Config::new(cluster.url.parse().unwrap());
        config.accept_invalid_certs = true;
        // What the operator itself may do must help nobody.
        config.auth_info.token = Some(ADMIN_TOKEN.to_owned().into());
        let history = History::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let console = Console::new(config, "east".to_owned(), history);
        let server = tokio::spawn(async move { axum::serve(listener, router(console)).await.unwrap() });
        Self { address, server }
    }

    /// Status, headers and body.
    async fn ask(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: Option<&Value>,
    ) -> (u16, String, String) {
        let body = body.map(Value::to_string).unwrap_or_default();
        let authorization =
            token.map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: console\r\nconnection: close\r\n{authorization}content-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_lowercase(), body.to_owned())
    }

    async fn get(&self, path: &str, token: &str) -> (u16, String) {
        let (status, _, body) = self.ask("GET", path, Some(token), None).await;
        (status, body)
    }

    async fn json(&self, path: &str, token: &str) -> Value {
        let (status, body) = self.get(path, token).await;
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Somebody who may do these things with the volumes of a namespace.
async fn person(space: &Space, name: &str, verbs: &[&str]) -> String {
    let make = PostParams::default();
    let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
    let accounts = space.api::<ServiceAccount>();
    accounts.create(&make, &account).await.unwrap();
    let role: Role = serde_json::from_value(json!({
        "metadata": {"name": name},
        "rules": [{"apiGroups": ["twinshore.io"], "resources": ["replicatedvolumes"], "verbs": verbs}],
    }))
    .unwrap();
    space.api::<Role>().create(&make, &role).await.unwrap();
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": space.namespace}],
    }))
    .unwrap();
    space.api::<RoleBinding>().create(&make, &binding).await.unwrap();
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(3600),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let token = accounts
        .create_token_request(name, &make, &request)
        .await
        .unwrap();
    token.status.unwrap().token
}

fn single(name: &str) -> Value {
    let mut single = volume(name);
    single["spec"].as_object_mut().unwrap().remove("target");
    single["spec"]["metadata"] = json!({});
    single
}

#[tokio::test]
async fn nobody_is_told_anything_without_a_token_that_the_cluster_knows() {
    let page = Page::start(cluster().await).await;
    for path in [
        "/api/self",
        "/api/volumes",
        "/api/volumes/a/b",
        "/api/volumes/a/b/history",
    ] {
        let (status, ..) = page.ask("GET", path, None, None).await;
        assert_eq!(status, 401, "{path}");
        let (status, body) = page.get(path, "no-such-token").await;
        assert_eq!(status, 401, "{path}: {body}");
    }
    let (status, ..) = page.ask("GET", "/api/about", None, None).await;
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_person_sees_the_volumes_that_the_token_may_read() {
    let space = Space::new(cluster().await, "console-read").await;
    space.apply(&volume("documents")).await;
    let reader = person(&space, "reader", &["get"]).await;
    let stranger = person(&space, "stranger", &["delete"]).await;
    let page = Page::start(cluster().await).await;
    let path = format!("/api/volumes/{}/documents", space.namespace);
    assert_eq!(page.json(&path, &reader).await["metadata"]["name"], "documents");
    assert_eq!(
        page.json(&format!("{path}/history"), &reader).await["samples"],
        json!([])
    );
    for forbidden in [path.clone(), format!("{path}/history")] {
        let (status, body) = page.get(&forbidden, &stranger).await;
        assert_eq!(status, 403, "{body}");
        assert!(body.contains("cannot get resource"), "{body}");
    }
    let everything = page.json("/api/volumes", ADMIN_TOKEN).await;
    let names = everything["items"].as_array().unwrap().iter();
    assert!(
        names
            .clone()
            .any(|item| item["metadata"]["namespace"] == space.namespace),
        "{everything}"
    );
    let (status, body) = page.get("/api/volumes", &stranger).await;
    assert_eq!(status, 403, "{body}");
    assert!(
        page.json("/api/self", &reader).await["name"]
            .as_str()
            .unwrap()
            .ends_with(":reader")
    );
}

#[tokio::test]
async fn replication_is_enabled_with_the_rights_of_the_person() {
    let space = Space::new(cluster().await, "console-write").await;
    space.apply(&single("documents")).await;
    let reader = person(&space, "reader", &["get"]).await;
    let editor = person(&space, "editor", &["get", "patch"]).await;
    let page = Page::start(cluster().await).await;
    let path = format!("/api/volumes/{}/documents", space.namespace);
    let target = |region: &str| {
        json!({"spec": {
            "target": {"region": region, "bucket": {"name": "documents-west", "signingRegion": "eu-west-1"}, "credentialsSecretRef": {"name": "keys-west"}},
            "metadata": {"exposure": {"type": "LoadBalancer"}},
            "replication": {"enabled": true},
        }})
    };
    let (status, _, body) = page
        .ask("PATCH", &path, Some(&reader), Some(&target("west")))
        .await;
    assert_eq!(status, 403, "{body}");
    // What the resource's own rules refuse is told in their words.
    let (status, _, body) = page
        .ask("PATCH", &path, Some(&editor), Some(&target("east")))
        .await;
    assert_eq!(status, 422, "{body}");
    assert!(body.contains("primary and target are two regions"), "{body}");
    // What the console does not offer does not get as far.
    let other = json!({"spec": {"deletionPolicy": "Delete"}});
    let (status, _, body) = page.ask("PATCH", &path, Some(&editor), Some(&other)).await;
    assert_eq!(status, 422, "{body}");
    assert!(body.contains("unknown field"), "{body}");
    let (status, _, body) = page
        .ask("PATCH", &path, Some(&editor), Some(&target("west")))
        .await;
    assert_eq!(status, 200, "{body}");
    let changed = space.volume("documents").await;
    assert_eq!(changed.spec.target.unwrap().region, "west");
}

#[tokio::test]
async fn pages_are_served_with_a_policy_that_lets_them_load_nothing_from_elsewhere() {
    let page = Page::start(cluster().await).await;
    for (path, kind) in [
        ("/", "text/html"),
        ("/console.js", "text/javascript"),
        ("/style.css", "text/css"),
    ] {
        let (status, head, body) = page.ask("GET", path, None, None).await;
        assert_eq!(status, 200, "{path}");
        assert!(head.contains(&format!("content-type: {kind}")), "{head}");
        assert!(head.contains("default-src 'none'"), "{head}");
        assert!(head.contains("cache-control: no-store"), "{head}");
        assert!(!body.is_empty());
    }
    let (status, ..) = page.ask("GET", "/../Cargo.toml", None, None).await;
    assert_eq!(status, 404);
}
