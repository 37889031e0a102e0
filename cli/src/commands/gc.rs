//! `twinshore gc`.

use std::time::{Duration, Instant};

use twinshore_protocol::Operation;
use twinshore_protocol::status::VolumeStatus;

use super::client::Client;
use super::status;
use super::workers::{self, WorkerWatch};
use crate::arguments::GcArguments;
use crate::error::CommandError;
use crate::output::compaction_text;
use crate::units::show_size;

/// How often progress is shown.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Shows what is to be tidied up and, if wanted, has it done.
pub async fn run(arguments: GcArguments) -> Result<(), CommandError> {
    let GcArguments {
        service,
        compact,
        wait,
    } = arguments;
    let client = Client::connect(&service, "gc").await?;
    let before = status::fetch(&client).await?;
    println!("gc: {}", compaction_text(&before.compaction));
    for side in &before.replication {
        println!(
            "gc: {} objects wait to be deleted from the {} bucket",
            side.pending_deletions, side.side
        );
    }
    if compact {
        request(&client).await?;
        if wait {
            wait_for_end(&client, &service.address, &before).await?;
        } else {
            println!("gc: compaction asked for; `twinshore status` shows its progress");
            if !workers::is_any(&before.sessions) {
                println!("gc: {}", workers::advice(&service.address));
            }
        }
    }
    client.close().await;
    Ok(())
}

async fn request(client: &Client) -> Result<(), CommandError> {
    client
        .request("ask for a compaction", Operation::RequestCompaction)
        .await?;
    Ok(())
}

async fn wait_for_end(client: &Client, service: &str, before: &VolumeStatus) -> Result<(), CommandError> {
    let mut interval = tokio::time::interval(PROGRESS_INTERVAL);
    let mut watch = WorkerWatch::default();
    let mut epoch = before.epoch;
    let mut base = before.compaction;
    let mut told = String::new();
    loop {
        interval.tick().await;
        let now = status::fetch(client).await?;
        if now.epoch != epoch {
            // The service was restarted: it forgot, and counts from 0.
            epoch = now.epoch;
            base = twinshore_protocol::status::CompactionStatus::default();
            request(client).await?;
            continue;
        }
        let compaction = now.compaction;
        let done = format!(
            "{} extents, {}, rewritten; {} sparse objects with {} left, {} fragmented files",
            compaction
                .rewritten_extents
                .saturating_sub(base.rewritten_extents),
            show_size(compaction.rewritten_bytes.saturating_sub(base.rewritten_bytes)),
            compaction.sparse_objects,
            show_size(compaction.sparse_bytes),
            compaction.fragmented_files
        );
        if !compaction.running {
            println!("gc: compaction finished: {done}");
            return Ok(());
        }
        let text = format!("gc: {} rows looked at; {done}", compaction.rows_looked_at);
        if text != told {
            println!("{text}");
            told = text;
        }
        watch.look(&now, service, Instant::now())?;
    }
}
