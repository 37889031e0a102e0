//! `twinshore status`.

use twinshore_protocol::status::VolumeStatus;
use twinshore_protocol::{Operation, Reply};

use super::client::{Client, unexpected};
use crate::arguments::StatusArguments;
use crate::error::CommandError;
use crate::output;

/// Asks for the status of the volume.
pub async fn fetch(client: &Client) -> Result<VolumeStatus, CommandError> {
    let what = "get the status of the volume";
    match client.request(what, Operation::GetStatus).await? {
        Reply::Status(status) => Ok(*status),
        other => Err(unexpected(what, &other)),
    }
}

/// Shows the status.
pub async fn run(arguments: StatusArguments) -> Result<(), CommandError> {
    let client = Client::connect(&arguments.service, "status").await?;
    let status = fetch(&client).await?;
    client.close().await;
    if arguments.json {
        println!("{:#}", output::status_json(&status));
    } else {
        print!("{}", output::status_text(&status));
    }
    Ok(())
}
