//! How a stream begins and ends.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::identifiers::{Epoch, Position, SessionId};
use crate::message::{ClientMessage, Hello, PROTOCOL_VERSION, Reclaim, ServerMessage, Welcome};
use crate::session::transport::{Stream, Transport};
use crate::session::{ConnectError, SessionOptions};

/// From opening the stream to `Welcome`: a service that has just started reads its journal first.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the service may take to close the stream after `Goodbye`.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// Opens or locks in one `Reclaim`: far below the largest message.
const RECLAIM_ITEMS: usize = 8192;

/// What a client says first.
pub(super) fn hello(
    options: &SessionOptions,
    delegations: bool,
    resume: Option<(SessionId, (Epoch, Position))>,
) -> Hello {
    Hello {
        protocol_version: PROTOCOL_VERSION,
        volume: options.volume,
        session: resume.map(|(session, _)| session),
        role: options.role,
        near: options.near,
        task_slots: options.task_slots,
        description: options.description.clone(),
        seen: resume.map(|(_, seen)| seen),
        delegations,
    }
}

/// One attempt: stream, `Hello`, `Welcome`.
pub(super) async fn open(
    transport: &dyn Transport,
    hello: Hello,
) -> Result<(Stream, Box<Welcome>, Vec<ServerMessage>), ConnectError> {
    let attempt = async {
        let mut stream = transport.open().await?;
        let no_answer = || ConnectError::NoAnswer(ANSWER_TIMEOUT);
        stream
            .sender
            .send(vec![ClientMessage::Hello(hello)])
            .await
            .map_err(|_| no_answer())?;
        loop {
            let mut messages = stream.receiver.recv().await.ok_or_else(no_answer)?.into_iter();
            match messages.next() {
                Some(ServerMessage::Welcome(welcome)) => return Ok((stream, welcome, messages.collect())),
                Some(ServerMessage::Refused(refusal)) => return Err(ConnectError::Refused(refusal)),
                Some(_) => return Err(no_answer()),
                None => {}
            }
        }
    };
    timeout(ANSWER_TIMEOUT, attempt)
        .await
        .unwrap_or(Err(ConnectError::NoAnswer(ANSWER_TIMEOUT)))
}

/// Cuts what is held into messages.
pub(super) fn reclaim_messages(held: &Reclaim) -> VecDeque<ClientMessage> {
    let mut parts: Vec<Reclaim> = Vec::new();
    for opens in held.opens.chunks(RECLAIM_ITEMS) {
        parts.push(Reclaim {
            opens: opens.to_vec(),
            ..Reclaim::default()
        });
    }
    for locks in held.locks.chunks(RECLAIM_ITEMS) {
        parts.push(Reclaim {
            locks: locks.to_vec(),
            ..Reclaim::default()
        });
    }
    match parts.last_mut() {
        Some(last) => last.complete = true,
        None => parts.push(Reclaim {
            complete: true,
            ..Reclaim::default()
        }),
    }
    parts.into_iter().map(ClientMessage::Reclaim).collect()
}

/// Says goodbye and gives the service the chance to close the stream first, so that the message is not lost.
pub(super) async fn goodbye(
    sender: mpsc::Sender<Vec<ClientMessage>>,
    mut receiver: mpsc::Receiver<Vec<ServerMessage>>,
) {
    let farewell = async {
        if sender.send(vec![ClientMessage::Goodbye]).await.is_ok() {
            drop(sender);
            while receiver.recv().await.is_some() {}
        }
    };
    if timeout(GOODBYE_TIMEOUT, farewell).await.is_err() {
        tracing::debug!("the metadata service did not close the stream after the goodbye");
    }
}
