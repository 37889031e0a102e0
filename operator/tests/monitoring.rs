//! Alerts and dashboard of the chart: they are rendered by Helm, name metrics that exist, and have runbooks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cluster;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use cluster::program;
use serde_json::{Value, json};
use twinshore_operator::metrics::Metrics;

/// Labels and functions of the query language that stand in our expressions. Everything else that is a word must be a metric.
const LANGUAGE: [&str; 14] = [
    "absent",
    "and",
    "by",
    "changes",
    "histogram_quantile",
    "rate",
    "sum",
    "le",
    "namespace",
    "condition",
    "volume",
    "kind",
    "twinshore_io_volume",
    "volume_namespace",
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The objects that the chart makes with everything of monitoring switched on.
fn rendered() -> Vec<Value> {
    let mut command = Command::new(program("helm"));
    command
        .args(["template", "twinshore"])
        .arg(repository().join("charts/twinshore"))
        .args(["--kube-version", "1.34.0", "--set", "region=east"]);
    for part in ["serviceMonitor", "podMonitor", "alerts", "dashboard"] {
        command.args(["--set", &format!("monitoring.{part}.enabled=true")]);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text.split("\n---\n")
        .map(|document| serde_saphyr::from_str::<Value>(document).unwrap())
        .filter(|value| !value.is_null())
        .collect()
}

fn of_kind(objects: &[Value], kind: &str) -> Value {
    let found: Vec<_> = objects.iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(found.len(), 1, "{kind}");
    found[0].clone()
}

fn alerts(rule: &Value) -> Vec<Value> {
    let groups = rule["spec"]["groups"].as_array().unwrap();
    groups
        .iter()
        .flat_map(|group| group["rules"].as_array().unwrap().clone())
        .collect()
}

/// Metrics of the operator and of the metadata service. Those of the service are read from its source, which the operator does not know.
fn metrics() -> String {
    let operator = Metrics::default();
    operator.reconciled("ok", Duration::ZERO);
    operator.leads(true);
    let ready = json!({"type": "Ready", "status": "True", "reason": "AsExpected", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let volume = ("storage".to_owned(), "documents".to_owned());
    operator.conditions(&volume, &[serde_json::from_value(ready).unwrap()]);
    let source = repository().join("metadata/src/service/shell/metrics.rs");
    let source = std::fs::read_to_string(source).unwrap();
    let names = source
        .split('"')
        .map(|name| format!(" twinshore_metadata_{name} "));
    operator.render().unwrap() + &names.collect::<String>()
}

/// The metrics that an expression names, without what the encoding of counters and histograms adds.
fn named(expression: &str) -> BTreeSet<String> {
    let mut without_texts = String::new();
    for (index, part) in expression.split('"').enumerate() {
        without_texts.push_str(if index % 2 == 0 { part } else { " " });
    }
    without_texts
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| word.starts_with(|c: char| c.is_ascii_alphabetic()))
        .filter(|word| !LANGUAGE.contains(word))
        .map(|word| {
            word.trim_end_matches("_total")
                .trim_end_matches("_seconds_bucket")
                .to_owned()
        })
        .collect()
}

fn assert_metrics_exist(expression: &str, metrics: &str) {
    for name in named(expression) {
        assert!(metrics.contains(&name), "{name} in {expression} is no metric");
    }
}

#[test]
fn alerts_name_metrics_that_exist_and_have_runbooks() {
    let rule = of_kind(&rendered(), "PrometheusRule");
    let (metrics, runbooks) = (
        metrics(),
        std::fs::read_to_string(repository().join("docs/alerts.md")).unwrap(),
    );
    let alerts = alerts(&rule);
    assert!(alerts.len() >= 9, "{alerts:?}");
    for alert in &alerts {
        let name = alert["alert"].as_str().unwrap();
        assert_metrics_exist(alert["expr"].as_str().unwrap(), &metrics);
        let heading = format!("## {name}\n");
        assert!(runbooks.contains(&heading), "docs/alerts.md has no {name}");
        let runbook = alert["annotations"]["runbook_url"].as_str().unwrap();
        let fragment = format!("docs/alerts.md#{}", name.to_lowercase());
        assert!(runbook.ends_with(&fragment), "{runbook}");
        assert!(!alert["annotations"]["summary"].as_str().unwrap().is_empty());
    }
}

#[test]
fn the_dashboard_shows_metrics_that_exist() {
    let objects = rendered();
    let maps: Vec<_> = objects
        .iter()
        .filter(|object| object["data"]["twinshore.json"].is_string())
        .collect();
    assert_eq!(maps.len(), 1);
    let dashboard: Value = serde_json::from_str(maps[0]["data"]["twinshore.json"].as_str().unwrap()).unwrap();
    let metrics = metrics();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            assert_metrics_exist(target["expr"].as_str().unwrap(), &metrics);
        }
    }
}

#[test]
fn the_metadata_services_are_scraped_where_the_operator_labels_them() {
    let monitor = of_kind(&rendered(), "PodMonitor");
    let labels = &monitor["spec"]["selector"]["matchLabels"];
    assert_eq!(
        labels["app.kubernetes.io/component"],
        twinshore_crds::names::METADATA_COMPONENT
    );
    assert_eq!(labels["app.kubernetes.io/name"], twinshore_crds::names::PRODUCT);
    assert_eq!(
        labels["app.kubernetes.io/managed-by"],
        twinshore_crds::names::MANAGER
    );
    assert_eq!(
        monitor["spec"]["podTargetLabels"][0],
        twinshore_crds::names::VOLUME_LABEL
    );
}
