//! The checks and tests.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::lab::PROGRAMS_VARIABLE;
use crate::outcome::Outcome;
use crate::place::Place;
use crate::process::{cargo, success};

/// Format, lints, dependencies.
pub fn lint(place: &Place, outcome: &mut Outcome) {
    println!("== format");
    outcome.check("format", success(cargo(place).args(["fmt", "--all", "--check"])));
    println!("== clippy");
    let mut clippy = cargo(place);
    clippy.args([
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--quiet",
        "--",
        "-D",
        "warnings",
    ]);
    outcome.check("clippy", success(&mut clippy));
    println!("== documentation of the chart's values");
    outcome.check("docs/values.md", crate::values::check(&place.root));
    dependencies(place, outcome);
}

/// `cargo deny`, if it is installed (building it takes longer than all the rest).
fn dependencies(place: &Place, outcome: &mut Outcome) {
    let in_cache = place.tools().join("bin/cargo-deny");
    let program = if in_cache.is_file() {
        in_cache
    } else {
        "cargo-deny".into()
    };
    if !crate::packages::is_installed(&program.to_string_lossy()) {
        let how = "cargo-deny is not installed: cargo install --locked cargo-deny";
        outcome.left_out("licences, bans and sources of dependencies", how);
        return;
    }
    println!("== dependencies");
    let mut deny = Command::new(program);
    deny.current_dir(&place.root).args([
        "--all-features",
        "check",
        "--hide-inclusion-graph",
        "bans",
        "licenses",
        "sources",
    ]);
    outcome.check("dependencies", success(&mut deny));
}

/// `cargo test` of all crates.
pub fn crates(place: &Place, versitygw: Option<&Path>, programs: Option<&Path>, outcome: &mut Outcome) {
    println!("== tests of all crates");
    let mut command = cargo(place);
    command.args(["test", "--locked", "--workspace", "--no-fail-fast"]);
    // The operator's tests need an API server.
    match programs {
        Some(programs) => command.env(PROGRAMS_VARIABLE, programs),
        None => command.args(["--exclude", "twinshore-operator"]),
    };
    if let Some(versitygw) = versitygw {
        command.env("TWINSHORE_VERSITYGW", versitygw);
    }
    count(&mut command, "the tests of the crates", cargo_counts, outcome);
}

/// The suites on real mounts.
pub fn suites(place: &Place, arguments: &[String], versitygw: Option<&Path>, outcome: &mut Outcome) {
    println!("== suites on real mounts");
    let mut command = Command::new(place.binary("twinshore-suites"));
    command
        .args(arguments)
        .env("TWINSHORE_TOOLS", place.tools().join("bin"));
    if let Some(versitygw) = versitygw {
        command.env("TWINSHORE_VERSITYGW", versitygw);
    }
    count_suites(&mut command, "the suites on real mounts", outcome);
}

/// A program that counts suites.
pub fn count_suites(command: &mut Command, name: &str, outcome: &mut Outcome) {
    count(command, name, suite_counts, outcome);
}

/// Runs a program that counts its tests, showing what it says. If it fails without having counted a failure (it did not compile,
/// it crashed), that is one.
fn count(command: &mut Command, name: &str, counts: fn(&str) -> Option<(u64, u64)>, outcome: &mut Outcome) {
    let mut child = match command.stdout(Stdio::piped()).spawn() {
        Ok(child) => child,
        Err(error) => return outcome.check(name, Err(format!("cannot be run: {error}"))),
    };
    let (mut passed, mut failed) = (0, 0);
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            println!("{line}");
            if let Some((more_passed, more_failed)) = counts(&line) {
                passed += more_passed;
                failed += more_failed;
            }
        }
    }
    let status = child.wait();
    outcome.add(name, passed, failed);
    match status {
        Ok(status) if !status.success() && failed == 0 => {
            outcome.check(name, Err(format!("ended with {status}")));
        }
        Ok(_) => {}
        Err(error) => outcome.check(name, Err(format!("cannot be waited for: {error}"))),
    }
}

/// `test result: ok. 12 passed; 0 failed; 0 ignored; ...`
fn cargo_counts(line: &str) -> Option<(u64, u64)> {
    let rest = line.strip_prefix("test result: ")?.split_once(". ")?.1;
    let mut parts = rest.split("; ");
    let passed = parts.next()?.strip_suffix(" passed")?.parse().ok()?;
    let failed = parts.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some((passed, failed))
}

/// `suites: 12 passed, 0 failed`
fn suite_counts(line: &str) -> Option<(u64, u64)> {
    let (passed, failed) = line.strip_prefix("suites: ")?.split_once(", ")?;
    Some((
        passed.strip_suffix(" passed")?.parse().ok()?,
        failed.strip_suffix(" failed")?.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_the_lines_that_have_them() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s";
        assert_eq!(cargo_counts(line), Some((12, 3)));
        assert_eq!(cargo_counts("running 12 tests"), None);
        assert_eq!(suite_counts("suites: 7 passed, 1 failed"), Some((7, 1)));
        assert_eq!(suite_counts("suite fsx: passed"), None);
    }
}
