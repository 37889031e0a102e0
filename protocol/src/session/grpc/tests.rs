#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::Stream as FutureStream;
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use super::*;
use crate::identifiers::RequestNumber;
use crate::operation::{Caller, Operation};
use crate::wire::grpc::metadata_server::{Metadata, MetadataServer};

/// Answers every heartbeat, frame by frame, and counts the frames.
struct Echo {
    frames: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Metadata for Echo {
    type SessionStream = Pin<Box<dyn FutureStream<Item = Result<ServerFrame, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<ClientFrame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut frames = request.into_inner();
        // The headers of the answer leave only after the first frame has come.
        let mut next = frames.message().await?;
        let (sender, receiver) = mpsc::channel(4);
        let counter = Arc::clone(&self.frames);
        tokio::spawn(async move {
            while let Some(frame) = next {
                counter.fetch_add(1, Ordering::Relaxed);
                let answers =
                    frame
                        .messages
                        .iter()
                        .filter_map(|message| match wire::decode(message).unwrap() {
                            ClientMessage::Heartbeat { number } => {
                                Some(wire::encode(&ServerMessage::HeartbeatReply {
                                    number,
                                    time: None,
                                }))
                            }
                            _ => None,
                        });
                if sender
                    .send(Ok(ServerFrame {
                        messages: answers.collect(),
                    }))
                    .await
                    .is_err()
                {
                    break;
                }
                next = frames.message().await.unwrap_or(None);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

async fn serve() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let frames = Arc::new(AtomicUsize::new(0));
    let service = MetadataServer::new(Echo {
        frames: Arc::clone(&frames),
    })
    .max_decoding_message_size(FRAME_MAX_BYTES);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    (address, frames)
}

#[tokio::test]
async fn messages_cross_in_order_and_large_batches_are_cut_into_frames() {
    let (address, frames) = serve().await;
    let mut stream = GrpcTransport::new(&address, None).unwrap().open().await.unwrap();
    let large = || ClientMessage::Request {
        number: RequestNumber(1),
        caller: Caller::ROOT,
        operation: Operation::SetExtendedAttribute {
            inode: crate::identifiers::InodeNumber(1),
            name: Bytes::from_static(b"user.large"),
            value: Bytes::from(vec![0; FRAME_TARGET_BYTES / 2 + 1]),
            mode: crate::operation::SetMode::Any,
        },
    };
    let mut batch: Vec<_> = (0..4).map(|_| large()).collect();
    batch.extend((0..1000).map(|number| ClientMessage::Heartbeat { number }));
    stream.sender.send(batch).await.unwrap();
    let mut answers = Vec::new();
    while answers.len() < 1000 {
        answers.extend(stream.receiver.recv().await.unwrap());
    }
    let expected: Vec<_> = (0..1000)
        .map(|number| ServerMessage::HeartbeatReply { number, time: None })
        .collect();
    assert_eq!(answers, expected);
    // Two of the large messages do not fit a frame together; the small ones ride with the last.
    assert_eq!(frames.load(Ordering::Relaxed), 4);
    // Closing the client's half ends the call.
    drop(stream.sender);
    while stream.receiver.recv().await.is_some() {}
}

#[tokio::test]
async fn an_address_that_is_wrong_or_where_nobody_answers_says_so() {
    for wrong in [
        "127.0.0.1:1",
        "https://host:1",
        "http://host",
        "http://",
        "http://a b:1",
    ] {
        let error = GrpcTransport::new(wrong, None).unwrap_err();
        assert!(
            matches!(&error, TransportError::Address { address, .. } if address == wrong),
            "{error}"
        );
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = GrpcTransport::new(&address, None)
        .unwrap()
        .open()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}
