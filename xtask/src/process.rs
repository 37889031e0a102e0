//! Running programs.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use crate::place::Place;

/// The cargo that runs this.
pub fn cargo(place: &Place) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(&place.root);
    command
}

/// Runs a command to its end; anything but success is an error.
pub fn success(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} ended with {status}")),
        Err(error) => Err(format!("{name} cannot be run: {error}")),
    }
}

/// Builds the programs of some crates.
pub fn build(place: &Place, crates: &[&str]) -> Result<(), String> {
    println!("== building {}", crates.join(", "));
    let mut command = cargo(place);
    command.args(["build", "--locked", "--bins"]);
    for name in crates {
        command.args(["--package", name]);
    }
    success(&mut command)
}

/// Replaces this program by another: signals and the exit code are then its own. Returns only if that fails.
pub fn become_command(mut command: Command) -> Result<ExitCode, String> {
    let error = command.exec();
    Err(format!(
        "{} cannot be run: {error}",
        command.get_program().to_string_lossy()
    ))
}
