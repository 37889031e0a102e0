//! `twinshore sync`.

use std::time::{Duration, Instant};

use twinshore_protocol::Operation;
use twinshore_protocol::status::SynchronisationStatus;

use super::client::Client;
use super::status;
use super::workers::{self, WorkerWatch};
use crate::arguments::SyncArguments;
use crate::error::CommandError;

/// How often progress is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Asks for a full synchronisation and, if wanted, waits for its end.
pub async fn run(arguments: SyncArguments) -> Result<(), CommandError> {
    let client = Client::connect(&arguments.service, "sync").await?;
    let before = status::fetch(&client).await?;
    client
        .request(
            "ask for a full synchronisation",
            Operation::RequestSynchronisation,
        )
        .await?;
    if !arguments.wait {
        println!("sync: asked for; `twinshore status` shows its progress");
        if !workers::is_any(&before.sessions) {
            println!("sync: {}", workers::advice(&arguments.service.address));
        }
        client.close().await;
        return Ok(());
    }
    let synchronisation = wait_for_end(
        &client,
        &arguments.service.address,
        before.synchronisation.finished,
    )
    .await?;
    client.close().await;
    let counts = synchronisation.counts;
    println!(
        "sync: finished: {} objects checked, {} checksums verified, {} missing and {} damaged queued again, \
         {} orphans removed, {} lost",
        counts.objects_checked,
        counts.checksums_verified,
        counts.missing,
        counts.damaged,
        counts.orphans_removed,
        counts.lost
    );
    if counts.lost > 0 {
        return Err(CommandError::Usage(format!(
            "{} objects are in neither bucket: reads of them fail; `twinshore status` and the worker's log name them",
            counts.lost
        )));
    }
    Ok(())
}

async fn wait_for_end(
    client: &Client,
    service: &str,
    finished_before: Option<twinshore_protocol::Timestamp>,
) -> Result<SynchronisationStatus, CommandError> {
    let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
    let mut watch = WorkerWatch::default();
    let started = Instant::now();
    let mut told = String::new();
    loop {
        interval.tick().await;
        let now = status::fetch(client).await?;
        if !now.synchronisation.running && now.synchronisation.finished > finished_before {
            return Ok(now.synchronisation);
        }
        let progress = progress(&now.synchronisation, started.elapsed());
        if progress != told {
            println!("sync: {progress}");
            told = progress;
        }
        watch.look(&now, service, Instant::now())?;
    }
}

/// How far it has come, in objects, in percent, and in objects a second.
fn progress(synchronisation: &SynchronisationStatus, elapsed: Duration) -> String {
    let checked = synchronisation.counts.objects_checked;
    // Objects that are made while it runs are checked too.
    let total = synchronisation.objects_total.max(checked);
    let percent = (checked * 100).checked_div(total).unwrap_or(100);
    let rate = checked / elapsed.as_secs().max(1);
    format!("{checked} of {total} objects checked ({percent} %), {rate} objects/s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_has_units_and_never_exceeds_the_whole() {
        let mut synchronisation = SynchronisationStatus {
            objects_total: 400,
            ..SynchronisationStatus::default()
        };
        synchronisation.counts.objects_checked = 100;
        assert_eq!(
            progress(&synchronisation, Duration::from_secs(4)),
            "100 of 400 objects checked (25 %), 25 objects/s"
        );
        synchronisation.counts.objects_checked = 500;
        assert_eq!(
            progress(&synchronisation, Duration::ZERO),
            "500 of 500 objects checked (100 %), 500 objects/s"
        );
        synchronisation = SynchronisationStatus::default();
        assert!(progress(&synchronisation, Duration::ZERO).contains("(100 %)"));
    }
}
