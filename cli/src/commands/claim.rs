//! `twinshore claim`.

use std::time::Duration;

use serde_json::{Value, json};
use twinshore_protocol::claims::{
    AccessHold, AccessTo, Claim, ClaimDisplay, ClaimKey, ClaimRequest, CopySource, NewDirectory, PAGE_MAX,
};

use super::client::Client;
use crate::arguments::ServiceArguments;
use crate::claim_arguments::{ClaimCommand, ListArguments};
use crate::error::CommandError;
use crate::units::show_size;

/// How often to ask whether a copy is complete.
pub const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Lists, shows, makes or gives up.
pub async fn run(command: ClaimCommand) -> Result<(), CommandError> {
    match command {
        ClaimCommand::List(arguments) => list(&arguments).await,
        ClaimCommand::Show { service, key, json } => show(&service, &key, json).await,
        ClaimCommand::Create {
            service,
            key,
            path,
            size,
            from_claim,
            from_snapshot,
        } => {
            let source = from_claim
                .map(CopySource::Claim)
                .or(from_snapshot.map(CopySource::Snapshot));
            let request = ClaimRequest {
                display: ClaimDisplay {
                    namespace: String::new(),
                    name: key.name().to_owned(),
                },
                key,
                path,
                capacity_bytes: size,
                source,
                new: NewDirectory::default(),
            };
            create(&service, &request).await
        }
        ClaimCommand::Release { service, key, yes } => release(&service, &key, yes).await,
    }
}

async fn claims(client: &Client, arguments: &ListArguments) -> Result<Vec<Claim>, CommandError> {
    let (mut all, mut from) = (Vec::new(), None);
    loop {
        let asked = client
            .session()
            .list_claims(arguments.region.clone(), from, PAGE_MAX);
        let page = asked.await.map_err(CommandError::failed("list the claims"))?;
        all.extend(page.claims);
        if page.next.is_none() {
            return Ok(all);
        }
        from = page.next;
    }
}

async fn list(arguments: &ListArguments) -> Result<(), CommandError> {
    let client = Client::connect(&arguments.service, "claim list").await?;
    let claims = claims(&client, arguments).await?;
    if arguments.json {
        let values: Vec<_> = claims.iter().map(claim_json).collect();
        println!("{}", Value::from(values));
    } else {
        println!("{:>10}  {:>10}  {:<40}  CLAIM (PVC)", "USED", "SIZE", "DIRECTORY");
        for claim in &claims {
            println!(
                "{:>10}  {:>10}  {:<40}  {} ({}){}",
                show_size(claim.used_bytes),
                capacity(claim),
                claim.path.to_string(),
                claim.key,
                pvc(claim),
                if claim.ready { "" } else { ", being copied" },
            );
        }
    }
    client.close().await;
    Ok(())
}

async fn show(service: &ServiceArguments, key: &ClaimKey, as_json: bool) -> Result<(), CommandError> {
    let client = Client::connect(service, "claim show").await?;
    let claim = get(&client, key).await?;
    let (mut holds, mut from) = (Vec::new(), None);
    loop {
        let asked = client.session().list_access(None, from, PAGE_MAX);
        let page = asked.await.map_err(CommandError::failed("list who has access"))?;
        holds.extend(
            page.holds
                .into_iter()
                .filter(|hold| hold.to == AccessTo::Claim(key.clone())),
        );
        if page.next.is_none() {
            break;
        }
        from = page.next;
    }
    if as_json {
        let mut value = claim_json(&claim);
        value["access"] = holds.iter().map(hold_json).collect();
        println!("{value}");
    } else {
        println!("claim      {} ({})", claim.key, pvc(&claim));
        println!("directory  {} (inode {})", claim.path, claim.directory);
        println!("size       {}", capacity(&claim));
        println!(
            "used       {}, {} inodes",
            show_size(claim.used_bytes),
            claim.used_inodes
        );
        println!("others     {} more claims on the same directory", claim.others);
        if !claim.ready {
            println!("state      being copied");
        }
        for hold in &holds {
            println!(
                "access     {} of {} on node {}{}",
                hold.mode,
                hold.target,
                hold.node,
                if hold.counts { "" } else { " (which is gone)" }
            );
        }
    }
    client.close().await;
    Ok(())
}

async fn get(client: &Client, key: &ClaimKey) -> Result<Claim, CommandError> {
    let what = format!("show claim {key}");
    let asked = client.session().get_claim(key.clone());
    asked.await.map_err(CommandError::failed(what))
}

async fn create(service: &ServiceArguments, request: &ClaimRequest) -> Result<(), CommandError> {
    let client = Client::connect(service, "claim create").await?;
    let what = format!("claim {}", request.path);
    loop {
        let asked = client.session().claim_directory(request.clone());
        let claim = asked.await.map_err(CommandError::failed(what.clone()))?;
        if claim.ready {
            println!(
                "{}: claimed as {}, size {}, {} used",
                claim.path,
                claim.key,
                capacity(&claim),
                show_size(claim.used_bytes)
            );
            client.close().await;
            return Ok(());
        }
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn release(service: &ServiceArguments, key: &ClaimKey, yes: bool) -> Result<(), CommandError> {
    let client = Client::connect(service, "claim release").await?;
    let claim = get(&client, key).await?;
    let consequence = if claim.others == 0 {
        format!(
            "{}, {}, {} to the trash",
            claim.path,
            show_size(claim.used_bytes),
            if yes { "goes" } else { "would go" }
        )
    } else {
        format!("{} stays: {} more claims hold it", claim.path, claim.others)
    };
    if yes {
        let asked = client.session().release_claim(key.clone());
        let what = format!("release claim {key}");
        asked.await.map_err(CommandError::failed(what))?;
        println!("{key}: released; {consequence}");
    } else {
        println!("{key}: {consequence}; add --yes to do it");
    }
    client.close().await;
    Ok(())
}

fn capacity(claim: &Claim) -> String {
    if claim.capacity_bytes == 0 {
        "no limit".to_owned()
    } else {
        show_size(claim.capacity_bytes)
    }
}

fn pvc(claim: &Claim) -> String {
    format!("{}/{}", claim.display.namespace, claim.display.name)
}

fn claim_json(claim: &Claim) -> Value {
    json!({
        "key": claim.key.to_string(),
        "namespace": claim.display.namespace,
        "name": claim.display.name,
        "path": claim.path.to_string(),
        "directory": claim.directory.0,
        "capacity_bytes": claim.capacity_bytes,
        "used_bytes": claim.used_bytes,
        "used_inodes": claim.used_inodes,
        "created": claim.created.seconds,
        "ready": claim.ready,
        "others": claim.others,
    })
}

fn hold_json(hold: &AccessHold) -> Value {
    json!({
        "node": hold.node.to_string(),
        "target": hold.target.to_string(),
        "mode": hold.mode.to_string(),
        "since": hold.since.seconds,
        "counts": hold.counts,
    })
}
