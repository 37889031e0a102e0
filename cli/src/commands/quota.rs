//! `twinshore quota`.

use twinshore_protocol::{Operation, Reply};

use super::client::{Client, unexpected};
use crate::arguments::QuotaCommand;
use crate::error::CommandError;
use crate::output;

/// Sets or shows the limits of a directory.
pub async fn run(command: QuotaCommand) -> Result<(), CommandError> {
    match command {
        QuotaCommand::Set {
            service,
            path,
            size,
            inodes,
        } => {
            let client = Client::connect(&service, "quota set").await?;
            let directory = client.resolve(&path).await?;
            let operation = Operation::SetQuota {
                directory,
                limit_bytes: size,
                limit_inodes: inodes,
            };
            client
                .request(&format!("set the quota of {path}"), operation)
                .await?;
            show(&client, &path, directory).await?;
            client.close().await;
        }
        QuotaCommand::Get { service, path } => {
            let client = Client::connect(&service, "quota get").await?;
            let directory = client.resolve(&path).await?;
            show(&client, &path, directory).await?;
            client.close().await;
        }
    }
    Ok(())
}

async fn show(
    client: &Client,
    path: &str,
    directory: twinshore_protocol::InodeNumber,
) -> Result<(), CommandError> {
    let what = format!("get the usage of {path}");
    match client.request(&what, Operation::GetUsage { directory }).await? {
        Reply::DirectoryUsage(usage) => {
            println!("{path}: {}", output::usage_text(&usage));
            Ok(())
        }
        other => Err(unexpected(&what, &other)),
    }
}
