//! The whole service over gRPC on loopback, with a journal and a view on disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use twinshore_protocol::message::{Role, SessionDescription};
use twinshore_protocol::operation::NewInode;
use twinshore_protocol::session::{GrpcTransport, RequestError, Session, SessionOptions, WithoutCaches};
use twinshore_protocol::{Caller, Errno, FileName, InodeNumber, Operation, Position, Reply, Side};
use twinshore_storage::fault::{Faults, FaultyBucket};
use twinshore_storage::memory::MemoryBucket;

use super::*;
use crate::archive;
use crate::journal::Journal;
use crate::service::state::tests::format;
use crate::view::View;

struct Running {
    ready: Ready,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    async fn start(data_dir: &Path, listen: SocketAddr) -> Self {
        Self::start_with(data_dir, listen, [None, None]).await
    }

    async fn start_with(data_dir: &Path, listen: SocketAddr, buckets: [Option<Arc<dyn Bucket>>; 2]) -> Self {
        let (ready, is_ready) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let mut options = ServeOptions::new(data_dir.to_owned(), listen);
        options.http = Some("127.0.0.1:0".parse().unwrap());
        options.ready = Some(ready);
        options.buckets = buckets;
        let task = tokio::spawn(serve(options, async move {
            let _ = stopped.await;
        }));
        Self {
            ready: is_ready.await.expect("it starts"),
            stop,
            task,
        }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(Duration::from_secs(30), self.task)
            .await
            .expect("it stops")
            .unwrap()
            .unwrap();
    }
}

async fn connect(listen: SocketAddr) -> Session {
    let options = SessionOptions {
        volume: Some(format().volume),
        role: Role::Client,
        near: Side::Primary,
        task_slots: 0,
        description: SessionDescription::default(),
        request_deadline: Duration::from_mins(1),
    };
    let transport = Arc::new(GrpcTransport::new(&format!("http://{listen}"), None).unwrap());
    Session::connect(transport, options, Arc::new(WithoutCaches))
        .await
        .unwrap()
}

fn name(text: &str) -> FileName {
    text.parse().unwrap()
}

async fn create(session: &Session, text: &str) -> Result<Reply, RequestError> {
    let new = NewInode {
        inode: session.take_inode().await?,
        mode: 0o644,
        umask: 0,
    };
    let (parent, name) = (InodeNumber::ROOT, name(text));
    let operation = Operation::Create {
        parent,
        name,
        new,
        exclusive: true,
        truncate: false,
    };
    session.request(Caller::ROOT, operation).await
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_made_over_grpc_are_there_after_a_restart_and_the_session_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("metadata");
    create_volume(&data_dir, &format(), VolumeLimits::default()).unwrap();
    let running = Running::start(&data_dir, "127.0.0.1:0".parse().unwrap()).await;
    let listen = running.ready.listen;
    let session = connect(listen).await;
    let many = (0..500).map(|index| {
        let session = session.clone();
        async move { create(&session, &format!("file{index}")).await }
    });
    for result in futures::future::join_all(many).await {
        assert!(
            matches!(result, Ok(Reply::Created { new: true, .. })),
            "{result:?}"
        );
    }

    let http = running.ready.http.unwrap();
    assert!(get(http, "/healthz").await.contains("ok"));
    let metrics = get(http, "/metrics").await;
    assert!(
        metrics.contains("twinshore_metadata_operations_total{kind=\"namespace\"} 500"),
        "{metrics}"
    );
    assert!(
        metrics.contains("twinshore_metadata_append_seconds_count"),
        "{metrics}"
    );

    running.stop().await;
    let again = Running::start(&data_dir, listen).await;
    assert!(matches!(
        create(&session, "file0").await,
        Err(RequestError::Failed(Errno::Exists))
    ));
    let lookup = Operation::Lookup {
        parent: InodeNumber::ROOT,
        name: name("file499"),
    };
    assert!(matches!(
        session.request(Caller::ROOT, lookup).await,
        Ok(Reply::Entry(_))
    ));
    session.close().await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_graceful_stop_either_bucket_alone_restores_everything_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("metadata");
    create_volume(&data_dir, &format(), VolumeLimits::default()).unwrap();
    let buckets = [MemoryBucket::new(), MemoryBucket::new()];
    for bucket in &buckets {
        archive::claim_bucket(bucket, &format()).await.unwrap();
    }
    let given = buckets
        .clone()
        .map(|bucket| Some(Arc::new(bucket) as Arc<dyn Bucket>));
    let running = Running::start_with(&data_dir, "127.0.0.1:0".parse().unwrap(), given).await;
    let mut status = running.ready.archive.status();
    // What comes now comes after the first run and the first checkpoint: it would wait for the next interval.
    let begun = status.wait_for(|status| status.checkpoint() > Position::ZERO);
    tokio::time::timeout(Duration::from_secs(30), begun)
        .await
        .expect("the archive begins")
        .unwrap();
    let session = connect(running.ready.listen).await;
    for index in 0..20 {
        create(&session, &format!("late{index}")).await.unwrap();
    }
    session.close().await;
    running.stop().await;
    let (position, names) = content(&data_dir);
    assert_eq!(names, 20);
    for (index, bucket) in buckets.iter().enumerate() {
        let path = directory.path().join(format!("restored{index}"));
        let restored = archive::restore(bucket, &path).await.unwrap();
        assert_eq!((restored.position, content(&path).1), (position, names));
    }
}

/// The last record of a data directory, and how many names there are in the root.
fn content(data_dir: &Path) -> (Position, usize) {
    let DataDirectory {
        format,
        mut journal,
        mut view,
        ..
    } = DataDirectory::open(data_dir, None, DirectoryOptions::default()).unwrap();
    let last = journal.tail().unwrap().position;
    recovery::recover(&mut journal, &mut view, format.volume).unwrap();
    (last, view.scan(b"D", b"E", usize::MAX).unwrap().len())
}

#[tokio::test]
async fn a_bucket_that_does_not_answer_holds_a_stop_up_only_for_a_while() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("metadata");
    create_volume(&data_dir, &format(), VolumeLimits::default()).unwrap();
    let bucket = MemoryBucket::new();
    archive::claim_bucket(&bucket, &format()).await.unwrap();
    let faulty = FaultyBucket::new(Arc::new(bucket), 1);
    faulty.set(Faults {
        down: true,
        ..Faults::default()
    });
    let given: [Option<Arc<dyn Bucket>>; 2] = [Some(Arc::new(faulty)), None];
    let running = Running::start_with(&data_dir, "127.0.0.1:0".parse().unwrap(), given).await;
    running.stop().await;
}

#[tokio::test]
async fn a_volume_has_the_limits_that_it_was_made_with() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("metadata");
    let limits = VolumeLimits {
        bytes: Some(5 << 30),
        inodes: Some(2),
    };
    create_volume(&data_dir, &format(), limits).unwrap();
    let running = Running::start(&data_dir, "127.0.0.1:0".parse().unwrap()).await;
    let session = connect(running.ready.listen).await;
    let usage = Operation::StatFileSystem {
        inode: InodeNumber::ROOT,
    };
    let Ok(Reply::FileSystem(usage)) = session.request(Caller::ROOT, usage).await else {
        panic!("no answer")
    };
    assert_eq!(
        (usage.limit_bytes, usage.used_inodes, usage.limit_inodes),
        (Some(5 << 30), 1, Some(2))
    );
    create(&session, "fits").await.unwrap();
    let full = create(&session, "does not").await;
    assert!(
        matches!(full, Err(RequestError::Failed(Errno::NoSpace))),
        "{full:?}"
    );
    session.close().await;
    running.stop().await;
}

#[tokio::test]
async fn a_directory_without_a_volume_and_a_second_service_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let listen: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let empty = serve(ServeOptions::new(directory.path().join("none"), listen), async {}).await;
    assert!(
        matches!(empty, Err(ServeError::Directory(DirectoryError::NoVolume(_)))),
        "{empty:?}"
    );
    let data_dir = directory.path().join("metadata");
    create_volume(&data_dir, &format(), VolumeLimits::default()).unwrap();
    let running = Running::start(&data_dir, listen).await;
    let second = serve(ServeOptions::new(data_dir, listen), async {}).await;
    assert!(
        matches!(second, Err(ServeError::Directory(DirectoryError::InUse(_)))),
        "{second:?}"
    );
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_and_snapshots_over_grpc_are_there_after_a_restart() {
    use twinshore_protocol::claims::{
        AccessMode, AccessTo, ClaimDisplay, ClaimKey, ClaimRequest, CopySource, NewDirectory, Refused,
    };
    use twinshore_protocol::session::ClaimError;

    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("metadata");
    create_volume(&data_dir, &format(), VolumeLimits::default()).unwrap();
    let running = Running::start(&data_dir, "127.0.0.1:0".parse().unwrap()).await;
    let listen = running.ready.listen;
    let session = connect(listen).await;
    let request = |key: &str, path: &str, source| ClaimRequest {
        key: key.parse().unwrap(),
        display: ClaimDisplay {
            namespace: "team".into(),
            name: "data".into(),
        },
        path: path.parse().unwrap(),
        capacity_bytes: 1 << 30,
        source,
        new: NewDirectory::default(),
    };
    let first = request("east/pvc-1", "/team/data", None);
    let made = session.claim_directory(first.clone()).await.unwrap();
    let key: ClaimKey = "east/pvc-1".parse().unwrap();
    let snapshot = "east/snap-1".parse().unwrap();
    let taken = session.create_snapshot(snapshot, key.clone()).await.unwrap();
    assert!(taken.ready);
    let (to, node) = (AccessTo::Claim(key.clone()), "east/n1".parse().unwrap());
    let target = "pod".parse().unwrap();
    let refused = session
        .hold_access(to, node, target, AccessMode::ReadWrite)
        .await
        .unwrap_err();
    assert!(matches!(&refused, ClaimError::Refused(why) if matches!(**why, Refused::NoMount(_))));
    session.close().await;
    running.stop().await;

    let running = Running::start(&data_dir, "127.0.0.1:0".parse().unwrap()).await;
    let session = connect(running.ready.listen).await;
    assert_eq!(session.claim_directory(first).await.unwrap(), made);
    let source = Some(CopySource::Snapshot("east/snap-1".parse().unwrap()));
    let restored = request("east/pvc-2", "/team/restored", source);
    assert!(session.claim_directory(restored).await.unwrap().ready);
    assert_eq!(session.list_claims(None, None, 10).await.unwrap().claims.len(), 2);
    session.release_claim(key).await.unwrap();
    session
        .delete_snapshot("east/snap-1".parse().unwrap())
        .await
        .unwrap();
    let left = session.list_snapshots(None, None, None, 10).await.unwrap();
    assert_eq!((left.snapshots.len(), left.next), (0, None));
    session.close().await;
    running.stop().await;
}
