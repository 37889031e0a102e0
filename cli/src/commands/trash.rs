//! `twinshore trash`.

use std::time::SystemTime;

use twinshore_protocol::reply::TrashItem;
use twinshore_protocol::{InodeNumber, Operation, Reply, Timestamp};

use super::client::{Client, unexpected};
use crate::arguments::TrashCommand;
use crate::error::CommandError;
use crate::units::show_size;

/// How many items are asked for at a time.
const PAGE: u32 = 1000;

/// Lists, restores or purges.
pub async fn run(command: TrashCommand) -> Result<(), CommandError> {
    match command {
        TrashCommand::List { service } => {
            let client = Client::connect(&service, "trash list").await?;
            println!(
                "{:>12}  {:>20}  {:>10}  NAME (removed from directory)",
                "INODE", "REMOVED (Unix time)", "SIZE"
            );
            each(&client, |item| {
                println!(
                    "{:>12}  {:>20}  {:>10}  {} ({})",
                    item.inode.0,
                    item.removed.seconds,
                    show_size(item.size_bytes),
                    item.name,
                    item.parent
                );
            })
            .await?;
            client.close().await;
        }
        TrashCommand::Restore { service, inode, to } => {
            let client = Client::connect(&service, "trash restore").await?;
            let to = match &to {
                Some(path) => Some(client.resolve_parent(path).await?),
                None => None,
            };
            let operation = Operation::RestoreTrash {
                inode: InodeNumber(inode),
                to,
            };
            client
                .request(&format!("restore inode {inode}"), operation)
                .await?;
            client.close().await;
        }
        TrashCommand::Purge {
            service,
            older_than_seconds,
            yes,
        } => {
            let client = Client::connect(&service, "trash purge").await?;
            let before = now().plus_seconds(-i64::try_from(older_than_seconds).unwrap_or(i64::MAX));
            let (mut count, mut size_bytes) = (0_u64, 0_u64);
            each(&client, |item| {
                if item.removed < before {
                    count += 1;
                    size_bytes += item.size_bytes;
                }
            })
            .await?;
            if yes {
                client
                    .request("purge the trash", Operation::PurgeTrash { before })
                    .await?;
                println!(
                    "trash: removing {count} items, {}, in the background",
                    show_size(size_bytes)
                );
            } else {
                println!(
                    "trash: would remove {count} items, {}; add --yes to do it",
                    show_size(size_bytes)
                );
            }
            client.close().await;
        }
    }
    Ok(())
}

async fn each(client: &Client, mut visit: impl FnMut(&TrashItem)) -> Result<(), CommandError> {
    let what = "list the trash";
    let mut after = None;
    loop {
        match client
            .request(what, Operation::ListTrash { after, limit: PAGE })
            .await?
        {
            Reply::Trash(items) => {
                let Some(last) = items.last() else { return Ok(()) };
                after = Some((last.removed, last.inode));
                items.iter().for_each(&mut visit);
            }
            other => return Err(unexpected(what, &other)),
        }
    }
}

fn now() -> Timestamp {
    Timestamp::since_epoch(
        SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
}
