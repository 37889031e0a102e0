//! The stream over gRPC: one bidirectional call, messages coalesced into frames.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::error::Error;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream;
use tokio::sync::mpsc;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::message::{ClientMessage, ServerMessage};
use crate::session::transport::{Stream, Transport, TransportError};
use crate::tls::TlsSource;
use crate::wire::grpc::metadata_client::MetadataClient;
use crate::wire::grpc::{ClientFrame, ServerFrame};
use crate::wire::{self, FRAME_MAX_BYTES, FRAME_TARGET_BYTES, WireError};

/// How long TCP and HTTP/2 may take: some round trips around the world, and one lost SYN.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Batches between the session and the wire, each way. Few: what waits here can no longer be overtaken by a heartbeat.
const QUEUED_BATCHES: usize = 4;

/// HTTP/2 pings find a dead peer that TCP would keep for minutes. Longer than the heartbeats, which usually find it first.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// How long a ping may stay unanswered.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// HTTP/2 windows: 100 ms of round trip at 1 Gbit/s.
const STREAM_WINDOW_BYTES: u32 = 12 << 20;

/// Streams to a metadata service over gRPC.
#[derive(Debug)]
pub struct GrpcTransport {
    address: String,
    endpoint: Endpoint,
    tls: Option<TlsSource>,
}

impl GrpcTransport {
    /// To `http://host:port` without TLS, to `https://host:port` with it. Nothing is connected yet.
    pub fn new(address: &str, tls: Option<TlsSource>) -> Result<Self, TransportError> {
        let wrong = |reason: String| TransportError::Address {
            address: address.to_owned(),
            reason,
        };
        match (address.split_once("://"), &tls) {
            (Some(("http", _)), None) | (Some(("https", _)), Some(_)) => {}
            (Some(("https", _)), None) => {
                return Err(wrong("for https:// a certificate is needed".to_owned()));
            }
            (Some(("http", _)), Some(_)) => {
                return Err(wrong("with a certificate it must begin with https://".to_owned()));
            }
            _ => return Err(wrong("it must begin with http:// or https://".to_owned())),
        }
        let endpoint = Endpoint::from_shared(address.to_owned()).map_err(|error| wrong(causes(&error)))?;
        if endpoint.uri().port_u16().is_none() {
            return Err(wrong("the port is missing".to_owned()));
        }
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(STREAM_WINDOW_BYTES);
        Ok(Self {
            address: address.to_owned(),
            endpoint,
            tls,
        })
    }

    fn unreachable(&self, error: &dyn Error) -> TransportError {
        TransportError::Unreachable {
            address: self.address.clone(),
            reason: causes(error),
        }
    }

    /// The endpoint with the certificate that there is now.
    fn endpoint(&self) -> Result<Endpoint, TransportError> {
        let Some(tls) = &self.tls else {
            return Ok(self.endpoint.clone());
        };
        let material = tls.read().map_err(|error| self.unreachable(&error))?;
        let config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(material.authority))
            .identity(Identity::from_pem(material.certificate, material.key));
        self.endpoint
            .clone()
            .tls_config(config)
            .map_err(|error| self.unreachable(&error))
    }
}

#[async_trait]
impl Transport for GrpcTransport {
    async fn open(&self) -> Result<Stream, TransportError> {
        let channel = self
            .endpoint()?
            .connect()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let (sender, outgoing) = mpsc::channel(QUEUED_BATCHES);
        let (incoming, receiver) = mpsc::channel(QUEUED_BATCHES);
        tokio::spawn(carry(channel, outgoing, incoming, self.address.clone()));
        Ok(Stream { sender, receiver })
    }
}

/// Runs the call until either side ends it. The response headers may come only after the first frame, so the caller
/// cannot wait for them before it has a stream to write to.
async fn carry(
    channel: Channel,
    outgoing: mpsc::Receiver<Vec<ClientMessage>>,
    incoming: mpsc::Sender<Vec<ServerMessage>>,
    address: String,
) {
    let mut client = MetadataClient::new(channel)
        .max_decoding_message_size(FRAME_MAX_BYTES)
        .max_encoding_message_size(FRAME_MAX_BYTES);
    let frames = stream::unfold(
        Coalescer {
            outgoing,
            ready: VecDeque::new(),
        },
        |mut coalescer| async move { coalescer.next().await.map(|frame| (frame, coalescer)) },
    );
    let receive = async {
        let mut frames = client.session(frames).await?.into_inner();
        while let Some(frame) = frames.message().await? {
            let messages = decode(&frame).map_err(|error| tonic::Status::internal(causes(&error)))?;
            if incoming.send(messages).await.is_err() {
                break;
            }
        }
        Ok::<(), tonic::Status>(())
    };
    tokio::select! {
        biased;
        // Nobody reads any more: without this a silent service would keep the call open.
        () = incoming.closed() => {}
        result = receive => match result {
            Ok(()) => tracing::debug!(address, "the metadata service closed the stream"),
            Err(status) => tracing::warn!(address, reason = %status.message(), "the stream broke"),
        },
    }
}

/// Turns batches of messages into frames.
struct Coalescer {
    outgoing: mpsc::Receiver<Vec<ClientMessage>>,
    ready: VecDeque<ClientFrame>,
}

impl Coalescer {
    /// The next frame: everything that is ready, up to [`FRAME_TARGET_BYTES`].
    async fn next(&mut self) -> Option<ClientFrame> {
        if let Some(frame) = self.ready.pop_front() {
            return Some(frame);
        }
        let mut messages = Vec::new();
        let mut frame_bytes = 0;
        let mut batch = self.outgoing.recv().await?;
        loop {
            for message in batch {
                let encoded = wire::encode(&message);
                if frame_bytes > 0 && frame_bytes + encoded.len() > FRAME_TARGET_BYTES {
                    self.ready.push_back(ClientFrame {
                        messages: std::mem::take(&mut messages),
                    });
                    frame_bytes = 0;
                }
                frame_bytes += encoded.len();
                messages.push(encoded);
            }
            if !self.ready.is_empty() || frame_bytes >= FRAME_TARGET_BYTES {
                break;
            }
            match self.outgoing.try_recv() {
                Ok(more) => batch = more,
                Err(_) => break,
            }
        }
        self.ready.push_back(ClientFrame { messages });
        self.ready.pop_front()
    }
}

fn decode(frame: &ServerFrame) -> Result<Vec<ServerMessage>, WireError> {
    frame
        .messages
        .iter()
        .map(|message: &Bytes| wire::decode(message))
        .collect()
}

/// An error with its causes: tonic hides "connection refused" three levels deep.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.contains(&part) {
            text = format!("{text}: {part}");
        }
        cause = error.source();
    }
    text
}
