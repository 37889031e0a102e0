//! What the suite reports.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::failure::Failure;

/// As much of a message as is printed.
const MESSAGE_MAX_CHARS: usize = 300;

/// What became of its tests.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    passed: usize,
    /// Names, and why.
    failed: Vec<(String, String)>,
    /// How many tests left themselves out, by reason.
    skipped: BTreeMap<String, usize>,
    not_selected: usize,
}

impl Outcome {
    /// Reads its report.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let text = fs::read_to_string(path).map_err(Failure::file("read", path))?;
        let report: Value = serde_json::from_str(&text)
            .map_err(|error| Failure::wrong(format!("{} is no report: {error}", path.display())))?;
        Ok(Self::of(&report))
    }

    fn of(report: &Value) -> Self {
        let mut outcome = Self::default();
        let suites = report.as_array().into_iter().flatten();
        let tests = suites.flat_map(|suite| suite["SpecReports"].as_array().into_iter().flatten());
        for test in tests.filter(|test| test["LeafNodeType"] == "It") {
            let message = test["Failure"]["Message"].as_str().unwrap_or_default();
            match test["State"].as_str().unwrap_or_default() {
                "passed" => outcome.passed += 1,
                // What is not selected has no message.
                "skipped" | "pending" if message.is_empty() => outcome.not_selected += 1,
                "skipped" | "pending" => *outcome.skipped.entry(reason(message)).or_default() += 1,
                _ => outcome.failed.push((name(test), shortened(message))),
            }
        }
        outcome
    }

    /// Prints counts and reasons.
    pub fn print(&self) {
        println!(
            "  external-storage: {} run, {} passed, {} failed, {} left themselves out, {} not selected",
            self.passed + self.failed.len(),
            self.passed,
            self.failed.len(),
            self.skipped.values().sum::<usize>(),
            self.not_selected
        );
        for (reason, count) in &self.skipped {
            println!("    left out, {count}: {reason}");
        }
        for (name, message) in &self.failed {
            println!("    FAILED: {name}\n      {message}");
        }
    }

    /// Whether all that were run passed.
    pub fn is_good(&self) -> Result<(), Failure> {
        match (self.failed.is_empty(), self.passed) {
            (false, _) => Err(Failure::wrong(format!("{} tests failed", self.failed.len()))),
            (true, 0) => Err(Failure::wrong("no test was run")),
            (true, _) => Ok(()),
        }
    }
}

/// `External Storage [Driver: x] [Testpattern: y] z should w`.
fn name(test: &Value) -> String {
    let containers = test["ContainerHierarchyTexts"].as_array().into_iter().flatten();
    containers
        .chain([&test["LeafNodeText"]])
        .filter_map(Value::as_str)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A reason, with what differs between tests taken out, and without where in the suite it was found.
fn reason(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    shortened(line.trim_end_matches(" - skipping"))
}

fn shortened(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().take(MESSAGE_MAX_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tests_are_counted_by_what_became_of_them() {
        let test = |state: &str, message: &str| {
            json!({
                "ContainerHierarchyTexts": ["External Storage"],
                "LeafNodeText": "should work",
                "LeafNodeType": "It",
                "State": state,
                "Failure": { "Message": message },
            })
        };
        let report = json!([{ "SpecReports": [
            test("passed", ""),
            test("skipped", ""),
            test("skipped", "Driver \"x\" does not support block - skipping"),
            test("failed", "it did\nnot"),
            { "LeafNodeType": "BeforeSuite", "State": "passed" },
        ] }]);
        let outcome = Outcome::of(&report);
        assert_eq!((outcome.passed, outcome.not_selected), (1, 1));
        assert_eq!(
            outcome.skipped.get("Driver \"x\" does not support block"),
            Some(&1)
        );
        assert_eq!(
            outcome.failed,
            [("External Storage should work".to_owned(), "it did not".to_owned())]
        );
        assert!(outcome.is_good().is_err());
    }
}
