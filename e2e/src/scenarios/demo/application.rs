//! What is deployed: a newspaper. Its press writes in one region, its web server shows in the other what was written, and its ledger is a database.

use serde_json::{Value, json};

use crate::image::application;

/// Writes articles.
pub const PRESS: &str = "press";
/// Shows them, and takes letters.
pub const SITE: &str = "site";
/// Keeps the books.
pub const LEDGER: &str = "ledger";

/// Where the web server listens.
pub const SITE_PORT: u16 = 8080;

/// The group of all of them: it owns what any of them makes.
const GROUP: u32 = 2000;

/// What is deleted, and what is waited for, when the demo ends.
pub const LABEL: &str = "twinshore-demo";

/// The press: whatever it is told to write, it is told by whoever enters it.
pub fn press() -> Value {
    deployment(PRESS, "exec sleep 1000000")
}

/// The web server.
pub fn site() -> Value {
    let script = format!("mkdir -p /data/articles && exec httpd -f -p {SITE_PORT} -h /data/articles");
    let mut site = deployment(SITE, &script);
    site["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = json!({
        "tcpSocket": { "port": SITE_PORT },
        "periodSeconds": 1,
    });
    site
}

/// The database's pod. A database is used by one pod at a time, so the old one ends before a new one begins.
pub fn ledger() -> Value {
    let mut ledger = deployment(LEDGER, "exec sleep 1000000");
    ledger["spec"]["strategy"] = json!({ "type": "Recreate" });
    ledger
}

fn deployment(name: &str, script: &str) -> Value {
    let labels = json!({ "app": name, LABEL: "yes" });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": name, "labels": labels },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "securityContext": { "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": GROUP },
                    "containers": [{
                        "name": "main",
                        "image": application::NAME,
                        "imagePullPolicy": "Never",
                        "command": ["sh", "-c", script],
                        "resources": { "limits": { "memory": "128Mi" } },
                        "volumeMounts": [{ "name": "data", "mountPath": "/data" }],
                    }],
                    "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "newspaper" } }],
                },
            },
        },
    })
}
