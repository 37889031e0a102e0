//! Numbers for Prometheus.
//!
//! Only the latency of appends is observed as it happens. Everything else is taken from the service when somebody scrapes.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::engine::Report;
use crate::service::state::Numbers;
use crate::service::state::OPERATION_KINDS;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SideLabel {
    side: String,
}

/// All metrics of the service.
pub(super) struct Metrics {
    registry: Registry,
    /// How long appends take, `fdatasync` included.
    pub append_seconds: Histogram,
    counted: Mutex<Numbers>,
    operations: Family<Kind, Counter>,
    batches: Counter,
    batch_operations: Counter,
    journal_bytes: Counter,
    invalidations: Counter,
    recalls_waited: Counter,
    cleaned_rows: Counter,
    now: Family<Kind, Gauge>,
    position: Gauge,
    epoch: Gauge,
    archived: Gauge,
    checkpoint: Gauge,
    full: Gauge,
    lag_seconds: Family<SideLabel, Gauge>,
    lag_bytes: Family<SideLabel, Gauge>,
    lag_objects: Family<SideLabel, Gauge>,
    watermark: Family<SideLabel, Gauge>,
    quarantined: Family<SideLabel, Gauge>,
    pending_deletions: Family<SideLabel, Gauge>,
    copied_objects: Family<SideLabel, Gauge>,
    copied_bytes: Family<SideLabel, Gauge>,
    used_bytes: Gauge,
    used_inodes: Gauge,
    inline_bytes: Gauge,
    objects: Gauge,
    object_bytes: Gauge,
    sparse_objects: Gauge,
    sparse_bytes: Gauge,
    fragmented_files: Gauge,
    compaction_passes: Gauge,
    compacted_extents: Gauge,
    compacted_bytes: Gauge,
}

impl Metrics {
    /// Registers all of them.
    pub fn new() -> Self {
        // 50 µs, an SSD with power-loss protection, to 26 s, a disk that is dying.
        let append_seconds = Histogram::new(exponential_buckets(0.000_05, 2.0, 20));
        let mut metrics = Self {
            registry: Registry::with_prefix("twinshore_metadata"),
            append_seconds,
            counted: Mutex::new(Numbers::default()),
            operations: Family::default(),
            batches: Counter::default(),
            batch_operations: Counter::default(),
            journal_bytes: Counter::default(),
            invalidations: Counter::default(),
            recalls_waited: Counter::default(),
            cleaned_rows: Counter::default(),
            now: Family::default(),
            position: Gauge::default(),
            epoch: Gauge::default(),
            archived: Gauge::default(),
            checkpoint: Gauge::default(),
            full: Gauge::default(),
            lag_seconds: Family::default(),
            lag_bytes: Family::default(),
            lag_objects: Family::default(),
            watermark: Family::default(),
            quarantined: Family::default(),
            pending_deletions: Family::default(),
            copied_objects: Family::default(),
            copied_bytes: Family::default(),
            used_bytes: Gauge::default(),
            used_inodes: Gauge::default(),
            inline_bytes: Gauge::default(),
            objects: Gauge::default(),
            object_bytes: Gauge::default(),
            sparse_objects: Gauge::default(),
            sparse_bytes: Gauge::default(),
            fragmented_files: Gauge::default(),
            compaction_passes: Gauge::default(),
            compacted_extents: Gauge::default(),
            compacted_bytes: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    #[allow(clippy::too_many_lines)] // A list, one entry for each metric.
    fn register(&mut self) {
        let r = &mut self.registry;
        let append = self.append_seconds.clone();
        r.register_with_unit(
            "append",
            "Durations of durable appends to the journal",
            Unit::Seconds,
            append,
        );
        r.register("operations", "Executed operations", self.operations.clone());
        r.register("records", "Records appended to the journal", self.batches.clone());
        r.register(
            "record_operations",
            "Mutating operations in all records",
            self.batch_operations.clone(),
        );
        r.register(
            "journal_bytes",
            "Bytes appended to the journal",
            self.journal_bytes.clone(),
        );
        r.register(
            "invalidations",
            "Items that clients were told to drop",
            self.invalidations.clone(),
        );
        r.register(
            "recalls_waited",
            "Replies that waited for acknowledgements",
            self.recalls_waited.clone(),
        );
        r.register(
            "cleaned_rows",
            "Rows removed in the background",
            self.cleaned_rows.clone(),
        );
        r.register("current", "How many there are now, by kind", self.now.clone());
        r.register(
            "journal_position",
            "The last committed record",
            self.position.clone(),
        );
        r.register("epoch", "The epoch of this service", self.epoch.clone());
        r.register(
            "archived_position",
            "The last record that both buckets hold",
            self.archived.clone(),
        );
        r.register(
            "checkpoint_position",
            "The last checkpoint that both buckets hold",
            self.checkpoint.clone(),
        );
        r.register(
            "journal_full",
            "Whether the journal's disk is full",
            self.full.clone(),
        );
        r.register(
            "lag_seconds",
            "Age of the oldest owed copy",
            self.lag_seconds.clone(),
        );
        r.register("lag_bytes", "Bytes owed", self.lag_bytes.clone());
        r.register("lag_objects", "Objects owed", self.lag_objects.clone());
        r.register(
            "watermark_position",
            "The position up to which a side has every object",
            self.watermark.clone(),
        );
        r.register(
            "quarantined_objects",
            "Objects set aside because they cannot be copied",
            self.quarantined.clone(),
        );
        r.register(
            "pending_deletions",
            "Objects waiting to be deleted",
            self.pending_deletions.clone(),
        );
        r.register(
            "copied_objects",
            "Objects copied since the start",
            self.copied_objects.clone(),
        );
        r.register(
            "copied_bytes",
            "Bytes copied since the start",
            self.copied_bytes.clone(),
        );
        r.register("used_bytes", "Bytes allocated by files", self.used_bytes.clone());
        r.register("used_inodes", "Inodes in use", self.used_inodes.clone());
        r.register(
            "inline_bytes",
            "Bytes inline in the metadata",
            self.inline_bytes.clone(),
        );
        r.register("objects", "Objects that metadata names", self.objects.clone());
        r.register(
            "object_bytes",
            "Their bytes in one bucket",
            self.object_bytes.clone(),
        );
        self.register_compaction();
    }

    fn register_compaction(&mut self) {
        let r = &mut self.registry;
        r.register(
            "sparse_objects",
            "Objects of which files name at most half",
            self.sparse_objects.clone(),
        );
        r.register(
            "sparse_bytes",
            "Bytes of content in them that no file names",
            self.sparse_bytes.clone(),
        );
        r.register(
            "fragmented_files",
            "Files that lie in many small extents",
            self.fragmented_files.clone(),
        );
        r.register(
            "compaction_passes",
            "Passes of compaction since the start",
            self.compaction_passes.clone(),
        );
        r.register(
            "compacted_extents",
            "Extents written anew since the start",
            self.compacted_extents.clone(),
        );
        r.register(
            "compacted_bytes",
            "Bytes written anew since the start",
            self.compacted_bytes.clone(),
        );
    }

    /// All metrics as text, brought up to date from a report.
    pub fn render(&self, report: &Report) -> Result<String, fmt::Error> {
        self.count(&report.numbers);
        if let Ok(status) = &report.status {
            set(&self.position, status.position.0);
            set(&self.epoch, status.epoch.0);
            set(&self.archived, status.archived.0);
            set(&self.checkpoint, status.checkpoint.0);
            set(&self.used_bytes, status.usage.used_bytes);
            set(&self.used_inodes, status.usage.used_inodes);
            set(&self.inline_bytes, status.inline_bytes);
            set(&self.objects, status.objects);
            set(&self.object_bytes, status.object_bytes);
            let compaction = &status.compaction;
            set(&self.sparse_objects, compaction.sparse_objects);
            set(&self.sparse_bytes, compaction.sparse_bytes);
            set(&self.fragmented_files, compaction.fragmented_files);
            set(&self.compaction_passes, compaction.passes);
            set(&self.compacted_extents, compaction.rewritten_extents);
            set(&self.compacted_bytes, compaction.rewritten_bytes);
            for side in &status.replication {
                let label = SideLabel {
                    side: side.side.to_string(),
                };
                set(&self.lag_seconds.get_or_create(&label), side.lag_seconds);
                set(&self.lag_bytes.get_or_create(&label), side.pending_bytes);
                set(&self.lag_objects.get_or_create(&label), side.pending_objects);
                set(&self.watermark.get_or_create(&label), side.watermark.0);
                set(
                    &self.quarantined.get_or_create(&label),
                    side.quarantined.len() as u64,
                );
                set(
                    &self.pending_deletions.get_or_create(&label),
                    side.pending_deletions,
                );
                set(&self.copied_objects.get_or_create(&label), side.copied_objects);
                set(&self.copied_bytes.get_or_create(&label), side.copied_bytes);
            }
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// Counters only grow: adds what was counted since the last time.
    fn count(&self, numbers: &Numbers) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        for ((kind, now), before) in OPERATION_KINDS
            .iter()
            .zip(numbers.operations)
            .zip(counted.operations)
        {
            self.operations
                .get_or_create(&Kind { kind })
                .inc_by(now.saturating_sub(before));
        }
        for (counter, now, before) in [
            (&self.batches, numbers.batches, counted.batches),
            (
                &self.batch_operations,
                numbers.batch_operations,
                counted.batch_operations,
            ),
            (&self.journal_bytes, numbers.journal_bytes, counted.journal_bytes),
            (&self.invalidations, numbers.invalidations, counted.invalidations),
            (
                &self.recalls_waited,
                numbers.recalls_waited,
                counted.recalls_waited,
            ),
            (&self.cleaned_rows, numbers.cleaned_rows, counted.cleaned_rows),
        ] {
            counter.inc_by(now.saturating_sub(before));
        }
        for (kind, value) in [
            ("sessions", numbers.sessions),
            ("connected_sessions", numbers.connected),
            ("leases", numbers.leases),
            ("locks", numbers.locks),
            ("open_inodes", numbers.opens),
            ("waiting_replies", numbers.waiting),
            ("tasks", numbers.tasks),
        ] {
            set(&self.now.get_or_create(&Kind { kind }), value as u64);
        }
        set(&self.full, u64::from(numbers.full));
        *counted = *numbers;
    }
}

fn set(gauge: &Gauge, value: u64) {
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
}
