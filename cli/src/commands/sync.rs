//! `twinshore sync`.

use std::time::Duration;

use twinshore_protocol::Operation;

use super::client::Client;
use super::status;
use crate::arguments::SyncArguments;
use crate::error::CommandError;

/// How often progress is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Asks for a full synchronisation and, if wanted, waits for its end.
pub async fn run(arguments: SyncArguments) -> Result<(), CommandError> {
    let client = Client::connect(&arguments.service, "sync").await?;
    let before = status::fetch(&client).await?.synchronisation.finished;
    client
        .request(
            "ask for a full synchronisation",
            Operation::RequestSynchronisation,
        )
        .await?;
    if !arguments.wait {
        println!("sync: asked for; `twinshore status` shows its progress");
        client.close().await;
        return Ok(());
    }
    let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
    let synchronisation = loop {
        interval.tick().await;
        let now = status::fetch(&client).await?.synchronisation;
        if !now.running && now.finished > before {
            break now;
        }
        println!(
            "sync: {} of {} objects checked",
            now.counts.objects_checked, now.objects_total
        );
    };
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
