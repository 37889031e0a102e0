//! The lab of two clusters: what it needs, and the program that drives it.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use crate::checks;
use crate::go;
use crate::outcome::Outcome;
use crate::packages;
use crate::place::Place;
use crate::process::{become_command, build, success};
use crate::storage_suite;
use crate::tools;

/// Variable of `twinshore-lab`, and of tests that need an API server.
pub const PROGRAMS_VARIABLE: &str = "TWINSHORE_LAB_PROGRAMS";

/// Where a lab that is up keeps its state.
const STATE: &str = "/var/lib/twinshore-lab";

/// Folders of the packages whose programs are in our image, those that there are.
const OURS: [(&str, &str); 3] = [
    ("cli", "twinshore-cli"),
    ("operator", "twinshore-operator"),
    ("csi-driver", "twinshore-csi"),
];

/// The programs of the clusters, which are built if they are not there.
fn programs(place: &Place) -> Result<PathBuf, String> {
    let mut outcome = Outcome::default();
    let versitygw = tools::versitygw(place, &mut outcome)
        .ok_or("the lab's S3 servers are built with Go, which is needed")?;
    go::programs(place, &[("versitygw", &versitygw)])
}

/// The same for tests. Without Go what needs them is left out, and said so.
pub fn programs_for_tests(place: &Place, outcome: &mut Outcome) -> Option<PathBuf> {
    if !packages::is_installed("go") {
        outcome.left_out(
            "the operator's tests and the suites on two clusters",
            "Kubernetes is built with Go, which is not installed",
        );
        return None;
    }
    match programs(place) {
        Ok(programs) => Some(programs),
        Err(reason) => {
            outcome.check("the programs of the clusters", Err(reason));
            None
        }
    }
}

/// The lab's program, which is built if it is not there.
fn command(place: &Place) -> Result<Command, String> {
    build(place, &["twinshore-e2e"])?;
    Ok(Command::new(place.binary("twinshore-lab")))
}

/// The same with everything that `up` needs. Our own programs are built too, unless their image is to be made of others.
fn command_for_up(place: &Place, builds_ours: bool) -> Result<Command, String> {
    packages::ensure_for_lab()?;
    let programs = programs(place)?;
    if builds_ours {
        let ours: Vec<&str> = OURS
            .into_iter()
            .filter(|(folder, _)| place.root.join(folder).exists())
            .map(|(_, package)| package)
            .collect();
        build(place, &ours)?;
    }
    let mut command = command(place)?;
    command.env(PROGRAMS_VARIABLE, programs);
    Ok(command)
}

/// `cargo xtask lab ...`
pub fn run(place: &Place, arguments: &[String]) -> Result<ExitCode, String> {
    let verb = arguments.first().map_or("", String::as_str);
    let has_option = |name: &str| arguments.iter().any(|argument| argument.starts_with(name));
    let mut command = match verb {
        "up" => command_for_up(place, !has_option("--product"))?,
        "test" | "suites" | "demo" if !has_option("--list") && !has_option("--help") => {
            if verb == "demo" {
                packages::ensure(packages::FOR_DEMO)?;
            }
            let mut up = command_for_up(place, true)?;
            success(up.arg("up"))?;
            let mut command = command(place)?;
            let is_named = |name: &String| name == storage_suite::NAME;
            // Without names all of the long ones are meant.
            if verb == "suites" && (arguments.len() == 1 || arguments.iter().any(is_named)) {
                command.env(storage_suite::VARIABLE, storage_suite::programs(place)?);
            }
            command
        }
        _ => command(place)?,
    };
    command.args(arguments);
    become_command(command)
}

/// The lab's suites, as a part of all tests. A lab that was up before stays up.
pub fn suites(place: &Place, outcome: &mut Outcome) {
    println!("== suites on two clusters");
    let was_up = Path::new(STATE).exists();
    let up = command_for_up(place, true).and_then(|mut up| success(up.arg("up")));
    let came_up = up.is_ok();
    outcome.check("two clusters come up", up);
    let run = |verb: &str| {
        command(place).map(|mut command| {
            command.arg(verb);
            command
        })
    };
    if came_up {
        match run("test") {
            Ok(mut test) => checks::count_suites(&mut test, "the suites on two clusters", outcome),
            Err(reason) => outcome.check("the suites on two clusters", Err(reason)),
        }
    }
    if !was_up {
        let down = run("down").and_then(|mut down| success(&mut down));
        outcome.check("two clusters go down", down);
    }
}
