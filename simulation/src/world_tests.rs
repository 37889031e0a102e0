//! What a mount answers before the service does.
#![allow(clippy::unwrap_used)]

use twinshore_filesystem::vfs::{Found, OpenFlags};
use twinshore_protocol::attributes::{AttributeChanges, TimeChange};
use twinshore_protocol::operation::RenameMode;
use twinshore_protocol::{Attributes, Errno};

use super::*;
use crate::host::Crash;

const MODE: (u16, u16) = (0o644, 0o022);

/// A volume, and mounts of both regions.
async fn mounts() -> (Host, Vec<Vfs>) {
    let (trace, seed, started) = (Trace::new(), 1, Instant::now());
    let network = Network::new(seed, trace.clone());
    let buckets = Buckets::new(seed);
    let host = Host::start(HostParts {
        seed,
        trace: trace.clone(),
        network: network.clone(),
        format: format(),
        options: service_options(None),
    })
    .unwrap();
    let mut mounts = Vec::new();
    for node in [MOUNTS[2], MOUNTS[0]] {
        let kernel = mount(&network, &buckets, node, started, seed, None, &trace)
            .await
            .unwrap();
        mounts.push(kernel.vfs);
    }
    // Until a heartbeat is answered there is no lease.
    tokio::time::sleep(Duration::from_secs(3)).await;
    (host, mounts)
}

async fn directory(vfs: &Vfs, text: &str) -> InodeNumber {
    let made = vfs
        .make_directory(Caller::ROOT, InodeNumber::ROOT, name(text), 0o755, 0)
        .await;
    made.unwrap().attributes.inode
}

fn attributes(vfs: &Vfs, inode: InodeNumber) -> Attributes {
    vfs.cached_attributes(inode).unwrap().attributes
}

fn comparable(attributes: Attributes) -> Attributes {
    Attributes {
        content_version: twinshore_protocol::Position::ZERO,
        ..attributes
    }
}

#[tokio::test(start_paused = true)]
async fn names_are_changed_without_a_round_trip_and_are_what_the_service_records() {
    let (_host, mounts) = mounts().await;
    let (near, far) = (&mounts[1], &mounts[0]);
    let home = directory(far, "home").await;
    let begun = Instant::now();
    let mut files = Vec::new();
    for number in 0..20 {
        let file = name(&format!("file-{number}"));
        let created = far
            .create(
                Caller::ROOT,
                home,
                file,
                MODE.0,
                MODE.1,
                true,
                OpenFlags::default(),
            )
            .await
            .unwrap();
        files.push(created);
    }
    let below = far
        .make_directory(Caller::ROOT, home, name("below"), 0o755, 0)
        .await
        .unwrap();
    let below = below.attributes.inode;
    far.symbolic_link(Caller::ROOT, below, name("link"), "target".into())
        .await
        .unwrap();
    far.rename(
        Caller::ROOT,
        home,
        name("file-1"),
        home,
        name("moved"),
        RenameMode::NoReplace,
    )
    .await
    .unwrap();
    far.rename(
        Caller::ROOT,
        home,
        name("file-2"),
        home,
        name("file-3"),
        RenameMode::Replace,
    )
    .await
    .unwrap();
    far.unlink(Caller::ROOT, home, name("file-4")).await.unwrap();
    let refused = far.remove_directory(Caller::ROOT, home, name("below"));
    assert_eq!(
        begun.elapsed(),
        Duration::ZERO,
        "nothing has waited for the service"
    );
    assert_eq!(refused.await, Err(Errno::NotEmpty));
    far.unlink(Caller::ROOT, below, name("link")).await.unwrap();
    let changes = AttributeChanges {
        modified: Some(TimeChange::Now),
        mode: Some(0o700),
        ..AttributeChanges::default()
    };
    far.set_attributes(Caller::ROOT, below, changes).await.unwrap();
    let told = [home, below, files[1].0.attributes.inode].map(|inode| comparable(attributes(far, inode)));
    assert_eq!(told[0].size_bytes, 19 * 32);

    // Before anything is executed the other mount waits for it.
    let seen = near.attributes(Caller::ROOT, home).await.unwrap();
    assert_eq!(comparable(seen.attributes), told[0]);
    let found = near.lookup(Caller::ROOT, home, name("moved")).await.unwrap();
    assert!(matches!(found, Found::Entry(entry) if comparable(entry.attributes) == told[2]));
    let found = near.lookup(Caller::ROOT, home, name("file-4")).await.unwrap();
    assert!(matches!(found, Found::Absent(_)));
    let found = near.lookup(Caller::ROOT, home, name("below")).await.unwrap();
    assert!(matches!(found, Found::Entry(entry) if comparable(entry.attributes) == told[1]));
    far.fsync_directory(Caller::ROOT, home).await.unwrap();
    let after = [home, below, files[1].0.attributes.inode].map(|inode| comparable(attributes(far, inode)));
    assert_eq!(after, told, "a program sees the same before and after");
}

#[tokio::test(start_paused = true)]
async fn closing_and_syncing_wait_until_it_is_executed() {
    let (_host, mounts) = mounts().await;
    let far = &mounts[0];
    let home = directory(far, "home").await;
    let flags = OpenFlags::default();
    let (made, opened) = far
        .create(Caller::ROOT, home, name("file"), MODE.0, MODE.1, true, flags)
        .await
        .unwrap();
    let begun = Instant::now();
    assert_eq!(far.try_flush(made.attributes.inode, opened.handle, 0), None);
    far.flush(Caller::ROOT, made.attributes.inode, opened.handle, 0)
        .await
        .unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(2 * latency_ms(Side::Target)));
    far.unlink(Caller::ROOT, home, name("file")).await.unwrap();
    let begun = Instant::now();
    far.fsync_directory(Caller::ROOT, home).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(2 * latency_ms(Side::Target)));
}

#[tokio::test(start_paused = true)]
async fn a_cut_line_ends_early_answers_and_what_was_answered_is_executed_afterwards() {
    let (host, mounts) = mounts().await;
    let (near, far) = (&mounts[1], &mounts[0]);
    let home = directory(far, "home").await;
    let flags = OpenFlags::default();
    let create = |text: &str| far.create(Caller::ROOT, home, name(text), MODE.0, MODE.1, true, flags);
    let begun = Instant::now();
    create("first").await.unwrap();
    create("second").await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO);
    host.crash(Crash::BeforeAppend, Duration::from_secs(2)).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    create("third").await.unwrap();
    assert!(
        begun.elapsed() > Duration::from_secs(1),
        "the third waits for the service"
    );
    for text in ["first", "second", "third"] {
        let found = near.lookup(Caller::ROOT, home, name(text)).await.unwrap();
        assert!(matches!(found, Found::Entry(_)), "{text}");
    }
    far.fsync_directory(Caller::ROOT, home).await.unwrap();
}
