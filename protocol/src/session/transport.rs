//! How the messages of a session travel: a trait, because the simulation has channels where production has gRPC.

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::message::{ClientMessage, ServerMessage};

/// A stream that is open. Both channels are bounded; when the other end of either is gone, the stream is broken.
#[derive(Debug)]
pub struct Stream {
    /// To the service, in order.
    pub sender: mpsc::Sender<Vec<ClientMessage>>,
    /// From the service, in order.
    pub receiver: mpsc::Receiver<Vec<ServerMessage>>,
}

/// Why no stream could be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The address is not one.
    #[error(
        "{address} is not the address of a metadata service: expected http://host:port or https://host:port ({reason})"
    )]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Nobody answers there. It may work later.
    #[error("the metadata service at {address} cannot be reached: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// What was tried and what happened.
        reason: String,
    },
}

/// Opens streams to one metadata service.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Opens a stream. May take as long as it likes: the session has a deadline of its own.
    async fn open(&self) -> Result<Stream, TransportError>;
}
