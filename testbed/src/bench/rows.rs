//! The rows of the table: their names, what they do, and what is expected on two cores.

use crate::report::Expected;
use crate::works::Work;

/// A row, or some rows that are measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Row {
    /// The disk and the S3 server.
    Limits,
    /// A work in the near region.
    Near(Work),
    /// Copies between the buckets.
    Copy,
    /// More workers.
    Workers,
    /// Works in the far region.
    Far,
    /// A million files.
    Million,
}

impl Row {
    /// All, in the order in which they are measured.
    pub const ALL: [Self; 14] = [
        Self::Limits,
        Self::Near(Work::Create),
        Self::Near(Work::LookUp),
        Self::Near(Work::Rename),
        Self::Near(Work::List),
        Self::Near(Work::Tree),
        Self::Near(Work::Sqlite),
        Self::Near(Work::Git),
        Self::Near(Work::Sequential),
        Self::Near(Work::Random),
        Self::Copy,
        Self::Workers,
        Self::Far,
        Self::Million,
    ];

    /// What `--only` and `--skip` take.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Limits => "limits",
            Self::Near(work) => match work {
                Work::Create => "create",
                Work::LookUp => "lookup",
                Work::Rename => "rename",
                Work::List => "list",
                Work::Tree => "tree",
                Work::Sqlite => "sqlite",
                Work::Git => "git",
                Work::Sequential => "sequential",
                Work::Random => "random",
            },
            Self::Copy => "copy",
            Self::Workers => "workers",
            Self::Far => "far",
            Self::Million => "million",
        }
    }

    /// What it does, for `--list`.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Limits => "fdatasync of the disk; PUT and GET of the S3 server",
            Self::Near(work) => match work {
                Work::Create => "create + close, empty and with 4 KiB, 1 and 16 workers",
                Work::LookUp => "lookup that the kernel does not know, 1 and 16 workers",
                Work::Rename => "rename and unlink in one directory, 16 workers",
                Work::List => "ls -l of 10,000 entries, cold",
                Work::Tree => "untar of 4,681 source files, grep -r cold and warm, rm -rf",
                Work::Sqlite => "1,000 durable transactions, one after the other",
                Work::Git => "git clone of 2,300 files",
                Work::Sequential => "1 GiB: write + fsync, cold read, warm read",
                Work::Random => "4 KiB at random: warm reads by 16 jobs, write + fsync by 4",
            },
            Self::Copy => "10,000 objects of 4 KiB and 200 of 4 MiB from bucket to bucket, by one worker",
            Self::Workers => "the same with 1, 2 and 4 workers to a server that is 100 ms away",
            Self::Far => "the far region: create, ls -l of 10,000 cold, untar",
            Self::Million => "a million files: memory of the service, and its restart",
        }
    }

    /// The row of a name.
    pub fn parse(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|row| row.name() == name)
            .ok_or_else(|| format!("there is no row {name}; --list shows them"))
    }
}

/// What issue 3 expects of each figure, by its name.
const EXPECTED: [(&str, Expected); 39] = [
    ("create + close, 1 worker", Expected::Value(2500.0)),
    ("create + close, 16 workers", Expected::Value(8000.0)),
    ("create + write 4 KiB + close, 1 worker", Expected::Value(1200.0)),
    (
        "create + write 4 KiB + close, 16 workers",
        Expected::Value(5000.0),
    ),
    (
        "lookup not cached by the kernel, 1 worker",
        Expected::Value(8000.0),
    ),
    (
        "lookup not cached by the kernel, 16 workers",
        Expected::Value(30_000.0),
    ),
    ("rename, 16 workers", Expected::Value(6000.0)),
    ("unlink, 16 workers", Expected::Value(6000.0)),
    ("ls -l of 10,000, cold", Expected::Value(0.1)),
    ("untar of source files", Expected::Value(1000.0)),
    ("rm -rf of the tree", Expected::Value(2000.0)),
    ("grep -r, cold", Expected::Value(2000.0)),
    ("grep -r, warm", Expected::Value(8000.0)),
    ("sqlite, one durable transaction each", Expected::Value(300.0)),
    ("git clone of 2,300 files", Expected::Value(4.0)),
    ("sequential write + fsync", Expected::OfLimit(0.8)),
    ("sequential read, cold", Expected::OfLimit(0.8)),
    // 2 GB/s.
    ("sequential read, warm", Expected::Value(1907.0)),
    ("random 4 KiB reads, warm, 16 jobs", Expected::Value(60_000.0)),
    ("random 4 KiB write + fsync, 4 jobs", Expected::Value(2000.0)),
    ("far: create + close, 1 worker", Expected::OfLimit(0.9)),
    ("far: create + close, 16 workers", Expected::OfLimit(0.9)),
    ("far: ls -l of 10,000, cold", Expected::Value(0.2)),
    ("far: untar of source files", Expected::OfLimit(0.9)),
    ("service memory, having made them", Expected::Value(400.0)),
    ("service memory, started with them", Expected::Value(400.0)),
    ("restart after a stop", Expected::Value(3.0)),
    ("restart after kill -9", Expected::Value(3.0)),
    ("copy of 10,000 objects of 4 KiB", Expected::OfLimit(0.8)),
    ("copy of 200 objects of 4 MiB", Expected::OfLimit(0.8)),
    (
        "copy of 4 KiB objects, 100 ms away, 1 worker",
        Expected::OfLimit(0.8),
    ),
    (
        "copy of 4 KiB objects, 100 ms away, 2 workers",
        Expected::OfLimit(0.8),
    ),
    (
        "copy of 4 KiB objects, 100 ms away, 4 workers",
        Expected::OfLimit(0.8),
    ),
    (
        "create + close, 16 workers, a directory each",
        Expected::Value(8000.0),
    ),
    (
        "create + write 4 KiB + close, 16 workers, a directory each",
        Expected::Value(5000.0),
    ),
    ("rename, 16 workers, a directory each", Expected::Value(6000.0)),
    ("unlink, 16 workers, a directory each", Expected::Value(6000.0)),
    (
        "far: create + close, 16 workers, a directory each",
        Expected::OfLimit(0.9),
    ),
    ("far: names and attributes of 10,000, cold", Expected::Value(0.2)),
];

/// What is expected of a figure.
pub fn expected(what: &str) -> Expected {
    EXPECTED
        .iter()
        .find(|(name, _)| *name == what)
        .map_or(Expected::Nothing, |(_, expected)| *expected)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn every_row_is_found_by_its_name() {
        for row in Row::ALL {
            assert_eq!(Row::parse(row.name()).unwrap(), row);
            assert!(!row.about().is_empty());
        }
        assert!(Row::parse("rows").unwrap_err().contains("--list"));
    }

    #[test]
    fn what_nobody_spoke_of_is_not_expected() {
        assert_eq!(
            expected("names and attributes of 10,000, cold"),
            Expected::Nothing
        );
        assert_eq!(expected("rename, 16 workers"), Expected::Value(6000.0));
    }
}
