//! How a service ends.
//!
//! 1. Nothing more is accepted; what is executed is committed, or left to its clients, who ask the next service.
//! 2. The rest of the journal goes to the buckets, as far as they take it in time. Not after a failure: what a failed service
//!    believes need not be true.
//! 3. The view is made durable, and the directory is free for the next service.

use crate::journal::directory::DirectoryLock;
use std::sync::Arc;
use std::thread::JoinHandle as ThreadHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::engine::{Ending, Engine};
use super::{ServeError, archiving};

/// How long a stop waits for what is executed to be committed.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// How long streams may take to end after a stop, in all.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How long a task that limits itself may take to end.
const JOIN_DEADLINE: Duration = Duration::from_secs(20);

/// The parts of a running service.
pub(super) struct Running {
    pub engine: Arc<Engine>,
    /// Tells all tasks that the end has come.
    pub stopping: watch::Sender<bool>,
    pub ticker: JoinHandle<()>,
    pub end_archive: oneshot::Sender<archiving::Ending>,
    pub archiver: JoinHandle<()>,
    pub http_server: Option<JoinHandle<()>>,
    pub server: JoinHandle<Result<(), tonic::transport::Error>>,
    pub appender: ThreadHandle<()>,
    /// Of the data directory.
    pub lock: DirectoryLock,
}

impl Running {
    /// Ends it. An error if it did not end because it was asked to.
    pub async fn end(self) -> Result<(), ServeError> {
        let Self {
            engine,
            stopping,
            ticker,
            end_archive,
            archiver,
            http_server,
            server,
            appender,
            lock,
        } = self;
        let _ = stopping.send(true);
        ticker.abort();
        let mut ending = drained(&engine).await;
        let farewell = match &ending {
            Some(Ending::Stopped) => archiving::Ending::StoreEverything,
            Some(Ending::Failed(_)) | None => archiving::Ending::AtOnce,
        };
        // It may have ended by itself, with an error that was told.
        let _ = end_archive.send(farewell);
        join("the archiver", archiver).await;
        if let Some(http_server) = http_server {
            join("the HTTP server", http_server).await;
        }
        let server_ended = tokio::time::timeout(STOP_DEADLINE, server).await;
        let threads = tokio::task::spawn_blocking(move || (appender.join(), engine.persist()));
        match threads.await {
            Ok((Ok(()), Ok(_))) => {}
            Ok((Ok(()), Err(error))) => ending = Some(Ending::Failed(error.to_string())),
            Ok((Err(_), _)) | Err(_) => ending = Some(Ending::Failed("one of its threads panicked".into())),
        }
        drop(lock);
        if let Some(Ending::Failed(reason)) = ending {
            return Err(ServeError::Stopped(reason));
        }
        match server_ended {
            Ok(Ok(Err(error))) => Err(ServeError::Server(error)),
            Ok(Err(_)) => Err(ServeError::Stopped("the server for clients panicked".into())),
            // After the deadline, a stream that does not end is cut with the process.
            Ok(Ok(Ok(()))) | Err(_) => Ok(()),
        }
    }
}

/// Stops the engine: when this returns, nothing more is committed.
async fn drained(engine: &Engine) -> Option<Ending> {
    let mut ending = engine.ending();
    engine.stop();
    if tokio::time::timeout(DRAIN_DEADLINE, ending.wait_for(Option::is_some))
        .await
        .is_err()
    {
        tracing::warn!(
            "the journal is too slow: what is not committed is left to the clients, who ask again"
        );
        engine.end();
    }
    ending.borrow().clone()
}

async fn join(what: &'static str, task: JoinHandle<()>) {
    match tokio::time::timeout(JOIN_DEADLINE, task).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "{what} failed"),
        Err(_) => tracing::warn!("{what} did not stop in time"),
    }
}
