//! Reports, in batches: each costs a record in the journal.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};
use twinshore_protocol::replication::CopyReport;
use twinshore_protocol::session::{RequestError, Session};
use twinshore_protocol::{Caller, Operation, Reply};

/// Reports in one request.
const BATCH_MAX: usize = 256;

/// How long the first report of a batch waits for more while tasks are still running.
const LINGER: Duration = Duration::from_millis(20);

/// Requests under way. Slots are freed by the reply, so one at a time would cost a round trip for each batch.
const UNDER_WAY_MAX: usize = 8;

/// Sends what comes over the channel until it is closed, then waits for the replies. `is_idle` tells that nothing more
/// will come soon.
pub(crate) async fn send(
    session: Session,
    mut reports: mpsc::Receiver<CopyReport>,
    is_idle: impl Fn() -> bool + Send,
) {
    let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    while let Some(first) = reports.recv().await {
        let deadline = Instant::now() + LINGER;
        let mut batch = vec![first];
        while batch.len() < BATCH_MAX {
            let next = match reports.try_recv() {
                Ok(next) => Some(next),
                Err(_) if is_idle() => None,
                Err(_) => timeout_at(deadline, reports.recv()).await.ok().flatten(),
            };
            match next {
                Some(next) => batch.push(next),
                None => break,
            }
        }
        let Ok(permit) = Arc::clone(&under_way).acquire_owned().await else {
            return;
        };
        let request = session.request(Caller::ROOT, Operation::ReportCopies { reports: batch });
        tokio::spawn(async move {
            note(request).await;
            drop(permit);
        });
    }
    // All permits back means that all replies have come.
    let all = u32::try_from(UNDER_WAY_MAX).unwrap_or(u32::MAX);
    let _ = under_way.acquire_many(all).await;
}

/// A report that is lost costs only work: the service hands the task out again.
async fn note(request: impl Future<Output = Result<Reply, RequestError>>) {
    if let Err(error) = request.await {
        tracing::warn!(%error, "a report of copies was not answered: what it tells of will be done again");
    }
}
