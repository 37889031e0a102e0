//! Debian packages of the programs that the demo and the tests work with.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
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

/// For the lab's nodes. Programs that Debian keeps where only root looks are named by their path.
const FOR_LAB: &[Needed] = &[
    ("ip", "iproute2"),
    ("containerd", "containerd"),
    ("ctr", "containerd"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("/usr/sbin/iptables", "iptables"),
    ("/usr/sbin/conntrack", "conntrack"),
    ("/usr/sbin/ipset", "ipset"),
    ("/usr/sbin/ebtables", "ebtables"),
    ("/usr/sbin/ethtool", "ethtool"),
    ("socat", "socat"),
    ("/bin/busybox", "busybox-static"),
];

/// While it is there and says no, Debian's packages start no services.
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// What the lab needs, without the services that come with it: its nodes run their own.
pub fn ensure_for_lab() -> Result<(), String> {
    if FOR_LAB.iter().all(|(program, _)| is_installed(program)) {
        return Ok(());
    }
    let policy = Path::new(SERVICE_POLICY);
    let is_ours = !policy.exists()
        && std::fs::write(policy, "#!/bin/sh\nexit 101\n").is_ok()
        && std::fs::set_permissions(policy, std::fs::Permissions::from_mode(0o755)).is_ok();
    let result = ensure(FOR_LAB);
    if is_ours {
        std::fs::remove_file(policy).map_err(|error| format!("cannot remove {SERVICE_POLICY}: {error}"))?;
    }
    result
}

/// Installs what is missing, as root; otherwise says what to install.
pub fn ensure(needed: &[Needed]) -> Result<(), String> {
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect::<BTreeSet<_>>()
        .into_iter()
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
