//! The network between the parts: streams with delays, partitions and cuts.
//!
//! A stream delivers in order, as TCP does. It can be slow, held for a while (a partition: nothing arrives, nobody is told)
//! or cut: then an arbitrary prefix of what was sent has arrived, and both ends see a broken stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, mpsc};
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
#[derive(Clone, Copy, Debug, Default)]
struct LineState {
    /// Nothing arrives until this is false again.
    held: bool,
    /// Streams of an older generation are cut.
    generation: u64,
}

/// A node's line. Those who wait for a change are woken in their order (a `watch` would wake them in a random one).
#[derive(Default)]
struct Line {
    state: Mutex<LineState>,
    changed: Notify,
}

impl Line {
    fn now(&self) -> LineState {
        *lock(&self.state)
    }

    fn change(&self, change: impl FnOnce(&mut LineState)) {
        change(&mut lock(&self.state));
        self.changed.notify_waiters();
    }
}

/// All lines to the service.
#[derive(Clone)]
pub struct Network {
    seed: u64,
    trace: Trace,
    lines: Arc<Mutex<BTreeMap<String, Arc<Line>>>>,
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
        lock(&self.lines).insert(node.to_owned(), Arc::default());
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
            line.change(|line| line.generation += 1);
        }
    }

    /// Lets everything go.
    pub fn heal(&self) {
        for line in lock(&self.lines).values() {
            line.change(|line| line.held = false);
        }
    }

    fn change(&self, node: &str, change: impl FnOnce(&mut LineState)) {
        if let Some(line) = lock(&self.lines).get(node) {
            line.change(change);
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
            .cloned()
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
        let generation = line.now().generation;
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
    line: Arc<Line>,
    generation: u64,
    latency_ms: u64,
}

impl Pipe {
    async fn forward<T>(self, mut from: mpsc::Receiver<T>, to: mpsc::Sender<T>, mut random: Random) {
        while let Some(item) = self.unless_cut(from.recv()).await.flatten() {
            let delay_ms = random.between(self.latency_ms, self.latency_ms * 2 + 1);
            let arrives = async {
                tokio::time::sleep(Duration::from_millis(delay_ms)).await;
                self.let_go().await;
                to.send(item).await
            };
            if !matches!(self.unless_cut(arrives).await, Some(Ok(()))) {
                return;
            }
        }
    }

    /// Waits until the line is not held.
    async fn let_go(&self) {
        loop {
            let changed = self.line.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.line.now().held {
                return;
            }
            changed.await;
        }
    }

    /// Waits for `work`, or returns `None` once the stream is cut.
    async fn unless_cut<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(work);
        loop {
            let changed = self.line.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.line.now().generation != self.generation {
                return None;
            }
            tokio::select! {
                biased;
                () = changed => {}
                result = &mut work => return Some(result),
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
