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
use twinshore_protocol::{Caller, Errno, FileName, InodeNumber, Operation, Reply, Side};

use super::*;
use crate::service::state::tests::format;

struct Running {
    ready: Ready,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Running {
    async fn start(data_dir: &Path, listen: SocketAddr) -> Self {
        let (ready, is_ready) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let mut options = ServeOptions::new(data_dir.to_owned(), listen);
        options.http = Some("127.0.0.1:0".parse().unwrap());
        options.ready = Some(ready);
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
    let transport = Arc::new(GrpcTransport::new(&format!("http://{listen}")).unwrap());
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
    create_volume(&data_dir, &format()).unwrap();
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
    create_volume(&data_dir, &format()).unwrap();
    let running = Running::start(&data_dir, listen).await;
    let second = serve(ServeOptions::new(data_dir, listen), async {}).await;
    assert!(
        matches!(second, Err(ServeError::Directory(DirectoryError::InUse(_)))),
        "{second:?}"
    );
    running.stop().await;
}
