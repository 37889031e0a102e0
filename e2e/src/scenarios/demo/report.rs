//! The table at the end.

use std::time::Duration;

/// What was shown.
pub struct Row {
    /// Of what.
    pub what: &'static str,
    /// From which region to which.
    pub way: &'static str,
    /// How much.
    pub amount: String,
    /// How long the writer took; zero if nothing was written.
    pub written: Duration,
    /// How long it took to be seen.
    pub read: Duration,
    /// What was compared.
    pub check: String,
}

/// All of it.
#[derive(Default)]
pub struct Report(Vec<Row>);

impl Report {
    /// One more.
    pub fn add(&mut self, row: Row) {
        self.0.push(row);
    }

    /// Prints the table, if there is anything in it.
    pub fn print(&self) {
        for line in self.lines() {
            println!("{line}");
        }
    }

    fn lines(&self) -> Vec<String> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let header = ["what", "way", "how much", "written", "seen", "checked"].map(str::to_owned);
        let rows: Vec<[String; 6]> = std::iter::once(header).chain(self.0.iter().map(cells)).collect();
        let width = |column: usize| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: [usize; 6] = std::array::from_fn(width);
        rows.iter()
            .map(|row| {
                let padded: Vec<String> = row
                    .iter()
                    .zip(widths)
                    .map(|(cell, width)| format!("{cell:<width$}"))
                    .collect();
                format!("  {}", padded.join("  ").trim_end())
            })
            .collect()
    }
}

fn cells(row: &Row) -> [String; 6] {
    let seconds = |duration: Duration| {
        if duration.is_zero() {
            "-".to_owned()
        } else {
            format!("{:.1} s", duration.as_secs_f64())
        }
    };
    [
        row.what.to_owned(),
        row.way.to_owned(),
        row.amount.clone(),
        seconds(row.written),
        seconds(row.read),
        row.check.clone(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut report = Report::default();
        assert!(report.lines().is_empty());
        report.add(Row {
            what: "letters",
            way: "west -> east",
            amount: "20".to_owned(),
            written: Duration::from_millis(1500),
            read: Duration::ZERO,
            check: "same".to_owned(),
        });
        assert_eq!(
            report.lines(),
            [
                "  what     way           how much  written  seen  checked",
                "  letters  west -> east  20        1.5 s    -     same",
            ]
        );
    }
}
