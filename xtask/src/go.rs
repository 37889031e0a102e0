//! Programs of Kubernetes, built from source with the Go module proxy as the only thing that is asked, once, into the cache.
//!
//! `e2e/tools/cluster` is one Go module that requires all of them. So they share one version of every package, and what the first of them compiles (some minutes), the
//! others only link. Kubernetes cannot be built with `go install`: its own module refers to folders of its repository, which `replace` lines exchange for
//! the published ones.
//!
//! A program lies in `tools/go/NAME-KEY`, where the key is a hash of what it is built from. A directory of links with all of one state is made for
//! the lab. States of a program: absent, or whole: it is built beside its place and renamed.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::packages::is_installed;
use crate::place::Place;

/// Kubernetes' version, which its programs tell, and Helm's rules compare.
const KUBERNETES: &str = "v1.34.4";

/// How often a build that goes on says so.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(15);

/// A program.
struct Program {
    name: &'static str,
    /// The Go package.
    package: &'static str,
    /// The variable that holds its version, and the version.
    version: Option<(&'static str, &'static str)>,
}

const fn program(name: &'static str, package: &'static str) -> Program {
    Program {
        name,
        package,
        version: None,
    }
}

const fn versioned(
    name: &'static str,
    package: &'static str,
    variable: &'static str,
    version: &'static str,
) -> Program {
    Program {
        name,
        package,
        version: Some((variable, version)),
    }
}

/// All, those first whose packages most others need.
const PROGRAMS: [Program; 14] = [
    program("etcd", "go.etcd.io/etcd/server/v3"),
    program("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    program("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
    program(
        "kube-controller-manager",
        "k8s.io/kubernetes/cmd/kube-controller-manager",
    ),
    program("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    program("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    program("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    program("coredns", "./coredns"),
    versioned(
        "helm",
        "helm.sh/helm/v3/cmd/helm",
        "helm.sh/helm/v3/internal/version.version",
        "v3.19.5",
    ),
    versioned(
        "csi-provisioner",
        "github.com/kubernetes-csi/external-provisioner/v5/cmd/csi-provisioner",
        "main.version",
        "v5.3.0",
    ),
    versioned(
        "csi-resizer",
        "github.com/kubernetes-csi/external-resizer/cmd/csi-resizer",
        "main.version",
        "v1.14.0",
    ),
    versioned(
        "csi-snapshotter",
        "github.com/kubernetes-csi/external-snapshotter/v8/cmd/csi-snapshotter",
        "main.version",
        "v8.4.0",
    ),
    versioned(
        "snapshot-controller",
        "github.com/kubernetes-csi/external-snapshotter/v8/cmd/snapshot-controller",
        "main.version",
        "v8.4.0",
    ),
    program(
        "csi-sanity",
        "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity",
    ),
];

impl Program {
    /// What the linker is told: no debug information, and versions.
    fn linker_flags(&self) -> String {
        let mut flags = vec!["-s -w".to_owned()];
        if self.package.starts_with("k8s.io/kubernetes/") {
            let minor = KUBERNETES.split('.').nth(1).unwrap_or_default();
            for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
                for (name, value) in [
                    ("gitVersion", KUBERNETES),
                    ("gitMajor", "1"),
                    ("gitMinor", minor),
                    ("gitTreeState", "clean"),
                ] {
                    flags.push(format!("-X {package}.{name}={value}"));
                }
            }
        }
        if let Some((variable, version)) = self.version {
            flags.push(format!("-X {variable}={version}"));
        }
        flags.join(" ")
    }

    /// What it is built from: the package, how it is linked, the versions of everything, and our own source if it is ours.
    fn key(&self, module: &Path) -> Result<u64, String> {
        let read = |path: PathBuf| {
            fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        let mut parts = vec![
            self.package.as_bytes().to_vec(),
            self.linker_flags().into_bytes(),
            read(module.join("go.mod"))?,
        ];
        if self.package.starts_with("./") {
            parts.push(read(module.join(self.package).join("main.go"))?);
        }
        Ok(hash(parts.iter().map(Vec::as_slice)))
    }
}

/// FNV-1a, each part ended by a zero. Nobody attacks the cache; a hash that is the same in all times is what is needed.
pub fn hash<'a>(parts: impl Iterator<Item = &'a [u8]>) -> u64 {
    parts
        .flat_map(|part| part.iter().chain([&0]))
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// The module that brings the resource definitions of snapshots, and where they are in it.
const SNAPSHOT_DEFINITIONS: (&str, &str) = (
    "github.com/kubernetes-csi/external-snapshotter/client/v8",
    "config/crd",
);

/// Their names. (There are others beside them, of groups of volumes.)
const SNAPSHOT_DEFINITION_PREFIX: &str = "snapshot.storage.k8s.io_";

/// Copies the resource definitions of snapshots into the cache, if they are not there.
fn snapshot_definitions(module: &Path, cache: &Path) -> Result<PathBuf, String> {
    let versions = fs::read(module.join("go.mod")).map_err(|error| format!("cannot read go.mod: {error}"))?;
    let key = hash([versions.as_slice()].into_iter());
    let directory = cache.join(format!("snapshot-definitions-{key:016x}"));
    if directory.is_dir() {
        return Ok(directory);
    }
    let (name, folder) = SNAPSHOT_DEFINITIONS;
    let go = |arguments: &[&str]| {
        let output = Command::new("go")
            .args(arguments)
            .arg(name)
            .current_dir(module)
            .env("GOFLAGS", "-mod=readonly")
            .env("GOWORK", "off")
            .output()
            .map_err(|error| format!("go cannot be run: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        } else {
            Err(format!(
                "{name} cannot be had: {}",
                String::from_utf8_lossy(&output.stderr)
            ))
        }
    };
    go(&["mod", "download"])?;
    let from = Path::new(&go(&["list", "-m", "-f", "{{.Dir}}"])?).join(folder);
    let failed = |error: io::Error| format!("cannot copy {}: {error}", from.display());
    let partial = directory.with_extension("part");
    fs::create_dir_all(&partial).map_err(failed)?;
    for entry in fs::read_dir(&from).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let file = entry.file_name();
        if file.to_string_lossy().starts_with(SNAPSHOT_DEFINITION_PREFIX) {
            let text = fs::read(entry.path()).map_err(failed)?;
            fs::write(partial.join(file), text).map_err(failed)?;
        }
    }
    fs::rename(&partial, &directory).map_err(failed)?;
    Ok(directory)
}

/// Builds what is not there, and returns a directory with all of them and `others` (name and file).
pub fn programs(place: &Place, others: &[(&str, &Path)]) -> Result<PathBuf, String> {
    let module = place.root.join("e2e/tools/cluster");
    let cache = place.tools().join("go");
    fs::create_dir_all(&cache).map_err(|error| format!("cannot make {}: {error}", cache.display()))?;
    // Two builds at once would only slow each other down.
    let lock =
        File::create(cache.join(".lock")).map_err(|error| format!("cannot lock the cache: {error}"))?;
    lock.lock()
        .map_err(|error| format!("cannot lock the cache: {error}"))?;
    let mut built = Vec::new();
    let mut missing = Vec::new();
    for program in &PROGRAMS {
        let key = program.key(&module)?;
        let directory = cache.join(format!("{}-{key:016x}", program.name));
        let path = directory.join(program.name);
        if !path.is_file() {
            missing.push((program, path.clone()));
        }
        built.push((program.name, path, key));
    }
    if !missing.is_empty() && !is_installed("go") {
        return Err(
            "the clusters are built with Go, which is not installed: apt-get install golang, 1.26 or later"
                .to_owned(),
        );
    }
    for (index, (program, path)) in missing.iter().enumerate() {
        println!(
            "== building {}, {} of {}, into {} (once)",
            program.name,
            index + 1,
            missing.len(),
            cache.display()
        );
        let flags = program.linker_flags();
        compile(
            program.name,
            &["build", "-v", "-ldflags", &flags],
            program.package,
            &module,
            path,
        )?;
    }
    let mut links: Vec<(&str, &Path)> = built
        .iter()
        .map(|(name, path, _)| (*name, path.as_path()))
        .collect();
    let definitions = snapshot_definitions(&module, &cache)?;
    links.push(("snapshot-definitions", &definitions));
    links.extend(others);
    link_all(place, &links)
}

/// Has Go make a program, with the versions of a module. It appears whole or not at all.
pub fn compile(
    name: &str,
    arguments: &[&str],
    package: &str,
    module: &Path,
    path: &Path,
) -> Result<(), String> {
    let started = Instant::now();
    let partial = path.with_extension("part");
    let mut child = Command::new("go")
        .args(arguments)
        .arg("-o")
        .arg(&partial)
        .arg(package)
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-mod=readonly -buildvcs=false -trimpath")
        .env("GOWORK", "off")
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("go cannot be run: {error}"))?;
    let mut packages = 0;
    let mut last = Vec::new();
    let mut told = Instant::now();
    // A package that was compiled is a line without blanks; anything else is a complaint or a download.
    for line in child
        .stderr
        .take()
        .into_iter()
        .flat_map(|errors| BufReader::new(errors).lines())
    {
        let Ok(line) = line else { break };
        if line.contains(' ') {
            last.push(line);
        } else {
            packages += 1;
        }
        if told.elapsed() >= PROGRESS_INTERVAL {
            told = Instant::now();
            println!(
                "   {packages} packages compiled in {} s",
                started.elapsed().as_secs()
            );
        }
    }
    let status = child
        .wait()
        .map_err(|error| format!("go cannot be waited for: {error}"))?;
    if !status.success() {
        let tail = &last[last.len().saturating_sub(20)..];
        return Err(format!("{name} cannot be built:\n{}", tail.join("\n")));
    }
    println!(
        "   {packages} packages compiled, done in {} s",
        started.elapsed().as_secs()
    );
    fs::rename(&partial, path).map_err(|error| format!("cannot make {}: {error}", path.display()))
}

/// A directory for exactly these files.
fn link_all(place: &Place, links: &[(&str, &Path)]) -> Result<PathBuf, String> {
    let key = hash(links.iter().map(|(_, path)| path.as_os_str().as_encoded_bytes()));
    let directory = place.tools().join(format!("lab-{key:016x}"));
    let failed = |error: std::io::Error| format!("cannot make {}: {error}", directory.display());
    fs::create_dir_all(&directory).map_err(failed)?;
    for (name, path) in links {
        let link = directory.join(name);
        if link.is_symlink() {
            continue;
        }
        symlink(path, &link).map_err(failed)?;
    }
    Ok(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_key_do_not_run_into_each_other() {
        let of = |parts: &[&[u8]]| hash(parts.iter().copied());
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
        assert_eq!(of(&[b"a"]), of(&[b"a"]));
    }

    #[test]
    fn programs_of_kubernetes_tell_their_version() {
        for program in &PROGRAMS {
            let tells = program.linker_flags().contains("gitVersion=v1.34.4");
            assert_eq!(tells, program.name.starts_with("kube"), "{}", program.name);
        }
    }
}
