//! Plugin and mounter with a process that says no more than that it serves, and with which logbook.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinHandle;

use super::kept::Kept;
use super::link::Link;
use super::{Directories, Mounts, SecretData, run};

const KEY: &str = "team/documents";

/// Writes its number into the logbook, and serves until it is asked to end.
const PROGRAM: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
    [ "$1" = --logbook ] && logbook="$2"
    shift
done
echo $$ >> "$logbook"
echo 'mount: ready'
trap 'exit 0' TERM
while :; do sleep 0.01; done
"#;

/// Fails.
const FAILING: &str = "#!/bin/sh\necho 'twinshore: something is wrong' >&2\nexit 1\n";

struct Node {
    directory: TempDir,
}

impl Node {
    fn new() -> Self {
        let node = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        node.install(PROGRAM);
        node
    }

    fn program(&self) -> PathBuf {
        self.directory.path().join("program")
    }

    fn install(&self, text: &str) {
        // Replaced at once: one that runs cannot be written to.
        let partial = self.directory.path().join("partial");
        fs::write(&partial, text).unwrap();
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(partial, self.program()).unwrap();
    }

    fn plugin(&self) -> (Link, JoinHandle<()>) {
        let link = Link::default();
        let (served, path) = (link.clone(), self.directory.path().join("s"));
        let user = rustix::process::geteuid().as_raw();
        let serving = tokio::spawn(async move {
            served.run(&path, user).await.unwrap();
        });
        (link, serving)
    }

    fn mounter(&self) -> (Arc<Mounts>, JoinHandle<()>) {
        let directories = Directories {
            secrets: self.directory.path().join("secrets"),
            cache: self.directory.path().join("cache"),
        };
        let mounts = Arc::new(Mounts::new(self.program().into(), directories));
        let running = tokio::spawn(run(self.directory.path().join("s"), Arc::clone(&mounts)));
        (mounts, running)
    }
}

fn secret() -> SecretData {
    let config = serde_json::json!({
        "volumeId": "1", "volume": "documents", "endpoint": "https://service:1", "region": "east", "flip": false,
        "primary": {"region": "east", "url": "http://bucket/x"}, "cacheBytes": 0, "memoryBytes": 1,
    });
    let rest = ["ca.crt", "tls.crt", "tls.key"].map(|key| (key.to_owned(), "x".to_owned()));
    let config = ("config.json".to_owned(), config.to_string());
    SecretData(rest.into_iter().chain([config]).collect::<BTreeMap<_, _>>())
}

fn kept() -> Arc<Kept> {
    let device = OwnedFd::from(fs::File::open("/dev/null").unwrap());
    Arc::new(Kept::new(device).unwrap())
}

async fn start(link: &Link, kept: &Arc<Kept>) {
    let (key, mount_point) = (KEY.to_owned(), Path::new("/mnt"));
    link.start(&key, mount_point, "node", secret(), Arc::clone(kept))
        .await
        .unwrap();
}

/// The processes that have used the logbook, when there are so many.
async fn processes(kept: &Kept, count: usize) -> Vec<i32> {
    let path = kept.logbook_path();
    let wait = async {
        loop {
            let text = fs::read_to_string(&path).unwrap();
            let all: Vec<i32> = text.lines().map(|line| line.parse().unwrap()).collect();
            if all.len() >= count {
                return all;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap()
}

fn kill(process: i32) {
    let process = rustix::process::Pid::from_raw(process).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
}

async fn until(what: impl Fn() -> bool) {
    let wait = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap();
}

#[tokio::test]
async fn a_process_that_is_killed_is_followed_by_another_with_the_same_logbook() {
    let node = Node::new();
    let (link, _plugin) = node.plugin();
    let (mounts, _mounter) = node.mounter();
    let kept = kept();
    start(&link, &kept).await;
    kill(processes(&kept, 1).await[0]);
    kill(processes(&kept, 2).await[1]);
    assert_eq!(processes(&kept, 3).await.len(), 3);
    assert_eq!(
        link.mounts(),
        Some(HashSet::from([KEY.to_owned()])),
        "nothing has ended"
    );
    // What is to end is not followed.
    until(|| node.directory.path().join("secrets/team_documents").exists()).await;
    link.kill(&KEY.to_owned()).await.unwrap();
    until(|| !node.directory.path().join("secrets/team_documents").exists()).await;
    assert_eq!(processes(&kept, 3).await.len(), 3);
    mounts.terminate_all().await;
}

#[tokio::test]
async fn the_next_mounter_goes_on_with_what_the_plugin_keeps() {
    let node = Node::new();
    let (link, _plugin) = node.plugin();
    let (mounts, mounter) = node.mounter();
    let kept = kept();
    start(&link, &kept).await;
    // As for an upgrade: its processes end, and nothing is said to have ended.
    mounts.terminate_all().await;
    mounter.abort();
    drop(mounts);
    until(|| link.mounts().is_none()).await;
    let (mounts, _mounter) = node.mounter();
    assert_eq!(link.something_left().await, [KEY]);
    let copy = link.kept(&KEY.to_owned()).unwrap();
    start(&link, &copy).await;
    assert_eq!(processes(&kept, 2).await.len(), 2);
    assert_eq!(link.left(), Vec::<String>::new());
    mounts.terminate_all().await;
}

#[tokio::test]
async fn the_next_plugin_is_given_copies_by_the_mounter() {
    let node = Node::new();
    // With a runtime of its own, all of it ends like a process.
    let threads = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build();
    let plugin = threads.unwrap();
    let link = Link::default();
    let (served, path) = (link.clone(), node.directory.path().join("s"));
    let user = rustix::process::geteuid().as_raw();
    plugin.spawn(async move { served.run(&path, user).await });
    let (mounts, _mounter) = node.mounter();
    let kept = kept();
    start(&link, &kept).await;
    plugin.shutdown_background();
    drop(link);
    let (link, _plugin) = node.plugin();
    until(|| link.kept(&KEY.to_owned()).is_some()).await;
    let copy = link.kept(&KEY.to_owned()).unwrap();
    assert_eq!(
        fs::read_to_string(copy.logbook_path()).unwrap(),
        fs::read_to_string(kept.logbook_path()).unwrap()
    );
    mounts.terminate_all().await;
}

#[tokio::test]
async fn a_mount_whose_processes_fail_again_and_again_is_given_up_with_all_copies() {
    let node = Node::new();
    let (link, _plugin) = node.plugin();
    let (_mounts, _mounter) = node.mounter();
    let kept = kept();
    start(&link, &kept).await;
    let first = processes(&kept, 1).await[0];
    node.install(FAILING);
    kill(first);
    until(|| link.mounts() == Some(HashSet::new())).await;
    assert!(link.kept(&KEY.to_owned()).is_none());
}
