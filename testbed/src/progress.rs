//! Lines that tell what happens, and the table at the end.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Says what is done, with the time since the beginning, and keeps what was measured.
pub struct Progress {
    started: Instant,
    rows: Vec<Row>,
}

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    /// What was done.
    pub what: String,
    /// What was found or measured.
    pub found: String,
    /// How long it took.
    pub took: Duration,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            rows: Vec::new(),
        }
    }
}

impl Progress {
    /// A line on standard output.
    pub fn say(&self, text: &str) {
        println!("[{:7.1} s] {text}", self.started.elapsed().as_secs_f64());
    }

    /// A row of the table, also said now.
    pub fn row(&mut self, what: &str, found: String, took: Duration) {
        self.say(&format!("  {what}: {found} ({:.1} s)", took.as_secs_f64()));
        self.rows.push(Row {
            what: what.to_owned(),
            found,
            took,
        });
    }

    /// Time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The table.
    pub fn table(&self) -> String {
        let width = |of: fn(&Row) -> &String, title: &str| {
            self.rows
                .iter()
                .map(|row| of(row).chars().count())
                .chain([title.len()])
                .max()
                .unwrap_or(0)
        };
        let (what, found) = (width(|row| &row.what, "step"), width(|row| &row.found, "result"));
        let mut table = String::new();
        // Writing to a string does not fail.
        let _ = writeln!(table, "{:<what$}  {:<found$}  {:>8}", "step", "result", "time");
        let _ = writeln!(
            table,
            "{}  {}  {}",
            "-".repeat(what),
            "-".repeat(found),
            "-".repeat(8)
        );
        for row in &self.rows {
            let seconds = row.took.as_secs_f64();
            let _ = writeln!(
                table,
                "{:<what$}  {:<found$}  {seconds:>6.1} s",
                row.what, row.found
            );
        }
        table
    }
}

/// A number of bytes for people.
#[allow(clippy::cast_precision_loss)] // One digit after the point is shown.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// How many in a second.
#[allow(clippy::cast_precision_loss)] // Shown without digits after the point.
pub fn rate(count: usize, took: Duration) -> String {
    format!("{:.0}/s", count as f64 / took.as_secs_f64().max(1e-6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_told_in_the_largest_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
    }

    #[test]
    fn the_columns_of_the_table_stand_under_each_other() {
        let mut progress = Progress::default();
        progress.row("copy", "1,000 files".to_owned(), Duration::from_millis(1500));
        progress.row("a longer step", "ok".to_owned(), Duration::from_secs(12));
        let table = progress.table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4);
        assert!(
            lines
                .iter()
                .all(|line| line.chars().count() == lines[0].chars().count()),
            "{table}"
        );
        assert!(lines[3].ends_with("12.0 s"));
    }
}
