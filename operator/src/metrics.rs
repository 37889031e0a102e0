//! Metrics of the operator.

use std::fmt;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use twinshore_crds::conditions::{self, ConditionType};

use crate::monitor::VolumeKey;

/// From a look that changes nothing to one that waits for the API server.
const BUCKETS_SECONDS: [f64; 8] = [0.005, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Kind {
    kind: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct VolumeCondition {
    volume_namespace: String,
    volume: String,
    condition: &'static str,
}

/// Metrics of the operator.
pub struct Metrics {
    registry: Registry,
    reconciliations: Family<Outcome, Counter>,
    seconds: Histogram,
    writes: Family<Kind, Counter>,
    conditions: Family<VolumeCondition, Gauge>,
    leader: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("twinshore_operator");
        let reconciliations = Family::<Outcome, Counter>::default();
        registry.register(
            "reconciliations",
            "Looks at a volume, by outcome: ok, or the reason of its failure",
            reconciliations.clone(),
        );
        let seconds = Histogram::new(BUCKETS_SECONDS);
        registry.register(
            "reconciliation_seconds",
            "How long a look at a volume took",
            seconds.clone(),
        );
        let writes = Family::<Kind, Counter>::default();
        registry.register(
            "writes",
            "Objects written to the API server, by kind; none at rest",
            writes.clone(),
        );
        let conditions = Family::<VolumeCondition, Gauge>::default();
        registry.register(
            "volume_condition",
            "1 while this condition of a volume is True, else 0",
            conditions.clone(),
        );
        let leader = Gauge::default();
        registry.register(
            "leader",
            "1 if this instance is the one that works",
            leader.clone(),
        );
        Self {
            registry,
            reconciliations,
            seconds,
            writes,
            conditions,
            leader,
        }
    }
}

impl Metrics {
    /// A look at a volume ended.
    pub fn reconciled(&self, outcome: &str, took: Duration) {
        let label = Outcome {
            outcome: outcome.to_owned(),
        };
        self.reconciliations.get_or_create(&label).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// An object was written.
    pub fn written(&self, kind: &str) {
        let label = Kind {
            kind: kind.to_owned(),
        };
        self.writes.get_or_create(&label).inc();
    }

    /// Objects of a kind written so far.
    pub fn writes(&self, kind: &str) -> u64 {
        let label = Kind {
            kind: kind.to_owned(),
        };
        self.writes.get_or_create(&label).get()
    }

    /// A volume is in this state.
    pub fn conditions(&self, volume: &VolumeKey, conditions: &[Condition]) {
        for kind in ConditionType::ALL {
            if let Some(condition) = conditions::get(conditions, *kind) {
                self.conditions
                    .get_or_create(&condition_label(volume, *kind))
                    .set(i64::from(condition.status == "True"));
            }
        }
    }

    /// A volume is gone.
    pub fn forget(&self, volume: &VolumeKey) {
        for kind in ConditionType::ALL {
            self.conditions.remove(&condition_label(volume, *kind));
        }
    }

    /// This instance works, or waits.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// As text for Prometheus.
    pub fn render(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn condition_label(volume: &VolumeKey, kind: ConditionType) -> VolumeCondition {
    VolumeCondition {
        volume_namespace: volume.0.clone(),
        volume: volume.1.clone(),
        condition: kind.as_str(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn condition(kind: &str, status: &str) -> Condition {
        Condition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
            message: String::new(),
            observed_generation: None,
            reason: "AsExpected".to_owned(),
        }
    }

    #[test]
    fn metrics_are_text_for_prometheus() {
        let metrics = Metrics::default();
        metrics.reconciled("ok", Duration::from_millis(3));
        metrics.written("Secret");
        metrics.leads(true);
        let volume = ("storage".to_owned(), "documents".to_owned());
        metrics.conditions(
            &volume,
            &[condition("Ready", "True"), condition("Degraded", "Unknown")],
        );
        let text = metrics.render().unwrap();
        for line in [
            r#"twinshore_operator_reconciliations_total{outcome="ok"} 1"#,
            r#"twinshore_operator_writes_total{kind="Secret"} 1"#,
            "twinshore_operator_leader 1",
            r#"twinshore_operator_volume_condition{volume_namespace="storage",volume="documents",condition="Ready"} 1"#,
            r#"twinshore_operator_volume_condition{volume_namespace="storage",volume="documents",condition="Degraded"} 0"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        metrics.forget(&volume);
        let text = metrics.render().unwrap();
        assert!(!text.contains("documents"), "{text}");
    }
}
