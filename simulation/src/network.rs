//! The network between the parts: streams with delays, partitions and cuts.
//!
//! A stream delivers in order, as TCP does. It can be slow, held for a while (a partition: nothing arrives, nobody is told)
//! or cut: then an arbitrary prefix of what was sent has arrived, and both ends see a broken stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use twinshore_protocol::message::{ClientMessage, ServerMessage};
use twinshore_protocol::session::{Stream, Transport, TransportError};

use crate::random::Random;
use crate::trace::Trace;

/// Batches under way in one direction of a stream. More than a session's window of requests would need.
const STREAM_CAPACITY: usize = 256;

/// A stream as the service sees it.
pub struct Accepted {
    /// Who connected.
    pub node: String,
    /// To the node.
    pub sender: mpsc::Sender<Vec<ServerMessage>>,
    /// From the node.
    pub receiver: mpsc::Receiver<Vec<ClientMessage>>,
}

/// The state of a node's line to the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Line {
    /// Nothing arrives until this is false again.
    held: bool,
    /// Streams of an older generation are cut.
    generation: u64,
}

/// All lines to the service.
#[derive(Clone)]
pub struct Network {
    seed: u64,
    trace: Trace,
    lines: Arc<Mutex<BTreeMap<String, watch::Sender<Line>>>>,
    listener: Arc<Mutex<Option<mpsc::Sender<Accepted>>>>,
}

impl Network {
    /// A network without nodes.
    pub fn new(seed: u64, trace: Trace) -> Self {
        Self {
            seed,
            trace,
            lines: Arc::default(),
            listener: Arc::default(),
        }
    }

    /// The service listens, or (`None`) is down: then connecting is refused.
    pub fn listen(&self, listener: Option<mpsc::Sender<Accepted>>) {
        *lock(&self.listener) = listener;
    }

    /// A transport for a node whose messages take about `latency_ms` each way.
    pub fn transport(&self, node: &str, latency_ms: u64) -> Arc<dyn Transport> {
        let (line, _) = watch::channel(Line {
            held: false,
            generation: 0,
        });
        lock(&self.lines).insert(node.to_owned(), line);
        Arc::new(NodeTransport {
            network: self.clone(),
            node: node.to_owned(),
            latency_ms,
            opened: Mutex::new(0),
        })
    }

    /// Holds or lets go what the node sends and receives.
    pub fn hold(&self, node: &str, held: bool) {
        self.trace.event("network", &format!("{node} held: {held}"));
        self.change(node, |line| line.held = held);
    }

    /// Cuts the node's streams.
    pub fn cut(&self, node: &str) {
        self.trace.event("network", &format!("{node} cut"));
        self.change(node, |line| line.generation += 1);
    }

    /// Cuts everything: the service crashed.
    pub fn cut_all(&self) {
        for line in lock(&self.lines).values() {
            line.send_modify(|line| line.generation += 1);
        }
    }

    /// Lets everything go.
    pub fn heal(&self) {
        for line in lock(&self.lines).values() {
            line.send_modify(|line| line.held = false);
        }
    }

    fn change(&self, node: &str, change: impl FnOnce(&mut Line)) {
        if let Some(line) = lock(&self.lines).get(node) {
            line.send_modify(change);
        }
    }
}

struct NodeTransport {
    network: Network,
    node: String,
    latency_ms: u64,
    opened: Mutex<u64>,
}

#[async_trait]
impl Transport for NodeTransport {
    async fn open(&self) -> Result<Stream, TransportError> {
        let refused = || TransportError::Unreachable {
            address: self.node.clone(),
            reason: "connection refused".to_owned(),
        };
        let line = lock(&self.network.lines)
            .get(&self.node)
            .map(watch::Sender::subscribe)
            .ok_or_else(refused)?;
        let listener = lock(&self.network.listener).clone().ok_or_else(refused)?;
        let number = {
            let mut opened = lock(&self.opened);
            *opened += 1;
            *opened
        };
        let (client_sender, from_client) = mpsc::channel(STREAM_CAPACITY);
        let (to_service, service_receiver) = mpsc::channel(STREAM_CAPACITY);
        let (service_sender, from_service) = mpsc::channel(STREAM_CAPACITY);
        let (to_client, client_receiver) = mpsc::channel(STREAM_CAPACITY);
        let random =
            |direction: &str| Random::fork(self.network.seed, &format!("{}/{number}/{direction}", self.node));
        let generation = line.borrow().generation;
        let pipe = Pipe {
            line,
            generation,
            latency_ms: self.latency_ms,
        };
        tokio::spawn(pipe.clone().forward(from_client, to_service, random("up")));
        tokio::spawn(pipe.forward(from_service, to_client, random("down")));
        let accepted = Accepted {
            node: self.node.clone(),
            sender: service_sender,
            receiver: service_receiver,
        };
        listener.send(accepted).await.map_err(|_| refused())?;
        Ok(Stream {
            sender: client_sender,
            receiver: client_receiver,
        })
    }
}

/// One direction of a stream.
#[derive(Clone)]
struct Pipe {
    line: watch::Receiver<Line>,
    generation: u64,
    latency_ms: u64,
}

impl Pipe {
    async fn forward<T>(mut self, mut from: mpsc::Receiver<T>, to: mpsc::Sender<T>, mut random: Random) {
        while let Some(item) = self.unless_cut(from.recv()).await.flatten() {
            let delay_ms = random.between(self.latency_ms, self.latency_ms * 2 + 1);
            if self
                .unless_cut(tokio::time::sleep(Duration::from_millis(delay_ms)))
                .await
                .is_none()
            {
                return;
            }
            while self.line.borrow().held {
                if self.line.changed().await.is_err() || self.is_cut() {
                    return;
                }
            }
            if !matches!(self.unless_cut(to.send(item)).await, Some(Ok(()))) {
                return;
            }
        }
    }

    fn is_cut(&self) -> bool {
        self.line.borrow().generation != self.generation
    }

    /// Waits for `work`, or returns `None` once the stream is cut.
    async fn unless_cut<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            if self.is_cut() {
                return None;
            }
            tokio::select! {
                biased;
                changed = self.line.changed() => if changed.is_err() { return None },
                result = &mut work => return Some(result),
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
