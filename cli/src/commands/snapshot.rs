//! `twinshore snapshot`.

use serde_json::{Value, json};
use twinshore_protocol::claims::{ClaimKey, PAGE_MAX, Snapshot, SnapshotKey};

use super::claim::ASK_AGAIN;
use super::client::Client;
use crate::arguments::ServiceArguments;
use crate::claim_arguments::{ListArguments, SnapshotCommand};
use crate::error::CommandError;
use crate::units::show_size;

/// Lists, makes or deletes.
pub async fn run(command: SnapshotCommand) -> Result<(), CommandError> {
    match command {
        SnapshotCommand::List(arguments) => list(&arguments).await,
        SnapshotCommand::Create { service, key, claim } => create(&service, &key, &claim).await,
        SnapshotCommand::Delete { service, key } => {
            let client = Client::connect(&service, "snapshot delete").await?;
            let what = format!("delete snapshot {key}");
            let asked = client.session().delete_snapshot(key);
            asked.await.map_err(CommandError::failed(what))?;
            client.close().await;
            Ok(())
        }
    }
}

async fn list(arguments: &ListArguments) -> Result<(), CommandError> {
    let client = Client::connect(&arguments.service, "snapshot list").await?;
    let (mut all, mut from) = (Vec::new(), None);
    loop {
        let region = arguments.region.clone();
        let asked = client.session().list_snapshots(region, None, from, PAGE_MAX);
        let page = asked.await.map_err(CommandError::failed("list the snapshots"))?;
        all.extend(page.snapshots);
        if page.next.is_none() {
            break;
        }
        from = page.next;
    }
    if arguments.json {
        let values: Vec<_> = all.iter().map(snapshot_json).collect();
        println!("{}", Value::from(values));
    } else {
        println!(
            "{:>10}  {:>10}  {:>20}  SNAPSHOT (of claim, directory)",
            "SIZE", "INODES", "MADE (Unix time)"
        );
        for snapshot in &all {
            println!(
                "{:>10}  {:>10}  {:>20}  {} ({}, {}){}",
                show_size(snapshot.size_bytes),
                snapshot.inodes,
                snapshot.created.seconds,
                snapshot.key,
                snapshot.source,
                snapshot.path,
                if snapshot.ready { "" } else { ", not complete" },
            );
        }
    }
    client.close().await;
    Ok(())
}

async fn create(service: &ServiceArguments, key: &SnapshotKey, claim: &ClaimKey) -> Result<(), CommandError> {
    let client = Client::connect(service, "snapshot create").await?;
    let what = format!("make snapshot {key}");
    loop {
        let asked = client.session().create_snapshot(key.clone(), claim.clone());
        let snapshot = asked.await.map_err(CommandError::failed(what.clone()))?;
        if snapshot.ready {
            println!(
                "{}: {} in {} inodes of {}",
                snapshot.key,
                show_size(snapshot.size_bytes),
                snapshot.inodes,
                snapshot.path
            );
            client.close().await;
            return Ok(());
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

fn snapshot_json(snapshot: &Snapshot) -> Value {
    json!({
        "key": snapshot.key.to_string(),
        "source": snapshot.source.to_string(),
        "path": snapshot.path.to_string(),
        "created": snapshot.created.seconds,
        "size_bytes": snapshot.size_bytes,
        "inodes": snapshot.inodes,
        "ready": snapshot.ready,
    })
}
