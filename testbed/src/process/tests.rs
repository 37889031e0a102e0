#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use super::*;
use crate::patience::{Look, wait_for};

fn shell(directory: &Path, script: &str, patience: Duration) -> Program {
    Program {
        name: "shell".to_owned(),
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        environment: vec![("GREETING".to_owned(), "hello".to_owned())],
        log_directory: directory.to_owned(),
        ready: Ready::Says("shell: ready".to_owned()),
        patience,
    }
}

fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // proc(5): the state follows the name in parentheses; Z and X are dead.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

#[tokio::test]
async fn a_program_is_ready_when_it_says_so_and_its_words_are_in_the_log() {
    let directory = tempfile::tempdir().unwrap();
    let script = "echo $GREETING; echo trouble >&2; echo shell: ready now; exec sleep 60";
    let mut program = Supervised::start(&shell(directory.path(), script, Duration::from_secs(20)))
        .await
        .unwrap();
    assert!(program.ended().unwrap().is_none());
    let log = program.log().to_owned();
    wait_for("the log", Duration::from_secs(10), async || {
        let text = std::fs::read_to_string(&log).unwrap();
        let complete = ["hello", "trouble", "shell: ready now"]
            .iter()
            .all(|line| text.contains(line));
        if complete {
            Look::Done(())
        } else {
            Look::NotYet(text)
        }
    })
    .await
    .unwrap();
    let status = program.terminate(Duration::from_secs(20)).await.unwrap();
    assert!(!status.success());
}

#[tokio::test]
async fn a_program_that_ends_early_is_an_error_with_the_end_of_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let script = "echo the bucket is missing >&2; exit 3";
    let error = Supervised::start(&shell(directory.path(), script, Duration::from_secs(20)))
        .await
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("exit status: 3") && text.contains("the bucket is missing"),
        "{text}"
    );
}

#[tokio::test]
async fn a_program_that_is_never_ready_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let script = "echo my id is $$ >&2; exec sleep 60";
    let error = Supervised::start(&shell(directory.path(), script, Duration::from_secs(1)))
        .await
        .unwrap_err();
    assert!(matches!(error, ProcessError::NotReady { .. }), "{error}");
    let log = std::fs::read_to_string(directory.path().join("shell.log")).unwrap();
    let pid: i32 = log.trim().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn a_program_that_ignores_sigterm_is_killed_after_the_patience() {
    let directory = tempfile::tempdir().unwrap();
    let script = "trap '' TERM; echo shell: ready; while true; do sleep 0.1; done";
    let mut program = Supervised::start(&shell(directory.path(), script, Duration::from_secs(20)))
        .await
        .unwrap();
    let pid = program.process_id();
    let error = program.terminate(Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, ProcessError::Killed { .. }), "{error}");
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn dropping_kills() {
    let directory = tempfile::tempdir().unwrap();
    let script = "echo shell: ready; exec sleep 60";
    let program = Supervised::start(&shell(directory.path(), script, Duration::from_secs(20)))
        .await
        .unwrap();
    let pid = program.process_id();
    assert!(is_alive(pid));
    drop(program);
    wait_for("the end", Duration::from_secs(10), async || {
        if is_alive(pid) {
            Look::NotYet("it lives".to_owned())
        } else {
            Look::Done(())
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_program_that_mounts_is_ready_when_something_is_mounted_there() {
    let directory = tempfile::tempdir().unwrap();
    let mounts_at = |mount_point: &Path, patience| Program {
        ready: Ready::Mounted(mount_point.to_owned()),
        ..shell(directory.path(), "exec sleep 60", patience)
    };
    // Every Linux has this one.
    let mut program = Supervised::start(&mounts_at(Path::new("/proc"), Duration::from_secs(20)))
        .await
        .unwrap();
    program.kill().await.unwrap();
    let nothing = mounts_at(directory.path(), Duration::from_millis(200));
    let error = Supervised::start(&nothing).await.unwrap_err();
    assert!(matches!(error, ProcessError::NotReady { .. }), "{error}");
}
