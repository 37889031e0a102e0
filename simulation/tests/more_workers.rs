//! More workers, more throughput: the real service and workers copy between buckets that take their time, in simulated time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use twinshore_metadata::service::state::ServiceOptions;
use twinshore_protocol::format::{
    Compression, Durability, Encryption, FORMAT_VERSION, RegionFormat, VolumeFormat, VolumeSettings,
};
use twinshore_protocol::message::{Role, SessionDescription};
use twinshore_protocol::operation::NewObject;
use twinshore_protocol::operation::{FileCommit, FileWrite, NewInode};
use twinshore_protocol::session::{Session, SessionOptions, WithoutCaches};
use twinshore_protocol::{Caller, ExtentSource, InodeNumber, Operation, Reply, Side, Sides, VolumeId};
use twinshore_simulation::buckets::Buckets;
use twinshore_simulation::host::{Host, HostParts};
use twinshore_simulation::network::Network;
use twinshore_simulation::trace::Trace;
use twinshore_simulation::worker;
use twinshore_storage::object::{encode, object_key};

/// Objects to copy: so many that their copies take far longer than handing them out.
const OBJECTS: u64 = 800;

fn format() -> VolumeFormat {
    let region = |name: &str| RegionFormat {
        name: name.to_owned(),
        bucket: format!("file:///{name}"),
    };
    VolumeFormat {
        version: FORMAT_VERSION,
        volume: VolumeId([7; 16]),
        name: "simulated".to_owned(),
        encryption: Encryption::None,
        settings: VolumeSettings {
            primary: region("east"),
            target: Some(region("west")),
            replication_enabled: true,
            compression: Compression::None,
            durability: Durability::Close,
            inline_limit_bytes: 16 << 10,
            trash_retention_seconds: 0,
            synchronisation_interval_seconds: 0,
            bandwidth_limit_bytes_per_second: [0, 0],
        },
    }
}

/// Makes one file whose every part is an object of its own, in the primary bucket only.
async fn store_objects(session: &Session, buckets: &Buckets) {
    let inode = session.take_inode().await.unwrap();
    let create = Operation::Create {
        parent: InodeNumber::ROOT,
        name: "file".parse().unwrap(),
        new: NewInode {
            inode,
            mode: 0o644,
            umask: 0,
        },
        exclusive: true,
        truncate: false,
    };
    session.request(Caller::ROOT, create).await.unwrap();
    let (mut objects, mut writes) = (Vec::new(), Vec::new());
    for number in 0..OBJECTS {
        let content = Bytes::from(number.to_le_bytes().repeat(100));
        let encoded = encode(std::slice::from_ref(&content), Compression::None);
        let object = session.take_object().await.unwrap();
        buckets
            .content(Side::Primary)
            .tamper(&object_key(object), Some(encoded.body.clone()));
        let present = Sides::only(Side::Primary);
        objects.push(NewObject {
            object,
            stored_bytes: encoded.stored_bytes(),
            content_bytes: encoded.content_bytes,
            checksum: encoded.checksum,
            present,
        });
        let source = ExtentSource::Object {
            object,
            object_offset: 0,
            present,
        };
        writes.push(FileWrite {
            file_offset: number * 800,
            length: 800,
            source,
        });
    }
    let files = vec![FileCommit {
        inode,
        writes,
        modified: None,
        clear_privileges: false,
    }];
    session
        .request(Caller::ROOT, Operation::Commit { objects, files })
        .await
        .unwrap();
}

/// What the target is owed.
async fn owed(session: &Session) -> u64 {
    match session.request(Caller::ROOT, Operation::GetStatus).await {
        Ok(Reply::Status(status)) => status.replication[1].pending_objects,
        other => panic!("{other:?}"),
    }
}

/// The service listens a moment after it was started.
async fn connect(network: &Network, options: SessionOptions) -> Session {
    let transport = network.transport("client", 1);
    for _ in 0..100 {
        let attempt =
            Session::connect(Arc::clone(&transport), options.clone(), Arc::new(WithoutCaches)).await;
        if let Ok(session) = attempt {
            return session;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the service does not listen")
}

/// How long so many workers take for all objects.
async fn copied_by(workers: usize) -> Duration {
    let trace = Trace::new();
    let network = Network::new(1, trace.clone());
    let buckets = Buckets::new(1);
    buckets.claim(&format()).await.unwrap();
    let _host = Host::start(HostParts {
        seed: 1,
        trace,
        network: network.clone(),
        buckets: buckets.clone(),
        format: format(),
        options: ServiceOptions::default(),
    })
    .unwrap();
    let options = SessionOptions {
        volume: None,
        role: Role::Client,
        near: Side::Primary,
        task_slots: 0,
        description: SessionDescription::default(),
        request_deadline: Duration::from_secs(30),
    };
    let session = connect(&network, options).await;
    store_objects(&session, &buckets).await;
    assert_eq!(owed(&session).await, OBJECTS);
    let started = Instant::now();
    let mut running = Vec::new();
    for number in 0..workers {
        let node = format!("worker-{number}");
        running.push(
            worker::start(&network, &buckets, &node, Side::Primary)
                .await
                .unwrap(),
        );
    }
    while owed(&session).await > 0 {
        assert!(
            started.elapsed() < Duration::from_mins(5),
            "the copies do not end"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let took = started.elapsed();
    for worker in running {
        worker.stop().await;
    }
    took
}

#[tokio::test(start_paused = true)]
async fn two_workers_copy_in_half_the_time_and_four_in_a_quarter() {
    let one = copied_by(1).await;
    let two = copied_by(2).await;
    let four = copied_by(4).await;
    println!(
        "simulated seconds for {OBJECTS} copies: {one:?} by one worker, {two:?} by two, {four:?} by four"
    );
    assert!(two.mul_f64(1.8) < one, "{one:?} by one, {two:?} by two");
    assert!(four.mul_f64(3.2) < one, "{one:?} by one, {four:?} by four");
}
