//! The figures, as a table and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

/// How a figure is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Operations in a second: more is better.
    PerSecond,
    /// MiB in a second: more is better.
    MebibytesPerSecond,
    /// Seconds: less is better.
    Seconds,
}

impl Unit {
    fn text(self) -> &'static str {
        match self {
            Self::PerSecond => "/s",
            Self::MebibytesPerSecond => "MiB/s",
            Self::Seconds => "s",
        }
    }
}

/// A measurement.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was done.
    pub what: String,
    /// What was measured.
    pub value: f64,
    /// In which unit.
    pub unit: Unit,
    /// What is expected on two cores.
    pub expected: Option<f64>,
    /// What this machine allows, measured in this run, and what that is.
    pub limit: Option<(f64, &'static str)>,
}

impl Figure {
    /// Measured against expected; above 1 is better than expected.
    fn reached(&self) -> Option<f64> {
        let expected = self.expected?;
        Some(if self.unit == Unit::Seconds {
            expected / self.value
        } else {
            self.value / expected
        })
    }

    fn of_limit(&self) -> Option<f64> {
        self.limit.map(|(limit, _)| self.value / limit)
    }
}

/// All figures of a run.
pub struct Report {
    /// A tenth of the work.
    pub quick: bool,
    round_trip_ms: u64,
    figures: Vec<Figure>,
}

impl Report {
    /// Nothing measured yet.
    pub fn new(quick: bool, round_trip_ms: u64) -> Self {
        Self {
            quick,
            round_trip_ms,
            figures: Vec::new(),
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
        println!(
            "{:<58} {:>12.1} {}",
            figure.what,
            figure.value,
            figure.unit.text()
        );
        self.figures.push(figure);
    }

    /// A rate with what is expected.
    pub fn rate(&mut self, what: &str, count: usize, took: Duration, expected: f64) {
        let value = per_second(count, took);
        let (what, unit) = (what.to_owned(), Unit::PerSecond);
        self.add(Figure {
            what,
            value,
            unit,
            expected: Some(expected),
            limit: None,
        });
    }

    /// A figure that was measured before.
    pub fn value(&self, what: &str) -> Option<f64> {
        self.figures
            .iter()
            .find(|figure| figure.what == what)
            .map(|figure| figure.value)
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut table = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(
            table,
            "{:<58} {:>12} {:<6} {:>10} {:>8}  of this machine's limit",
            "work", "measured", "", "expected", "ratio"
        );
        for figure in &self.figures {
            let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.2}"));
            let limit = match (figure.of_limit(), figure.limit) {
                (Some(ratio), Some((_, what))) => format!("{ratio:.2} of {what}"),
                _ => String::new(),
            };
            let _ = writeln!(
                table,
                "{:<58} {:>12.1} {:<6} {:>10} {:>8}  {limit}",
                figure.what,
                figure.value,
                figure.unit.text(),
                number(figure.expected),
                number(figure.reached()),
            );
        }
        table
    }

    /// All figures.
    pub fn json(&self) -> String {
        let figures: Vec<_> = self
            .figures
            .iter()
            .map(|figure| {
                json!({
                    "what": figure.what,
                    "value": figure.value,
                    "unit": figure.unit.text(),
                    "expected": figure.expected,
                    "reached": figure.reached(),
                    "limit": figure.limit.map(|(value, what)| json!({"value": value, "what": what})),
                    "of_limit": figure.of_limit(),
                })
            })
            .collect();
        let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let report = json!({
            "cores": cores, "quick": self.quick, "round_trip_ms": self.round_trip_ms, "figures": figures
        });
        format!("{report:#}\n")
    }
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

    #[test]
    fn ratios_are_above_one_when_better_than_expected() {
        let figure = |value, unit, expected| Figure {
            what: "work".to_owned(),
            value,
            unit,
            expected: Some(expected),
            limit: None,
        };
        assert!(figure(20.0, Unit::PerSecond, 10.0).reached().unwrap() > 1.0);
        assert!(figure(2.0, Unit::Seconds, 4.0).reached().unwrap() > 1.0);
        assert!(figure(5.0, Unit::MebibytesPerSecond, 10.0).reached().unwrap() < 1.0);
    }

    #[test]
    fn the_json_has_every_figure() {
        let mut report = Report::new(true, 30);
        assert_eq!(report.amount(95), 10);
        report.rate("create", 100, Duration::from_secs(2), 25.0);
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["figures"][0]["value"], 50.0);
        assert_eq!(json["figures"][0]["reached"], 2.0);
        assert_eq!(report.value("create"), Some(50.0));
    }
}
