//! The figures, as a table and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use crate::measure::Cost;

/// How a figure is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Operations in a second: more is better.
    PerSecond,
    /// MiB in a second: more is better.
    MebibytesPerSecond,
    /// Seconds: less is better.
    Seconds,
    /// MB (10^6 bytes): less is better.
    Megabytes,
}

impl Unit {
    fn text(self) -> &'static str {
        match self {
            Self::PerSecond => "/s",
            Self::MebibytesPerSecond => "MiB/s",
            Self::Seconds => "s",
            Self::Megabytes => "MB",
        }
    }

    /// `value` against `other`: above 1 is better than the other.
    fn against(self, value: f64, other: f64) -> f64 {
        match self {
            Self::PerSecond | Self::MebibytesPerSecond => value / other,
            Self::Seconds | Self::Megabytes => other / value,
        }
    }
}

/// One measurement of one system.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What was done.
    pub what: String,
    /// What was measured.
    pub value: f64,
    /// In which unit.
    pub unit: Unit,
    /// What each operation cost.
    pub cost: Cost,
}

impl Sample {
    /// A rate of operations.
    pub fn rate(what: impl Into<String>, count: usize, (took, cost): (Duration, Cost)) -> Self {
        Self {
            what: what.into(),
            value: per_second(count, took),
            unit: Unit::PerSecond,
            cost,
        }
    }

    /// A rate of MiB.
    pub fn throughput(what: impl Into<String>, mebibytes: usize, (took, cost): (Duration, Cost)) -> Self {
        Self {
            unit: Unit::MebibytesPerSecond,
            ..Self::rate(what, mebibytes, (took, cost))
        }
    }

    /// A time.
    pub fn seconds(what: impl Into<String>, (took, cost): (Duration, Cost)) -> Self {
        Self {
            what: what.into(),
            value: took.as_secs_f64(),
            unit: Unit::Seconds,
            cost,
        }
    }
}

/// What this machine allows, measured in this run.
#[derive(Clone, Debug)]
pub struct Limit {
    /// How much.
    pub value: f64,
    /// What it is.
    pub what: &'static str,
}

/// What is expected of a figure, on two cores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Expected {
    /// Nothing was said of it.
    Nothing,
    /// This.
    Value(f64),
    /// This share of the limit.
    OfLimit(f64),
}

/// A measurement beside what it is to be compared with.
#[derive(Clone, Debug)]
pub struct Figure {
    /// The row that it belongs to.
    pub row: &'static str,
    /// What was measured.
    pub sample: Sample,
    /// What is expected.
    pub expected: Expected,
    /// What this machine allows.
    pub limit: Option<Limit>,
    /// What the peer reached beside it.
    pub peer: Option<f64>,
}

impl Figure {
    fn expected_value(&self) -> Option<f64> {
        match self.expected {
            Expected::Nothing => None,
            Expected::Value(value) => Some(value),
            Expected::OfLimit(share) => self.limit.as_ref().map(|limit| limit.value * share),
        }
    }

    fn reached(&self) -> Option<f64> {
        let expected = self.expected_value()?;
        Some(self.sample.unit.against(self.sample.value, expected))
    }

    fn of_limit(&self) -> Option<f64> {
        let limit = self.limit.as_ref()?;
        Some(self.sample.unit.against(self.sample.value, limit.value))
    }

    fn of_peer(&self) -> Option<f64> {
        Some(self.sample.unit.against(self.sample.value, self.peer?))
    }

    /// The line of the table.
    fn line(&self) -> String {
        let Sample {
            what,
            value,
            unit,
            cost,
        } = &self.sample;
        let limit = self.limit.as_ref();
        let processor: Vec<String> = cost
            .processor_micros
            .iter()
            .map(|(part, micros)| format!("{} {micros:.0}", part.name()))
            .collect();
        let peer = match (self.peer, self.of_peer()) {
            (Some(peer), Some(ratio)) => format!("  peer {} (x{ratio:.1})", number(Some(peer))),
            _ => String::new(),
        };
        let line = format!(
            "{what:<58} {:>9} {:<5} {:>9} {:>5} {:>9} {:>5}  {:>5} {:>5}  {:<34} {}{peer}",
            number(Some(*value)),
            unit.text(),
            number(self.expected_value()),
            ratio(self.reached()),
            number(limit.map(|limit| limit.value)),
            ratio(self.of_limit()),
            ratio(cost.messages_total()),
            ratio(cost.records),
            processor.join(", "),
            limit.map_or("", |limit| limit.what),
        );
        line.trim_end().to_owned()
    }

    fn json(&self) -> serde_json::Value {
        let cost = &self.sample.cost;
        let processor: serde_json::Map<String, serde_json::Value> = cost
            .processor_micros
            .iter()
            .map(|(part, micros)| (part.name().to_owned(), json!(micros)))
            .collect();
        json!({
            "row": self.row,
            "what": self.sample.what,
            "value": self.sample.value,
            "unit": self.sample.unit.text(),
            "expected": self.expected_value(),
            "reached": self.reached(),
            "limit": self.limit.as_ref().map(|limit| json!({"value": limit.value, "what": limit.what})),
            "of_limit": self.of_limit(),
            "peer": self.peer,
            "of_peer": self.of_peer(),
            "processor_micros_per_operation": processor,
            "messages_per_operation": cost.messages,
            "records_per_operation": cost.records,
        })
    }
}

/// The head of the table.
fn head() -> String {
    format!(
        "{:<58} {:>9} {:<5} {:>9} {:>5} {:>9} {:>5}  {:>5} {:>5}  {:<34} {}",
        "work",
        "measured",
        "",
        "expected",
        "x",
        "limit",
        "x",
        "msg",
        "rec",
        "processor, microseconds each",
        "the limit is"
    )
}

/// Three digits that matter; nothing for nothing.
fn number(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value.abs() >= 100.0 => format!("{value:.0}"),
        Some(value) if value.abs() >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.3}"),
    }
}

fn ratio(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| format!("{value:.2}"))
}

/// All figures of a run.
pub struct Report {
    /// A tenth of the work.
    pub quick: bool,
    round_trip_ms: u64,
    load_before: String,
    figures: Vec<Figure>,
    failures: Vec<(&'static str, String)>,
}

impl Report {
    /// Nothing measured yet.
    pub fn new(quick: bool, round_trip_ms: u64) -> Self {
        Self {
            quick,
            round_trip_ms,
            load_before: load_average(),
            figures: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// How much of something to do.
    pub fn amount(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(10) } else { full }
    }

    /// The round trip to the far region, in seconds.
    #[allow(clippy::cast_precision_loss)] // Milliseconds.
    pub fn round_trip_seconds(&self) -> f64 {
        self.round_trip_ms as f64 / 1000.0
    }

    /// Keeps and says a figure.
    pub fn add(&mut self, figure: Figure) {
        if self.figures.is_empty() {
            println!("{}", head());
        }
        println!("{}", figure.line());
        self.figures.push(figure);
    }

    /// Keeps and says that a row could not be measured.
    pub fn failed(&mut self, row: &'static str, reason: String) {
        println!("{row}: FAILED ({reason})");
        self.failures.push((row, reason));
    }

    /// Rows that could not be measured.
    pub fn failures(&self) -> usize {
        self.failures.len()
    }

    /// A figure that was measured before.
    pub fn value(&self, what: &str) -> Option<f64> {
        self.figures
            .iter()
            .find(|figure| figure.sample.what == what)
            .map(|figure| figure.sample.value)
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut table = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(table, "{}", head());
        for figure in &self.figures {
            let _ = writeln!(table, "{}", figure.line());
        }
        for (row, reason) in &self.failures {
            let _ = writeln!(table, "{row}: FAILED ({reason})");
        }
        let _ = writeln!(
            table,
            "{} cores, load average before {} and after {}",
            cores(),
            self.load_before,
            load_average()
        );
        table
    }

    /// All figures.
    pub fn json(&self) -> String {
        let figures: Vec<_> = self.figures.iter().map(Figure::json).collect();
        let failures: Vec<_> = self
            .failures
            .iter()
            .map(|(row, reason)| json!({"row": row, "reason": reason}))
            .collect();
        let report = json!({
            "cores": cores(),
            "quick": self.quick,
            "round_trip_ms": self.round_trip_ms,
            "load_before": self.load_before,
            "load_after": load_average(),
            "figures": figures,
            "failures": failures,
        });
        format!("{report:#}\n")
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(0, std::num::NonZero::get)
}

/// Of the last one, five and fifteen minutes: whether the machine had other work.
fn load_average() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// A rate.
#[allow(clippy::cast_precision_loss)] // Counts are far below 2^52.
pub fn per_second(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(1e-9)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn figure(value: f64, unit: Unit, expected: Expected, limit: Option<f64>) -> Figure {
        Figure {
            row: "row",
            sample: Sample {
                what: "work".to_owned(),
                value,
                unit,
                cost: Cost::default(),
            },
            expected,
            limit: limit.map(|value| Limit {
                value,
                what: "a machine",
            }),
            peer: None,
        }
    }

    #[test]
    fn ratios_are_above_one_when_better_than_expected() {
        let reached = |value, unit, expected| {
            figure(value, unit, Expected::Value(expected), None)
                .reached()
                .unwrap()
        };
        assert!(reached(20.0, Unit::PerSecond, 10.0) > 1.0);
        assert!(reached(2.0, Unit::Seconds, 4.0) > 1.0);
        assert!(reached(5.0, Unit::MebibytesPerSecond, 10.0) < 1.0);
        assert!(reached(500.0, Unit::Megabytes, 400.0) < 1.0);
    }

    #[test]
    fn what_is_expected_can_be_a_share_of_the_limit() {
        let figure = figure(90.0, Unit::PerSecond, Expected::OfLimit(0.8), Some(100.0));
        assert_eq!(figure.expected_value(), Some(80.0));
        assert!((figure.of_limit().unwrap() - 0.9).abs() < 1e-9);
    }

    #[test]
    fn the_json_has_every_figure_and_every_failure() {
        let mut report = Report::new(true, 30);
        assert_eq!(report.amount(95), 10);
        report.add(figure(50.0, Unit::PerSecond, Expected::Value(25.0), None));
        report.failed("far", "no line".to_owned());
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["figures"][0]["value"], 50.0);
        assert_eq!(json["figures"][0]["reached"], 2.0);
        assert_eq!(json["failures"][0]["row"], "far");
        assert_eq!(report.value("work"), Some(50.0));
        assert!(report.table().contains("far: FAILED (no line)"));
    }
}
