//! Debian packages of the programs that the demo and the tests work with.

use std::process::{Command, Stdio};

/// A program and the Debian package that has it.
pub type Needed = (&'static str, &'static str);

/// For the demo.
pub const FOR_DEMO: &[Needed] = &[("git", "git"), ("sqlite3", "sqlite3")];

/// For the tests.
pub const FOR_TESTS: &[Needed] = &[
    ("git", "git"),
    ("sqlite3", "sqlite3"),
    ("rsync", "rsync"),
    ("tar", "tar"),
    ("cc", "gcc"),
];

/// Installs what is missing, as root; otherwise says what to install.
pub fn ensure(needed: &[Needed]) -> Result<(), String> {
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("== installing {}", missing.join(", "));
    let install = |arguments: &[&str]| {
        let status = Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(arguments)
            .status();
        status.is_ok_and(|status| status.success())
    };
    let arguments = [["install", "-y", "--no-install-recommends"].as_slice(), &missing].concat();
    // The lists may be old or absent: they are fetched only if needed.
    if install(&arguments) || (install(&["update"]) && install(&arguments)) {
        return Ok(());
    }
    Err(format!(
        "please install (as root): apt-get install {}",
        missing.join(" ")
    ))
}

/// Whether a program is on the PATH.
pub fn is_installed(program: &str) -> bool {
    let quiet = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    quiet.is_ok()
}
