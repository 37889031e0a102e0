//! The line between two regions: TCP through this process, with a round-trip time, that can be cut.
//!
//! A [`Wan`] is one line; [`Wan::link`] opens a listener on it that leads to a service on the other shore. Every byte waits
//! half a round trip in each direction, a new connection a whole one more (the handshake). The delay is pipelined: bytes wait
//! beside each other, so it does not limit bandwidth beyond the window of [`WINDOW_BYTES`] in flight for each connection
//! and direction, which also bounds the memory.
//!
//! States of each direction: open, or cut. While it is cut nothing arrives and nothing is lost: as with TCP over a line that
//! loses every packet, what was under way arrives in order when the line heals. Cutting one direction only makes a half-open
//! line. [`Wan::break_connections`] ends all connections, as a gateway that forgets them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Bytes in flight for each connection and direction. At 30 ms round trip this lets 8 MiB / 15 ms = 560 MB/s through.
pub const WINDOW_BYTES: usize = 8 << 20;

/// Most that is read at a time; also the unit that waits together.
const CHUNK_BYTES: usize = 64 << 10;

/// Chunks in flight: small ones must not fill the memory with their bookkeeping.
const CHUNKS_MAX: usize = 4096;

/// Connections of one link at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1024;

/// Where a byte travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the primary region to the target region.
    EastToWest,
    /// From the target region to the primary region.
    WestToEast,
}

impl Direction {
    fn index(self) -> usize {
        match self {
            Self::EastToWest => 0,
            Self::WestToEast => 1,
        }
    }

    /// The way back.
    #[must_use]
    pub fn reverse(self) -> Self {
        match self {
            Self::EastToWest => Self::WestToEast,
            Self::WestToEast => Self::EastToWest,
        }
    }
}

/// What all links of a line share.
struct Line {
    round_trip_micros: AtomicU64,
    /// Whether each direction is open.
    open: [watch::Sender<bool>; 2],
    /// Goes up when all connections are to end.
    generation: watch::Sender<u64>,
    bytes: [AtomicU64; 2],
}

impl Line {
    fn round_trip(&self) -> Duration {
        Duration::from_micros(self.round_trip_micros.load(Ordering::Relaxed))
    }
}

/// The line.
#[derive(Clone)]
pub struct Wan {
    line: Arc<Line>,
}

/// A way through the line to one service. Dropping it closes the listener and every connection.
pub struct Link {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Link {
    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Wan {
    /// A line that is open.
    pub fn new(round_trip: Duration) -> Self {
        let line = Line {
            round_trip_micros: AtomicU64::new(0),
            open: [watch::Sender::new(true), watch::Sender::new(true)],
            generation: watch::Sender::new(0),
            bytes: [AtomicU64::new(0), AtomicU64::new(0)],
        };
        let wan = Self { line: Arc::new(line) };
        wan.set_round_trip(round_trip);
        wan
    }

    /// Opens a way to the service at `target`. Its clients send in `direction`.
    pub async fn link(&self, direction: Direction, target: SocketAddr) -> io::Result<Link> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(accept(listener, Arc::clone(&self.line), direction, target));
        Ok(Link { address, task })
    }

    /// The time from shore to shore and back.
    pub fn round_trip(&self) -> Duration {
        self.line.round_trip()
    }

    /// Changes it for what is sent from now on.
    pub fn set_round_trip(&self, round_trip: Duration) {
        let micros = u64::try_from(round_trip.as_micros()).unwrap_or(u64::MAX);
        self.line.round_trip_micros.store(micros, Ordering::Relaxed);
    }

    /// Nothing arrives in either direction.
    pub fn cut(&self) {
        self.cut_direction(Direction::EastToWest);
        self.cut_direction(Direction::WestToEast);
    }

    /// Nothing arrives in one direction: a half-open line.
    pub fn cut_direction(&self, direction: Direction) {
        self.line.open[direction.index()].send_replace(false);
    }

    /// Everything arrives again.
    pub fn heal(&self) {
        for open in &self.line.open {
            open.send_replace(true);
        }
    }

    /// Ends all connections that there are.
    pub fn break_connections(&self) {
        self.line.generation.send_modify(|generation| *generation += 1);
    }

    /// Bytes that arrived in a direction.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.line.bytes[direction.index()].load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, line: Arc<Line>, direction: Direction, target: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS_MAX {
            connections.join_next().await;
        }
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        connections.spawn(carry(client, Arc::clone(&line), direction, target));
    }
}

/// One connection, until both sides have closed it, one of them broke it, or all are to end.
async fn carry(client: TcpStream, line: Arc<Line>, direction: Direction, target: SocketAddr) {
    let mut generation = line.generation.subscribe();
    let connection = async {
        // The handshake: here the client's connect returned at once, on a line it takes a round trip.
        until_open(&line, direction).await;
        tokio::time::sleep(line.round_trip()).await;
        // If nobody listens there, dropping the client's stream tells it.
        let server = TcpStream::connect(target).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::try_join!(
            pipe(from_client, to_server, &line, direction),
            pipe(from_server, to_client, &line, direction.reverse()),
        )
    };
    tokio::select! {
        biased;
        _ = generation.changed() => {}
        // An error is one of the two ends breaking the connection; dropping both streams passes it on.
        _ = connection => {}
    }
}

/// Bytes on their way, with the time at which they arrive. The permit frees their place in the window.
struct InFlight {
    arrives: Instant,
    bytes: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

/// One direction of one connection.
async fn pipe(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    line: &Line,
    direction: Direction,
) -> io::Result<()> {
    let window = Arc::new(Semaphore::new(WINDOW_BYTES));
    let (sender, mut receiver) = mpsc::channel::<InFlight>(CHUNKS_MAX);
    let departures = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return io::Result::Ok(());
            }
            let permits = u32::try_from(count).map_err(io::Error::other)?;
            let place = Arc::clone(&window)
                .acquire_many_owned(permits)
                .await
                .map_err(io::Error::other)?;
            let in_flight = InFlight {
                arrives: Instant::now() + line.round_trip() / 2,
                bytes: buffer[..count].to_vec(),
                _place: place,
            };
            sender.send(in_flight).await.map_err(io::Error::other)?;
        }
    };
    let arrivals = async move {
        while let Some(InFlight {
            arrives,
            bytes,
            _place,
        }) = receiver.recv().await
        {
            tokio::time::sleep_until(arrives).await;
            until_open(line, direction).await;
            to.write_all(&bytes).await?;
            line.bytes[direction.index()].fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        // The sender closed its half: so does the receiver's copy, after everything before it.
        to.shutdown().await
    };
    tokio::try_join!(departures, arrivals).map(|_| ())
}

async fn until_open(line: &Line, direction: Direction) {
    let mut open = line.open[direction.index()].subscribe();
    // Fails only if the sender is gone, which this line holds.
    let _ = open.wait_for(|open| *open).await;
}

#[cfg(test)]
mod tests;
