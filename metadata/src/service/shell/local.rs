//! Streams from within the process: what follows the volume's settings here needs neither a port nor a certificate.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use twinshore_protocol::message::{ClientMessage, ServerMessage};
use twinshore_protocol::session::{Stream, Transport, TransportError};

use super::engine::{Egress, Engine, Outgoing};
use super::streams::Connections;
use crate::service::state::ConnectionId;

/// Batches between the session and the engine, each way.
const QUEUED_BATCHES: usize = 4;

/// Messages taken from the engine's queue at a time.
const MESSAGES_AT_ONCE: usize = 512;

/// Opens streams to the engine of this process.
pub(super) struct LocalTransport {
    pub engine: Arc<Engine>,
    pub connections: Arc<Connections>,
}

#[async_trait]
impl Transport for LocalTransport {
    async fn open(&self) -> Result<Stream, TransportError> {
        let connection = self.connections.next();
        let (egress, outgoing) = Egress::open();
        let Outgoing {
            messages,
            queued_bytes,
            is_paused,
        } = outgoing;
        if !self.engine.connected(connection, egress) {
            return Err(TransportError::Unreachable {
                address: "this process".to_owned(),
                reason: "the metadata service is stopping".to_owned(),
            });
        }
        let (sender, from_client) = mpsc::channel(QUEUED_BATCHES);
        let (to_client, receiver) = mpsc::channel(QUEUED_BATCHES);
        tokio::spawn(read(Arc::clone(&self.engine), connection, from_client, is_paused));
        tokio::spawn(write(messages, queued_bytes, to_client));
        Ok(Stream { sender, receiver })
    }
}

/// Has messages executed until either side ends the stream.
async fn read(
    engine: Arc<Engine>,
    connection: ConnectionId,
    mut from_client: mpsc::Receiver<Vec<ClientMessage>>,
    mut is_paused: watch::Receiver<bool>,
) {
    while is_paused.wait_for(|paused| !*paused).await.is_ok() {
        tokio::select! {
            biased;
            // An engine that has closed the stream has dropped the other end.
            changed = is_paused.changed() => if changed.is_err() {
                break;
            },
            batch = from_client.recv() => match batch {
                Some(messages) => engine.messages(connection, messages),
                None => break,
            },
        }
    }
    engine.disconnected(connection);
}

/// Passes on what the engine says, until either side ends the stream.
async fn write(
    mut outgoing: mpsc::UnboundedReceiver<(ServerMessage, usize)>,
    queued_bytes: Arc<AtomicUsize>,
    to_client: mpsc::Sender<Vec<ServerMessage>>,
) {
    let mut ready = Vec::new();
    while outgoing.recv_many(&mut ready, MESSAGES_AT_ONCE).await > 0 {
        let weight = ready.iter().map(|(_, weight)| weight).sum();
        let messages = ready.drain(..).map(|(message, _)| message).collect();
        if to_client.send(messages).await.is_err() {
            return;
        }
        queued_bytes.fetch_sub(weight, Ordering::Relaxed);
    }
}
