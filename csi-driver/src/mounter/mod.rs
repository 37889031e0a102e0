//! The mounter: one process for each volume that is mounted on this node, in a pod of its own, without privileges. It outlives the plugin: the plugin may
//! be upgraded or crash while pods read and write.
//!
//! It knows no Kubernetes and opens nothing: everything comes from the plugin over one line, which the mounter makes (the plugin's directory is root's,
//! so nobody else can listen there).
//!
//! # Failure cases
//!
//! *A mount process ends before its mount*: another one goes on with the same device and logbook ([`kept`]); programs notice a pause. *It fails again and again*: the
//! device is closed, here and at the plugin, so that programs get `ENOTCONN` instead of waiting; the plugin mounts anew when the next pod needs the volume.
//! *The mounter ends*: its processes write everything out and end; the plugin has copies of all descriptors, and gives them to the next mounter.
//! *Plugin and mounter end at the same time*: the last descriptor is closed, and all mounts are dead.

mod flags;
pub mod kept;
pub mod link;
mod message;
mod mounts;
mod process;
mod restarts;
mod socket;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use self::kept::Kept;
use self::message::{Command, Event, Request, VERSION};
pub use self::message::{MountKey, SecretData};
pub use self::mounts::{Directories, Mounts};
use self::socket::Socket;

/// How often a plugin that is not there is looked for.
const CONNECT_INTERVAL: Duration = Duration::from_secs(1);

/// Events that wait to be sent. The plugin has a few requests under way, and reads all the time.
const EVENTS_MAX: usize = 64;

/// Serves the plugin, and the next one, until the future is dropped.
pub async fn run(plugin: PathBuf, mounts: Arc<Mounts>) {
    let mut told = false;
    loop {
        match Socket::connect(&plugin) {
            Ok(socket) => {
                told = false;
                if let Err(error) = serve(&socket, &mounts).await {
                    tracing::warn!("the line to the plugin broke: {error}");
                } else {
                    tracing::info!("the plugin has ended; what is mounted goes on");
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::info!("waiting for the plugin at {}: {error}", plugin.display());
                }
            }
        }
        tokio::time::sleep(CONNECT_INTERVAL).await;
    }
}

async fn serve(socket: &Socket, mounts: &Arc<Mounts>) -> std::io::Result<()> {
    let (events, mut waiting) = mpsc::channel(EVENTS_MAX);
    let kept = mounts.tell(events.clone());
    let served: Vec<MountKey> = kept.iter().map(|(key, _)| key.clone()).collect();
    tracing::info!(mounts = served.len(), "connected to the plugin");
    let hello = Event::Hello {
        version: VERSION,
        mounts: served,
    };
    socket.send(&hello, &[]).await?;
    for (key, kept) in kept {
        socket.send(&Event::Kept { key }, &kept.descriptors()).await?;
    }
    loop {
        tokio::select! {
            received = socket.receive::<Request>() => {
                let Some((request, descriptors)) = received? else { return Ok(()) };
                let mounts = Arc::clone(mounts);
                let events = events.clone();
                tokio::spawn(async move {
                    let Request { number, command } = request;
                    let result = match command {
                        Command::Start { key, mount_point, node, secret } => match Kept::received(descriptors) {
                            Some(kept) => mounts.start(key, &mount_point, &node, &secret, kept).await,
                            None => Err("a mount without its device and its logbook".to_owned()),
                        },
                        Command::Renew { key, secret } => mounts.renew(&key, &secret),
                        Command::Finish { key } => mounts.finish(&key).await,
                        Command::Kill { key } => mounts.kill(&key).await,
                    };
                    // A plugin that has gone asks again.
                    let _ = events.send(Event::Answer { number, result }).await;
                });
            }
            Some(event) = waiting.recv() => socket.send(&event, &[]).await?,
        }
    }
}

#[cfg(test)]
mod keeping_tests;
