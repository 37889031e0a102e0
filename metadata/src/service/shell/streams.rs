//! The gRPC server: the stream of each client, frames in both directions.
//!
//! A frame holds the messages that were ready when it was written, up to [`FRAME_TARGET_BYTES`]: under load many, when idle
//! one, without a timer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::{Request, Response, Status, Streaming};
use twinshore_protocol::VolumeId;
use twinshore_protocol::message::{ClientMessage, Role, SESSION_SECONDS, ServerMessage};
use twinshore_protocol::tls::TlsFiles;
use twinshore_protocol::wire::grpc::metadata_server::{Metadata, MetadataServer};
use twinshore_protocol::wire::grpc::{ClientFrame, ServerFrame};
use twinshore_protocol::wire::{self, FRAME_MAX_BYTES, FRAME_TARGET_BYTES, WireError};

use super::engine::{Egress, Engine, Outgoing};
use super::tls;
use crate::service::state::ConnectionId;

/// Bytes of frames that are being decoded and executed, of all streams. At least [`FRAME_MAX_BYTES`].
const INGRESS_BYTES_MAX: usize = 64 << 20;

/// Frames handed to HTTP/2 and not yet written.
const FRAMES_AHEAD: usize = 2;

/// Messages taken from the engine's queue at a time.
const MESSAGES_AT_ONCE: usize = 512;

/// How many new connections may be opened but not accepted; a stream without a word for a session's life is closed.
const HELLO_DEADLINE: Duration = Duration::from_secs(SESSION_SECONDS);

/// TCP and HTTP/2 find out about a peer that vanished without a word.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Numbers connections.
#[derive(Debug, Default)]
pub(super) struct Connections(AtomicU64);

impl Connections {
    /// A number that no other connection has.
    pub fn next(&self) -> ConnectionId {
        ConnectionId(self.0.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

struct Streams {
    engine: Arc<Engine>,
    connections: Arc<Connections>,
    volume: VolumeId,
    ingress: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

/// What [`serve`] needs.
pub(super) struct Server {
    pub listener: TcpListener,
    /// With it, everybody has to show a certificate.
    pub tls: Option<TlsFiles>,
    pub volume: VolumeId,
    pub engine: Arc<Engine>,
    pub connections: Arc<Connections>,
    pub stopped: watch::Receiver<bool>,
}

/// Serves clients until `stopped`. The one place where the server is built.
pub(super) async fn serve(server: Server) -> Result<(), tonic::transport::Error> {
    let Server {
        listener,
        tls,
        volume,
        engine,
        connections,
        stopped,
    } = server;
    let streams = Streams {
        engine,
        connections,
        volume,
        ingress: Arc::new(Semaphore::new(INGRESS_BYTES_MAX)),
        stopped: stopped.clone(),
    };
    let service = MetadataServer::new(streams)
        .max_decoding_message_size(FRAME_MAX_BYTES)
        .max_encoding_message_size(FRAME_MAX_BYTES);
    let router = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .initial_stream_window_size(Some(4 << 20))
        .initial_connection_window_size(Some(8 << 20))
        .add_service(service);
    let mut until = stopped.clone();
    let end = async move {
        let _ = until.wait_for(|stopped| *stopped).await;
    };
    if let Some(files) = tls {
        let incoming = tls::accept(listener, files, stopped);
        return router.serve_with_incoming_shutdown(incoming, end).await;
    }
    let incoming = futures::StreamExt::map(TcpListenerStream::new(listener), |accepted| {
        if let Ok(stream) = &accepted
            && let Err(error) = stream.set_nodelay(true)
        {
            tracing::warn!(%error, "a connection stays slow: its small packets cannot be hurried");
        }
        accepted
    });
    router.serve_with_incoming_shutdown(incoming, end).await
}

impl Streams {
    /// The role of the certificate at the other end; `None` without TLS.
    fn role(&self, request: &Request<Streaming<ClientFrame>>) -> Result<Option<Role>, Status> {
        let Some(info) = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>() else {
            return Ok(None);
        };
        let certificates = info.peer_certs();
        let role = tls::role_of(certificates.as_ref().map(|found| found.as_slice()), self.volume);
        role.map(Some).map_err(|reason| {
            tracing::warn!(reason, "a stream was turned away");
            Status::permission_denied(format!("this is volume {}: {reason}", self.volume))
        })
    }
}

#[tonic::async_trait]
impl Metadata for Streams {
    type SessionStream = ReceiverStream<Result<ServerFrame, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<ClientFrame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let role = self.role(&request)?;
        let connection = self.connections.next();
        let (egress, outgoing) = Egress::open();
        let Outgoing {
            messages,
            queued_bytes,
            is_paused,
        } = outgoing;
        if !self.engine.connected(connection, egress) {
            return Err(Status::unavailable("the metadata service is stopping"));
        }
        let (frames, receiver) = mpsc::channel(FRAMES_AHEAD);
        let (ended, has_ended) = watch::channel(false);
        tokio::spawn(write(messages, queued_bytes, frames.clone(), ended));
        let reader = Reader {
            connection,
            role,
            refusals: frames,
            frames: request.into_inner(),
            engine: Arc::clone(&self.engine),
            ingress: Arc::clone(&self.ingress),
            is_paused,
            has_ended,
            stopped: self.stopped.clone(),
        };
        tokio::spawn(reader.run());
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

struct Reader {
    connection: ConnectionId,
    /// What the certificate allows the other end to be; anything without TLS.
    role: Option<Role>,
    /// Where it is told that it is something else.
    refusals: mpsc::Sender<Result<ServerFrame, Status>>,
    frames: Streaming<ClientFrame>,
    engine: Arc<Engine>,
    ingress: Arc<Semaphore>,
    is_paused: watch::Receiver<bool>,
    /// The other half has ended: the engine has closed the stream, or the client is gone.
    has_ended: watch::Receiver<bool>,
    stopped: watch::Receiver<bool>,
}

impl Reader {
    async fn run(mut self) {
        let mut has_ended = self.has_ended.clone();
        let mut stopped = self.stopped.clone();
        let connection = self.connection;
        let engine = Arc::clone(&self.engine);
        tokio::select! {
            biased;
            _ = has_ended.wait_for(|ended| *ended) => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
            () = self.read() => {}
        }
        engine.disconnected(connection);
    }

    async fn read(&mut self) {
        let mut deadline = Some(HELLO_DEADLINE);
        loop {
            if self.is_paused.wait_for(|paused| !*paused).await.is_err() {
                return;
            }
            let frame = match deadline.take() {
                Some(limit) => match tokio::time::timeout(limit, self.frames.message()).await {
                    Ok(frame) => frame,
                    Err(_) => return,
                },
                None => self.frames.message().await,
            };
            let frame = match frame {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(status) => {
                    tracing::debug!(connection = self.connection.0, %status, "a stream broke");
                    return;
                }
            };
            let bytes: usize = frame.messages.iter().map(Bytes::len).sum();
            let permits = u32::try_from(bytes.clamp(1, INGRESS_BYTES_MAX)).unwrap_or(u32::MAX);
            let Ok(permits) = Arc::clone(&self.ingress).acquire_many_owned(permits).await else {
                return;
            };
            let messages: Result<Vec<ClientMessage>, WireError> = frame
                .messages
                .iter()
                .map(|message| wire::decode(message))
                .collect();
            match messages {
                Ok(messages) => {
                    if let Some(reason) = self.refusal(&messages) {
                        tracing::warn!(connection = self.connection.0, reason, "a stream was turned away");
                        // It may be gone already.
                        let _ = self.refusals.send(Err(Status::permission_denied(reason))).await;
                        return;
                    }
                    self.engine.messages(self.connection, messages);
                }
                Err(error) => {
                    tracing::warn!(connection = self.connection.0, %error, "a client sent what is no message");
                    return;
                }
            }
            drop(permits);
        }
    }
}

impl Reader {
    /// Why the other end must not be what it says it is.
    fn refusal(&self, messages: &[ClientMessage]) -> Option<String> {
        let allowed = self.role?;
        messages.iter().find_map(|message| match message {
            ClientMessage::Hello(hello) if hello.role != allowed => Some(format!(
                "the certificate is of role {allowed:?}, which cannot connect as {:?}",
                hello.role
            )),
            _ => None,
        })
    }
}

/// Encodes messages into frames until the engine or the client ends the stream.
async fn write(
    mut outgoing: mpsc::UnboundedReceiver<(ServerMessage, usize)>,
    queued_bytes: Arc<AtomicUsize>,
    frames: mpsc::Sender<Result<ServerFrame, Status>>,
    ended: watch::Sender<bool>,
) {
    let mut ready = Vec::new();
    'stream: while outgoing.recv_many(&mut ready, MESSAGES_AT_ONCE).await > 0 {
        let mut messages = Vec::new();
        let mut frame_bytes = 0;
        let mut weight = 0;
        let mut rest = ready.drain(..).peekable();
        while let Some((message, message_weight)) = rest.next() {
            let encoded = wire::encode(&message);
            frame_bytes += encoded.len();
            weight += message_weight;
            messages.push(encoded);
            if frame_bytes >= FRAME_TARGET_BYTES || rest.peek().is_none() {
                let frame = ServerFrame {
                    messages: std::mem::take(&mut messages),
                };
                frame_bytes = 0;
                if frames.send(Ok(frame)).await.is_err() {
                    break 'stream;
                }
                queued_bytes.fetch_sub(std::mem::take(&mut weight), Ordering::Relaxed);
            }
        }
    }
    ended.send_replace(true);
}
