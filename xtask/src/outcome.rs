//! What passed and what failed, over everything that a command ran.

use std::process::ExitCode;

/// Counts.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Tests and checks that passed.
    pub passed: u64,
    /// Tests and checks that failed.
    pub failed: u64,
    /// What failed, and what was left out and why, for the end.
    notes: Vec<String>,
}

impl Outcome {
    /// One check.
    pub fn check(&mut self, name: &str, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.passed += 1;
                println!("== {name}: ok");
            }
            Err(reason) => {
                self.failed += 1;
                println!("== {name}: FAILED ({reason})");
                self.notes.push(format!("failed: {name}: {reason}"));
            }
        }
    }

    /// Something that cannot be run here.
    pub fn left_out(&mut self, name: &str, reason: &str) {
        println!("== {name}: left out ({reason})");
        self.notes.push(format!("left out: {name}: {reason}"));
    }

    /// Tests that another program counted.
    pub fn add(&mut self, name: &str, passed: u64, failed: u64) {
        self.passed += passed;
        self.failed += failed;
        if failed > 0 {
            self.notes.push(format!("failed: {failed} of {name}"));
        }
    }

    /// The last lines.
    pub fn finish(self) -> ExitCode {
        for note in &self.notes {
            println!("{note}");
        }
        println!("{} passed, {} failed", self.passed, self.failed);
        if self.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }
    }
}
