//! The project's own commands: `cargo xtask help`.
//!
//! Only the standard library, so that the first command on a fresh machine starts after seconds. External test programs are
//! built once, of pinned versions, into a cache outside the clone.

mod checks;
mod go;
mod lab;
mod outcome;
mod packages;
mod place;
mod process;
mod storage_suite;
mod tools;
mod values;

use std::path::Path;
use std::process::{Command, ExitCode};

use crate::outcome::Outcome;
use crate::place::Place;

const HELP: &str = "\
cargo xtask COMMAND

  demo [ARGUMENTS]        Build, bring up two regions on this machine and take a tour through what they do, on real files.
                          --keep [--no-tour]: leave everything running. --dir DIR, --rtt MS, --input DIR, --help.
  test [--no-lab]         Every check and test: format, lints, dependencies, all crates, the suites on real mounts, and those on two clusters.
                          --no-lab leaves out those on two clusters.
  lab up|down|status      Two real clusters on this machine: docs/lab.md. The first `up` builds Kubernetes from source, which takes
                          a quarter of an hour or more; the later ones take a minute.
  lab demo [--keep]       Deploys an application in both regions and shows that it works. Ends in `lab demo: ok`.
  lab suites [NAME...]    The suites on two clusters that are too long for `test`; --list shows all.
  lab logs|shell|test|wan|s3|load, lab help
                          What to do with them.
  suites [NAME...]        Only the suites on real mounts, all or those named; --list shows them.
  simulate [ARGUMENTS]    Run the simulation; --seeds N for that many seeds, --help for the rest.
  bench [ARGUMENTS]       Build for speed and measure, beside what this machine allows: a table. --list, --only ROW,ROW, --quick,
                          --json FILE, --help.
  crds                    Write the resource definitions of crds/ into the chart.
  values                  Write docs/values.md from the chart's values.
  lint                    Only format, lints and dependencies.
  tools                   Build the external test programs into the cache.
  help                    This.

The cache is ~/.cache/twinshore, or where TWINSHORE_CACHE says. Missing Debian packages are installed when run as root.
";

/// The suites that every change has to pass. `cargo xtask suites` runs all; what is missing here is named in the README's limits.
const GATE: [&str; 21] = [
    "pjdfstest-east",
    "pjdfstest-west",
    "fsx-east",
    "fsx-west",
    "fsx-both",
    "coherence",
    "locks",
    "races",
    "kill-metadata",
    "kill-mount",
    "kill-worker",
    "bucket-outage",
    "line-outage",
    "second-bucket",
    "compaction",
    "git",
    "sqlite",
    "tar-rsync",
    "compiler",
    "bad-input",
    "ten-gigabytes",
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match arguments.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", [].as_slice()),
    };
    match run(command, rest) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("xtask {command}: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &str, arguments: &[String]) -> Result<ExitCode, String> {
    let place = Place::find()?;
    match command {
        "demo" => {
            packages::ensure(packages::FOR_DEMO)?;
            process::build(&place, &["twinshore-cli", "twinshore-testbed"])?;
            let mut command = Command::new(place.binary("twinshore-demo"));
            command.args(arguments);
            process::become_command(command)
        }
        "test" => {
            if let Some(unknown) = arguments.iter().find(|argument| *argument != "--no-lab") {
                return Err(format!(
                    "unknown argument {unknown}; `cargo xtask help` shows what there is"
                ));
            }
            let mut outcome = Outcome::default();
            packages::ensure(packages::FOR_TESTS)?;
            checks::lint(&place, &mut outcome);
            let versitygw = tools::versitygw(&place, &mut outcome);
            let programs = lab::programs_for_tests(&place, &mut outcome);
            checks::crates(&place, versitygw.as_deref(), programs.as_deref(), &mut outcome);
            suites(
                &place,
                &GATE.map(str::to_owned),
                versitygw.as_deref(),
                &mut outcome,
            )?;
            // Another S3 server, on each side in turn.
            if versitygw.is_some() {
                for region in ["east", "west"] {
                    let arguments = ["bucket-outage", "--versitygw", region].map(str::to_owned);
                    checks::suites(&place, &arguments, versitygw.as_deref(), &mut outcome);
                }
            }
            if arguments.is_empty() && programs.is_some() {
                lab::suites(&place, &mut outcome);
            }
            Ok(outcome.finish())
        }
        "lab" => lab::run(&place, arguments),
        "suites" => {
            let mut outcome = Outcome::default();
            packages::ensure(packages::FOR_TESTS)?;
            let wants_versitygw = arguments
                .iter()
                .any(|argument| argument.starts_with("--versitygw"));
            let versitygw = if wants_versitygw {
                tools::versitygw(&place, &mut outcome)
            } else {
                None
            };
            suites(&place, arguments, versitygw.as_deref(), &mut outcome)?;
            Ok(outcome.finish())
        }
        "simulate" => {
            let mut command = process::cargo(&place);
            command
                .args(["run", "--locked", "--package", "twinshore-simulation", "--"])
                .args(arguments);
            process::become_command(command)
        }
        "bench" => bench(&place, arguments),
        "crds" => {
            let mut command = process::cargo(&place);
            command
                .args(["run", "--locked", "--quiet", "--package", "twinshore-crds", "--"])
                .arg("charts/twinshore/files/crds/replicatedvolumes.yaml");
            process::become_command(command)
        }
        "values" => {
            values::write(&place.root)?;
            Ok(ExitCode::SUCCESS)
        }
        "lint" => {
            let mut outcome = Outcome::default();
            checks::lint(&place, &mut outcome);
            Ok(outcome.finish())
        }
        "tools" => {
            let mut outcome = Outcome::default();
            tools::conformance(&place)?;
            tools::versitygw(&place, &mut outcome);
            Ok(outcome.finish())
        }
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        unknown => Err(format!(
            "there is no such command; `cargo xtask help` shows what there is (got {unknown})"
        )),
    }
}

/// The benchmark, of an optimised build.
fn bench(place: &Place, arguments: &[String]) -> Result<ExitCode, String> {
    packages::ensure(packages::FOR_TESTS)?;
    let mut outcome = Outcome::default();
    let versitygw = tools::versitygw(place, &mut outcome)
        .ok_or("the benchmark needs versitygw, which is built with Go")?;
    let mut build = process::cargo(place);
    build.args(["build", "--locked", "--release", "--bins"]);
    build.args(["--package", "twinshore-cli", "--package", "twinshore-testbed"]);
    process::success(&mut build)?;
    let mut command = Command::new(place.release_binary("twinshore-bench"));
    command.args(arguments).env("TWINSHORE_VERSITYGW", versitygw);
    process::become_command(command)
}

/// The suites on real mounts.
fn suites(
    place: &Place,
    arguments: &[String],
    versitygw: Option<&Path>,
    outcome: &mut Outcome,
) -> Result<(), String> {
    process::build(place, &["twinshore-cli", "twinshore-testbed"])?;
    tools::conformance(place)?;
    checks::suites(place, arguments, versitygw, outcome);
    Ok(())
}
