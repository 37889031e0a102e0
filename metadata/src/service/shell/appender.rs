//! The thread that owns the journal: one durable append at a time.

use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use twinshore_protocol::Position;

use super::ServeError;
use super::disk_space::{DiskSpace, Space};
use super::engine::Engine;
use super::metrics::Metrics;
use crate::journal::{Digest, Journal, JournalError, Tail};
use crate::service::recovery;
use crate::service::state::{AppendError, Input};

/// What the journal is to do.
pub(super) enum Job {
    /// Append a record.
    Append {
        tail: Tail,
        digest: Digest,
        bytes: Bytes,
    },
    /// Forget records before this one.
    Trim(Position),
}

/// Starts the thread. It ends when all senders are gone, or the journal has failed.
pub(super) fn start(
    mut journal: Box<dyn Journal>,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    space: DiskSpace,
) -> Result<(std_mpsc::Sender<Job>, JoinHandle<()>), ServeError> {
    let (sender, jobs) = std_mpsc::channel();
    let run = move || {
        for job in jobs {
            match job {
                Job::Append { tail, digest, bytes } => {
                    let result = if space.look() == Space::Exhausted {
                        Err(AppendError::Full)
                    } else {
                        let begun = Instant::now();
                        let result = recovery::append(journal.as_mut(), &tail, digest, &bytes);
                        metrics.append_seconds.observe(begun.elapsed().as_secs_f64());
                        result.map_err(classify)
                    };
                    let last = matches!(result, Err(AppendError::Final(_)));
                    engine.input(Input::Appended(result));
                    if last {
                        return;
                    }
                }
                Job::Trim(first) => match journal.trim(first) {
                    Ok(()) => {}
                    // A journal that cannot trim cannot be trusted with the next append, which will say so.
                    Err(error) => tracing::error!(%error, first = first.0, "the journal cannot be trimmed"),
                },
            }
        }
    };
    let thread = std::thread::Builder::new()
        .name("appender".into())
        .spawn(run)
        .map_err(ServeError::Thread)?;
    Ok((sender, thread))
}

/// Only a full disk is not final.
fn classify(error: JournalError) -> AppendError {
    match error {
        JournalError::Full(_) => AppendError::Full,
        other => {
            let mut text = other.to_string();
            let mut source = std::error::Error::source(&other);
            while let Some(cause) = source {
                text.push_str(": ");
                text.push_str(&cause.to_string());
                source = cause.source();
            }
            AppendError::Final(text)
        }
    }
}
