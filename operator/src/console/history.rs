//! How lag developed: the last hours of each volume, in memory.
//!
//! Every instance of the operator follows the volumes' status, the one that works and those that wait, so it does not matter which one a
//! person reaches. What it saw is lost with it.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use kube::core::DeserializeGuard;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde::Serialize;
use tokio::time::MissedTickBehavior;
use twinshore_crds::ReplicatedVolume;
use twinshore_crds::conditions::{self, ConditionType};

use crate::controller::Scope;
use crate::monitor::VolumeKey;

/// How often: the status is not fresher.
const INTERVAL: Duration = Duration::from_secs(10);
/// Three hours.
const SAMPLES_MAX: usize = 1080;
/// Volumes that are remembered; of more, the later ones are not. Each takes some 60 KiB.
const VOLUMES_MAX: usize = 1000;

/// What is known of the volumes of this cluster. Clones are the same.
#[derive(Clone, Default)]
pub struct History(Arc<Mutex<HashMap<VolumeKey, Record>>>);

/// The regions whose buckets are owed, and how many seconds each is behind; none while the metadata service does not tell.
type Lags = Vec<(String, Option<i64>)>;

#[derive(Default)]
struct Record {
    now: Lags,
    /// With the time of each, in seconds since 1970.
    samples: VecDeque<(u64, Lags)>,
}

/// The history of a volume, as the pages take it.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Lag {
    /// The regions.
    pub regions: Vec<String>,
    /// Oldest first.
    pub samples: Vec<Sample>,
}

/// One look.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// In seconds since 1970.
    pub time: u64,
    /// For each region.
    pub lag_seconds: Vec<Option<i64>>,
}

impl History {
    /// Follows the volumes of a scope until it is dropped.
    pub async fn follow(&self, client: Client, scope: Scope) {
        let volumes: Api<DeserializeGuard<ReplicatedVolume>> = scope.api(&client);
        let mut events = std::pin::pin!(watcher(volumes, watcher::Config::default()).default_backoff());
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) => self.take(event),
                    Some(Err(error)) => tracing::warn!(%error, "the console cannot follow the volumes at the moment"),
                    None => return,
                },
                _ = ticks.tick() => self.sample(now()),
            }
        }
    }

    fn take(&self, event: watcher::Event<DeserializeGuard<ReplicatedVolume>>) {
        match event {
            watcher::Event::Apply(volume) | watcher::Event::InitApply(volume) => {
                if let Ok(volume) = volume.0 {
                    self.learn(&volume);
                }
            }
            watcher::Event::Delete(volume) => {
                let key = (volume.namespace().unwrap_or_default(), volume.name_any());
                self.records().remove(&key);
            }
            watcher::Event::Init | watcher::Event::InitDone => {}
        }
    }

    fn learn(&self, volume: &ReplicatedVolume) {
        let status = volume.status.clone().unwrap_or_default();
        let known = conditions::get(&status.conditions, ConditionType::MetadataReady)
            .is_some_and(|condition| condition.status == "True");
        let key = (volume.namespace().unwrap_or_default(), volume.name_any());
        let mut records = self.records();
        if records.len() >= VOLUMES_MAX && !records.contains_key(&key) {
            return;
        }
        records.entry(key).or_default().now = status
            .replication
            .into_iter()
            .map(|owed| (owed.region, known.then_some(owed.lag_seconds)))
            .collect();
    }

    fn sample(&self, time: u64) {
        for record in self.records().values_mut() {
            if record.now.is_empty() {
                continue;
            }
            if record.samples.len() == SAMPLES_MAX {
                record.samples.pop_front();
            }
            record.samples.push_back((time, record.now.clone()));
        }
    }

    /// What was seen of a volume.
    pub fn of(&self, key: &VolumeKey) -> Lag {
        let records = self.records();
        let Some(record) = records.get(key) else {
            return Lag::default();
        };
        let regions: Vec<String> = record.now.iter().map(|(region, _)| region.clone()).collect();
        let of_regions = |seen: &[(String, Option<i64>)]| {
            regions
                .iter()
                .map(|region| {
                    seen.iter()
                        .find(|(name, _)| name == region)
                        .and_then(|(_, lag)| *lag)
                })
                .collect()
        };
        let samples = record.samples.iter().map(|(time, seen)| Sample {
            time: *time,
            lag_seconds: of_regions(seen),
        });
        let samples = samples.collect();
        Lag { regions, samples }
    }

    /// The namespaces that have volumes.
    pub fn namespaces(&self) -> Vec<String> {
        let records = self.records();
        let namespaces: BTreeSet<&String> = records.keys().map(|(namespace, _)| namespace).collect();
        namespaces.into_iter().cloned().collect()
    }

    fn records(&self) -> MutexGuard<'_, HashMap<VolumeKey, Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> u64 {
    // A clock before 1970 shows nothing useful either way.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn volume(lag: i64, metadata_ready: &str) -> ReplicatedVolume {
        serde_json::from_value(json!({
            "apiVersion": "twinshore.io/v1alpha1",
            "kind": "ReplicatedVolume",
            "metadata": {"name": "documents", "namespace": "storage"},
            "spec": {"primary": {"region": "east", "bucket": {"name": "e"}}},
            "status": {
                "replication": [
                    {"region": "west", "lagSeconds": lag, "pendingBytes": 0, "pendingObjects": 0, "setAsideObjects": 0},
                ],
                "conditions": [
                    {"type": "MetadataReady", "status": metadata_ready, "reason": "AsExpected", "message": "",
                     "lastTransitionTime": "2026-01-01T00:00:00Z"},
                ],
            },
        }))
        .unwrap()
    }

    fn key() -> VolumeKey {
        ("storage".to_owned(), "documents".to_owned())
    }

    #[test]
    fn lag_is_kept_over_time_and_unknown_while_nobody_tells() {
        let history = History::default();
        for (time, lag, ready) in [(10, 3, "True"), (20, 5, "False"), (30, 0, "True")] {
            history.learn(&volume(lag, ready));
            history.sample(time);
        }
        let seen = history.of(&key());
        assert_eq!(seen.regions, ["west"]);
        let lags: Vec<_> = seen
            .samples
            .iter()
            .map(|sample| (sample.time, sample.lag_seconds[0]))
            .collect();
        assert_eq!(lags, [(10, Some(3)), (20, None), (30, Some(0))]);
        assert_eq!(history.namespaces(), ["storage"]);
    }

    #[test]
    fn only_so_much_is_kept() {
        let history = History::default();
        history.learn(&volume(1, "True"));
        for time in 0..=SAMPLES_MAX as u64 {
            history.sample(time);
        }
        let seen = history.of(&key());
        assert_eq!((seen.samples.len(), seen.samples[0].time), (SAMPLES_MAX, 1));
    }

    #[test]
    fn a_volume_that_is_gone_is_forgotten() {
        let history = History::default();
        history.learn(&volume(1, "True"));
        history.sample(1);
        history.take(watcher::Event::Delete(DeserializeGuard(Ok(volume(1, "True")))));
        assert_eq!(history.of(&key()), Lag::default());
        assert!(history.namespaces().is_empty());
    }
}
