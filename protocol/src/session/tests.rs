#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::*;
use crate::attributes::Attributes;
use crate::format::{
    Compression, Durability, Encryption, FORMAT_VERSION, RegionFormat, VolumeFormat, VolumeSettings,
};
use crate::identifiers::{Epoch, NumberRange, Position, RequestNumber};
use crate::lock::{Lock, LockFamily, LockKind};
use crate::message::{
    ClientMessage, Hello, Invalidation, LEASE_SECONDS, REQUEST_WINDOW, Reclaim, ServerMessage, Welcome,
};

/// The service's end of one stream, driven by the test.
struct Peer {
    from_client: mpsc::Receiver<Vec<ClientMessage>>,
    to_client: mpsc::Sender<Vec<ServerMessage>>,
    buffered: std::collections::VecDeque<ClientMessage>,
}

impl Peer {
    /// The next message that is not a heartbeat; heartbeats are answered on the way.
    async fn next(&mut self) -> ClientMessage {
        loop {
            match self.raw().await {
                ClientMessage::Heartbeat { number } => {
                    self.send(ServerMessage::HeartbeatReply { number, time: None })
                        .await;
                }
                other => return other,
            }
        }
    }

    async fn raw(&mut self) -> ClientMessage {
        self.raw_or_end().await.expect("the client is there")
    }

    async fn raw_or_end(&mut self) -> Option<ClientMessage> {
        while self.buffered.is_empty() {
            self.buffered = self.from_client.recv().await?.into();
        }
        self.buffered.pop_front()
    }

    async fn request(&mut self) -> (u64, Operation) {
        match self.next().await {
            ClientMessage::Request {
                number, operation, ..
            } => (number.0, operation),
            other => panic!("a request was expected, not {other:?}"),
        }
    }

    async fn send(&self, message: ServerMessage) {
        self.to_client
            .send(vec![message])
            .await
            .expect("the client is there");
    }

    async fn reply(&self, number: u64) {
        self.reply_with(number, Ok(Reply::Offset(number))).await;
    }

    async fn reply_with(&self, number: u64, result: Result<Reply, Errno>) {
        self.send(ServerMessage::Reply {
            number: RequestNumber(number),
            position: Position(number),
            result,
            directories: Vec::new(),
            superseded: Vec::new(),
            delegated: crate::message::Delegated::default(),
        })
        .await;
    }

    async fn hello(&mut self) -> Hello {
        match self.raw().await {
            ClientMessage::Hello(hello) => hello,
            other => panic!("Hello was expected, not {other:?}"),
        }
    }

    async fn welcome(&mut self, welcome: Welcome) -> Hello {
        let hello = self.hello().await;
        self.send(ServerMessage::Welcome(Box::new(welcome))).await;
        hello
    }
}

/// Every opened stream arrives at the test.
struct Script {
    streams: mpsc::UnboundedSender<Peer>,
    capacity: usize,
}

#[async_trait]
impl Transport for Script {
    async fn open(&self) -> Result<Stream, TransportError> {
        let (sender, from_client) = mpsc::channel(self.capacity);
        let (to_client, receiver) = mpsc::channel(self.capacity);
        let peer = Peer {
            from_client,
            to_client,
            buffered: std::collections::VecDeque::new(),
        };
        self.streams.send(peer).map_err(|_| TransportError::Unreachable {
            address: "script".to_owned(),
            reason: "the test is over".to_owned(),
        })?;
        Ok(Stream { sender, receiver })
    }
}

/// Writes down what it is told.
#[derive(Default)]
struct Diary {
    entries: Mutex<Vec<String>>,
    held: Mutex<Reclaim>,
    acknowledges: bool,
}

impl Diary {
    fn write(&self, entry: String) {
        self.entries.lock().unwrap().push(entry);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.entries.lock().unwrap())
    }
}

impl SessionHandler for Diary {
    fn replied(&self, operation: &Operation, result: &Result<Reply, Errno>, _: &[Attributes]) {
        let what = match operation {
            Operation::GetAttributes { inode } => format!("{inode}"),
            other => format!("{other:?}"),
        };
        self.write(format!(
            "replied {what} {}",
            if result.is_ok() { "ok" } else { "failed" }
        ));
    }
    fn invalidated(&self, number: u64, items: Vec<Invalidation>) {
        self.write(format!("invalidated {number} {items:?}"));
    }
    fn acknowledges(&self) -> bool {
        self.acknowledges
    }
    fn disconnected(&self) {
        self.write("disconnected".to_owned());
    }
    fn format_changed(&self, format: &VolumeFormat) {
        self.write(format!("format {}", format.name));
    }
    fn expired(&self) {
        self.write("expired".to_owned());
    }
    fn held(&self) -> Reclaim {
        self.write("held".to_owned());
        self.held.lock().unwrap().clone()
    }
}

fn format(name: &str) -> VolumeFormat {
    VolumeFormat {
        version: FORMAT_VERSION,
        volume: VolumeId([7; 16]),
        name: name.to_owned(),
        encryption: Encryption::None,
        settings: VolumeSettings {
            primary: RegionFormat {
                name: "east".to_owned(),
                bucket: "file:///east".to_owned(),
            },
            target: None,
            replication_enabled: true,
            compression: Compression::None,
            durability: Durability::Close,
            inline_limit_bytes: 16384,
            trash_retention_seconds: 0,
            synchronisation_interval_seconds: 0,
            bandwidth_limit_bytes_per_second: [0, 0],
        },
    }
}

fn welcome(session: u64, epoch: u64, position: u64) -> Welcome {
    Welcome {
        session: SessionId(session),
        epoch: Epoch(epoch),
        position: Position(position),
        format: format("volume"),
        inodes: NumberRange {
            start: 1000,
            end: 1004,
        },
        objects: NumberRange { start: 500, end: 504 },
        objects_epoch: Epoch(epoch),
        lease_seconds: LEASE_SECONDS,
    }
}

fn resumed(session: u64, epoch: u64, position: u64) -> Welcome {
    let empty = NumberRange::default();
    Welcome {
        inodes: empty,
        objects: empty,
        ..welcome(session, epoch, position)
    }
}

struct Setup {
    session: Session,
    diary: Arc<Diary>,
    streams: mpsc::UnboundedReceiver<Peer>,
    peer: Peer,
}

impl Setup {
    async fn new() -> Self {
        Self::with(
            64,
            Diary {
                acknowledges: true,
                ..Diary::default()
            },
        )
        .await
    }

    async fn with(capacity: usize, diary: Diary) -> Self {
        let (sender, mut streams) = mpsc::unbounded_channel();
        let diary = Arc::new(diary);
        let connecting = Session::connect(
            Arc::new(Script {
                streams: sender,
                capacity,
            }),
            options(),
            Arc::clone(&diary) as Arc<dyn SessionHandler>,
        );
        let serving = async {
            let mut peer = streams.recv().await.unwrap();
            let hello = peer.welcome(welcome(1, 1, 0)).await;
            assert_eq!((hello.session, hello.seen), (None, None));
            peer
        };
        let (session, peer) = tokio::join!(connecting, serving);
        Self {
            session: session.unwrap(),
            diary,
            streams,
            peer,
        }
    }

    /// The next attempt to connect; those before it were given up, or nearly.
    async fn next_attempt(&mut self) {
        while self.streams.try_recv().is_ok() {}
        self.peer = self.streams.recv().await.unwrap();
    }

    /// Breaks the stream and waits for the next one.
    async fn break_stream(&mut self) {
        let next = self.streams.recv();
        self.peer.to_client = mpsc::channel(1).0;
        self.peer = next.await.unwrap();
    }
}

fn options() -> SessionOptions {
    SessionOptions {
        volume: None,
        role: Role::Client,
        near: Side::Primary,
        task_slots: 0,
        description: SessionDescription::default(),
        request_deadline: Duration::from_secs(30),
    }
}

/// A request whose number can be seen in its operation.
fn attributes_of(inode: u64) -> Operation {
    Operation::GetAttributes {
        inode: InodeNumber(inode),
    }
}

fn mutation() -> Operation {
    Operation::Open {
        inode: InodeNumber(9),
        truncate: true,
    }
}

fn lock(kind: LockKind, wait: bool) -> Operation {
    let lock = Lock {
        family: LockFamily::Flock,
        kind,
        start: 0,
        end: u64::MAX,
        owner: 1,
        process: 1,
    };
    Operation::SetLock {
        inode: InodeNumber(5),
        lock,
        wait,
    }
}

/// Lets every task run until all of them wait.
async fn settle() {
    for _ in 0..64 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn requests_are_numbered_in_the_order_of_the_calls_not_of_the_polls() {
    let mut setup = Setup::new().await;
    let first = setup.session.request(Caller::ROOT, attributes_of(11));
    let second = setup.session.request(Caller::ROOT, attributes_of(12));
    drop(setup.session.request(Caller::ROOT, attributes_of(13)));
    let second = tokio::spawn(second);
    for expected in 1..=3 {
        let (number, operation) = setup.peer.request().await;
        assert_eq!((number, operation), (expected, attributes_of(10 + expected)));
    }
    setup.peer.reply(2).await;
    assert_eq!(second.await.unwrap(), Ok(Reply::Offset(2)));
    setup.peer.reply_with(1, Err(Errno::NotFound)).await;
    assert_eq!(first.await, Err(RequestError::Failed(Errno::NotFound)));
    setup.peer.reply(3).await;
    settle().await;
    // The third nobody waited for; the handler hears of it all the same.
    assert_eq!(
        setup.diary.take(),
        ["replied 12 ok", "replied 11 failed", "replied 13 ok"]
    );
}

#[tokio::test(start_paused = true)]
async fn after_a_break_what_is_unreplied_is_sent_again_in_order_after_the_reclaim() {
    let mut setup = Setup::new().await;
    *setup.diary.held.lock().unwrap() = Reclaim {
        opens: (0..10_000).map(|n| (InodeNumber(n), 1)).collect(),
        locks: Vec::new(),
        complete: true,
    };
    let mut waiting: Vec<_> = (1..=5)
        .map(|n| tokio::spawn(setup.session.request(Caller::ROOT, attributes_of(n))))
        .collect();
    for _ in 0..5 {
        setup.peer.request().await;
    }
    setup.peer.reply(1).await;
    setup.peer.reply(4).await;
    settle().await;
    setup.break_stream().await;
    // Made while there is no stream.
    waiting.push(tokio::spawn(
        setup.session.request(Caller::ROOT, attributes_of(6)),
    ));
    let hello = setup.peer.welcome(resumed(1, 1, 4)).await;
    assert_eq!(
        (hello.session, hello.seen),
        (Some(SessionId(1)), Some((Epoch(1), Position(4))))
    );
    let mut opens = 0;
    loop {
        let ClientMessage::Reclaim(reclaim) = setup.peer.next().await else {
            panic!("a reclaim was expected")
        };
        opens += reclaim.opens.len();
        if reclaim.complete {
            break;
        }
    }
    assert_eq!(opens, 10_000);
    let mut numbers = Vec::new();
    for _ in 0..4 {
        numbers.push(setup.peer.request().await.0);
    }
    assert_eq!(numbers, [2, 3, 5, 6]);
    for number in numbers {
        setup.peer.reply(number).await;
    }
    for (task, number) in waiting.into_iter().zip(1..) {
        assert_eq!(task.await.unwrap(), Ok(Reply::Offset(number)));
    }
    let diary = setup.diary.take();
    assert_eq!(
        diary[..4],
        ["replied 1 ok", "replied 4 ok", "disconnected", "held"]
    );
    assert_eq!(
        diary[4..],
        ["replied 2 ok", "replied 3 ok", "replied 5 ok", "replied 6 ok"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_reply_is_ignored() {
    let mut setup = Setup::new().await;
    let request = setup.session.request(Caller::ROOT, attributes_of(1));
    setup.peer.request().await;
    setup.peer.reply(1).await;
    setup.peer.reply_with(1, Err(Errno::InputOutput)).await;
    setup.peer.reply(99).await;
    assert_eq!(request.await, Ok(Reply::Offset(1)));
    settle().await;
    assert_eq!(setup.diary.take(), ["replied 1 ok"]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_asked_for_again() {
    let mut setup = Setup::new().await;
    let request = tokio::spawn(setup.session.request(Caller::ROOT, mutation()));
    for _ in 0..3 {
        assert_eq!(setup.peer.request().await, (1, mutation()));
        setup.break_stream().await;
        setup.peer.welcome(resumed(1, 1, 0)).await;
        assert!(matches!(setup.peer.next().await, ClientMessage::Reclaim(_)));
    }
    setup.peer.request().await;
    setup.peer.reply(1).await;
    assert_eq!(request.await.unwrap(), Ok(Reply::Offset(1)));
}

#[tokio::test(start_paused = true)]
async fn the_window_counts_from_the_oldest_unreplied_request() {
    let mut setup = Setup::new().await;
    let total = REQUEST_WINDOW + 10;
    let requests: Vec<_> = (1..=total)
        .map(|n| setup.session.request(Caller::ROOT, attributes_of(n)))
        .collect();
    for expected in 1..=REQUEST_WINDOW {
        assert_eq!(setup.peer.request().await.0, expected);
    }
    // All but the oldest are answered: still nothing more may be sent.
    for number in 2..=REQUEST_WINDOW {
        setup.peer.reply(number).await;
    }
    settle().await;
    assert!(setup.peer.buffered.is_empty() && setup.peer.from_client.is_empty());
    setup.peer.reply(1).await;
    for expected in REQUEST_WINDOW + 1..=total {
        assert_eq!(setup.peer.request().await.0, expected);
        setup.peer.reply(expected).await;
    }
    for (request, number) in requests.into_iter().zip(1..) {
        assert_eq!(request.await, Ok(Reply::Offset(number)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_a_lock_does_not_close_the_window() {
    let mut setup = Setup::new().await;
    let waiting = tokio::spawn(setup.session.request(Caller::ROOT, lock(LockKind::Write, true)));
    assert_eq!(setup.peer.request().await.0, 1);
    for number in 2..=REQUEST_WINDOW * 3 {
        let request = tokio::spawn(setup.session.request(Caller::ROOT, attributes_of(number)));
        assert_eq!(setup.peer.request().await.0, number);
        setup.peer.reply(number).await;
        assert_eq!(request.await.unwrap(), Ok(Reply::Offset(number)));
    }
    // It has no deadline, and keeps its place when it is sent again.
    tokio::time::advance(Duration::from_secs(3)).await;
    drop(setup.session.request(Caller::ROOT, attributes_of(1)));
    setup.peer.request().await;
    setup.break_stream().await;
    setup.peer.welcome(resumed(1, 1, REQUEST_WINDOW * 3)).await;
    setup.peer.next().await;
    assert_eq!(setup.peer.request().await, (1, lock(LockKind::Write, true)));
    assert_eq!(setup.peer.request().await.0, REQUEST_WINDOW * 3 + 1);
    setup.peer.reply_with(1, Ok(Reply::Done)).await;
    assert_eq!(waiting.await.unwrap(), Ok(Reply::Done));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_was_sent_and_timed_out_is_sent_again_and_its_reply_reaches_the_handler() {
    let mut setup = Setup::new().await;
    let request = tokio::spawn(setup.session.request(Caller::ROOT, mutation()));
    setup.peer.request().await;
    // The service answers heartbeats but not the request.
    while !request.is_finished() {
        let heartbeat = tokio::time::timeout(Duration::from_secs(3), setup.peer.raw()).await;
        if let Ok(ClientMessage::Heartbeat { number }) = heartbeat {
            setup
                .peer
                .send(ServerMessage::HeartbeatReply { number, time: None })
                .await;
        }
    }
    assert_eq!(request.await.unwrap(), Err(RequestError::TimedOut));
    setup.break_stream().await;
    setup.peer.welcome(resumed(1, 1, 0)).await;
    setup.peer.next().await;
    assert_eq!(setup.peer.request().await, (1, mutation()));
    setup.peer.reply(1).await;
    settle().await;
    let diary = setup.diary.take();
    assert_eq!(diary[..2], ["disconnected", "held"]);
    assert!(diary[2].starts_with("replied Open"), "{diary:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_timed_out_before_it_was_sent_is_never_executed() {
    let mut setup = Setup::new().await;
    setup.break_stream().await;
    // Nobody answers Hello for longer than the deadline.
    let request = setup.session.request(Caller::ROOT, mutation());
    assert_eq!(request.await, Err(RequestError::TimedOut));
    let later = tokio::spawn(setup.session.request(Caller::ROOT, attributes_of(2)));
    setup.next_attempt().await;
    setup.peer.welcome(resumed(1, 1, 0)).await;
    setup.peer.next().await;
    let (number, operation) = setup.peer.request().await;
    assert_eq!(
        (number, operation),
        (
            1,
            Operation::StatFileSystem {
                inode: InodeNumber::ROOT
            }
        )
    );
    assert_eq!(setup.peer.request().await.0, 2);
    setup.peer.reply(1).await;
    setup.peer.reply(2).await;
    later.await.unwrap().unwrap();
    assert_eq!(setup.diary.take(), ["disconnected", "held", "replied 2 ok"]);
}

#[tokio::test(start_paused = true)]
async fn the_lease_counts_from_when_the_answered_heartbeat_was_sent() {
    let mut setup = Setup::new().await;
    assert!(!setup.session.lease_is_valid());
    let ClientMessage::Heartbeat { number } = setup.peer.raw().await else {
        panic!("a heartbeat was expected")
    };
    tokio::time::sleep(Duration::from_millis(1500)).await;
    setup
        .peer
        .send(ServerMessage::HeartbeatReply { number, time: None })
        .await;
    settle().await;
    // 2 % are kept back for clocks that run at different rates.
    assert_eq!(
        setup.session.lease_remaining(),
        Duration::from_millis(9800 - 1500)
    );
    tokio::time::sleep(Duration::from_millis(9800 - 1500)).await;
    assert!(!setup.session.lease_is_valid());
}

#[tokio::test(start_paused = true)]
async fn a_silent_service_is_left_and_the_lease_ends_before_the_handler_hears_of_it() {
    let mut setup = Setup::new().await;
    let ClientMessage::Heartbeat { number } = setup.peer.raw().await else {
        panic!("a heartbeat was expected")
    };
    setup
        .peer
        .send(ServerMessage::HeartbeatReply { number, time: None })
        .await;
    settle().await;
    assert!(setup.session.lease_is_valid());
    let before = Instant::now();
    setup.peer = setup.streams.recv().await.unwrap();
    assert_eq!(
        before.elapsed(),
        Duration::from_secs(LEASE_SECONDS).mul_f64(0.98),
        "what the kernel caches is dropped when the lease ends"
    );
    assert!(!setup.session.lease_is_valid());
    assert_eq!(setup.diary.take(), ["disconnected"]);
    setup.peer.welcome(resumed(1, 1, 0)).await;
    setup.peer.next().await;
}

/// Found by the simulation: the kernel's pages have no time to live, and the service waits for nobody whose lease has ended.
#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_lease_even_if_other_messages_arrive() {
    let mut setup = Setup::new().await;
    let before = Instant::now();
    for number in 1..=9 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        setup
            .peer
            .send(ServerMessage::Invalidate {
                number,
                items: vec![Invalidation::Attributes(crate::InodeNumber(7))],
            })
            .await;
    }
    setup.peer = setup.streams.recv().await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(LEASE_SECONDS));
    assert!(setup.diary.take().contains(&"disconnected".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn after_expiry_unreplied_requests_fail_and_the_next_request_opens_a_new_session() {
    let mut setup = Setup::new().await;
    let lost = tokio::spawn(setup.session.request(Caller::ROOT, mutation()));
    setup.peer.request().await;
    setup.peer.send(ServerMessage::Expired).await;
    assert_eq!(lost.await.unwrap(), Err(RequestError::SessionLost));
    assert_eq!(setup.diary.take(), ["disconnected", "expired"]);
    settle().await;
    assert!(setup.streams.is_empty(), "a new session is opened lazily");
    let next = tokio::spawn(setup.session.request(Caller::ROOT, attributes_of(1)));
    setup.peer = setup.streams.recv().await.unwrap();
    let hello = setup
        .peer
        .welcome(Welcome {
            format: format("renamed"),
            ..welcome(2, 1, 50)
        })
        .await;
    assert_eq!((hello.session, hello.seen), (None, None));
    assert_eq!(setup.peer.request().await.0, 1);
    setup.peer.reply(1).await;
    assert_eq!(next.await.unwrap(), Ok(Reply::Offset(1)));
    assert_eq!(setup.session.id(), SessionId(2));
    assert_eq!(setup.session.format().name, "renamed");
    assert_eq!(setup.diary.take(), ["format renamed", "replied 1 ok"]);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_expired_while_disconnected_is_over() {
    let mut setup = Setup::new().await;
    let lost = tokio::spawn(setup.session.request(Caller::ROOT, mutation()));
    setup.peer.request().await;
    setup.break_stream().await;
    setup.peer.hello().await;
    setup
        .peer
        .send(ServerMessage::Refused(Refusal::SessionExpired))
        .await;
    assert_eq!(lost.await.unwrap(), Err(RequestError::SessionLost));
    assert_eq!(setup.diary.take(), ["disconnected", "expired"]);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_behind_is_not_used() {
    let mut setup = Setup::new().await;
    let request = tokio::spawn(setup.session.request(Caller::ROOT, attributes_of(7)));
    let other = tokio::spawn(setup.session.request(Caller::ROOT, attributes_of(8)));
    setup.peer.request().await;
    setup.peer.request().await;
    setup.peer.reply(1).await;
    request.await.unwrap().unwrap();
    setup.break_stream().await;
    setup.peer.welcome(resumed(1, 1, 0)).await;
    setup.peer = setup.streams.recv().await.unwrap();
    setup.peer.hello().await;
    setup.peer.send(ServerMessage::Refused(Refusal::Behind)).await;
    setup.peer = setup.streams.recv().await.unwrap();
    setup.peer.welcome(resumed(1, 2, 1)).await;
    setup.peer.next().await;
    assert_eq!(setup.peer.request().await.0, 2);
    setup.peer.reply(2).await;
    other.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn streams_that_break_right_after_the_welcome_are_tried_again_with_growing_pauses() {
    let mut setup = Setup::new().await;
    let begun = tokio::time::Instant::now();
    for _ in 0..20 {
        setup.break_stream().await;
        setup.peer.welcome(resumed(1, 1, 0)).await;
    }
    assert!(
        begun.elapsed() > Duration::from_secs(10),
        "20 streams within {:?}",
        begun.elapsed()
    );
    // Once a stream works, the next break starts with a short pause, or none, again.
    let number = loop {
        if let ClientMessage::Heartbeat { number } = setup.peer.raw().await {
            break number;
        }
    };
    setup
        .peer
        .send(ServerMessage::HeartbeatReply { number, time: None })
        .await;
    settle().await;
    let begun = tokio::time::Instant::now();
    setup.break_stream().await;
    assert!(
        begun.elapsed() < Duration::from_millis(100),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn an_invalidation_is_acknowledged_once_and_only_on_its_own_stream() {
    let mut setup = Setup::new().await;
    for number in [1, 2] {
        setup
            .peer
            .send(ServerMessage::Invalidate {
                number,
                items: Vec::new(),
            })
            .await;
    }
    settle().await;
    setup.session.acknowledge(1);
    setup.session.acknowledge(1);
    assert_eq!(setup.peer.next().await, ClientMessage::Acknowledge { number: 1 });
    setup.break_stream().await;
    setup.peer.welcome(resumed(1, 1, 0)).await;
    assert!(matches!(setup.peer.next().await, ClientMessage::Reclaim(_)));
    setup.session.acknowledge(2);
    drop(setup.session.request(Caller::ROOT, attributes_of(1)));
    assert_eq!(setup.peer.request().await.0, 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_without_caches_need_not_acknowledge() {
    let mut setup = Setup::with(64, Diary::default()).await;
    setup
        .peer
        .send(ServerMessage::Invalidate {
            number: 3,
            items: Vec::new(),
        })
        .await;
    assert_eq!(setup.peer.next().await, ClientMessage::Acknowledge { number: 3 });
}

#[tokio::test(start_paused = true)]
async fn numbers_are_refilled_ahead_of_need_and_waited_for_when_there_are_none() {
    let mut setup = Setup::new().await;
    assert_eq!(setup.session.take_inode().await, Ok(InodeNumber(1000)));
    assert_eq!(setup.session.take_inode().await, Ok(InodeNumber(1001)));
    // Half of the grant is used: more are asked for, once.
    assert_eq!(setup.peer.request().await, (1, Operation::GrantNumbers));
    assert_eq!(setup.session.take_inode().await, Ok(InodeNumber(1002)));
    assert_eq!(setup.session.take_inode().await, Ok(InodeNumber(1003)));
    let session = setup.session.clone();
    let waiting = tokio::spawn(async move { session.take_inode().await });
    let granted = |start| {
        let range = NumberRange {
            start,
            end: start + 4,
        };
        Ok(Reply::Granted {
            inodes: range,
            objects: range,
        })
    };
    assert_eq!(setup.peer.request().await, (2, Operation::GrantNumbers));
    setup.peer.reply_with(1, granted(2000)).await;
    setup.peer.reply_with(2, granted(3000)).await;
    assert_eq!(waiting.await.unwrap(), Ok(InodeNumber(2000)));
    let object = setup.session.take_object().await.unwrap();
    assert_eq!(
        object,
        ObjectId {
            epoch: Epoch(1),
            number: 500
        }
    );
}

#[tokio::test(start_paused = true)]
async fn object_names_are_of_the_epoch_in_which_they_were_granted() {
    let mut setup = Setup::new().await;
    setup.session.take_object().await.unwrap();
    setup.session.take_object().await.unwrap();
    assert_eq!(setup.peer.request().await, (1, Operation::GrantNumbers));
    setup.break_stream().await;
    let objects = NumberRange { start: 900, end: 902 };
    setup
        .peer
        .welcome(Welcome {
            objects,
            ..resumed(1, 2, 5)
        })
        .await;
    setup.peer.next().await;
    // The reply of the old epoch comes after the restart: its object numbers must not be used in the new one.
    assert_eq!(setup.peer.request().await, (1, Operation::GrantNumbers));
    let old = NumberRange { start: 504, end: 508 };
    setup
        .peer
        .reply_with(
            1,
            Ok(Reply::Granted {
                inodes: NumberRange::default(),
                objects: old,
            }),
        )
        .await;
    settle().await;
    let names = [
        setup.session.take_object().await.unwrap(),
        setup.session.take_object().await.unwrap(),
    ];
    assert_eq!(
        names.map(|name| (name.epoch.0, name.number)),
        [(2, 900), (2, 901)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_full_transport_blocks_without_losing_or_reordering_anything() {
    let mut setup = Setup::with(
        1,
        Diary {
            acknowledges: true,
            ..Diary::default()
        },
    )
    .await;
    let requests: Vec<_> = (1..=1000)
        .map(|n| setup.session.request(Caller::ROOT, attributes_of(n)))
        .collect();
    settle().await;
    for expected in 1..=1000 {
        assert_eq!(setup.peer.request().await, (expected, attributes_of(expected)));
    }
    for number in 1..=1000 {
        setup.peer.reply(number).await;
    }
    for request in requests {
        request.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_replies_and_says_goodbye() {
    let mut setup = Setup::new().await;
    let request = setup.session.request(Caller::ROOT, mutation());
    let other = setup.session.clone();
    let closing = tokio::spawn(setup.session.close());
    assert_eq!(setup.peer.request().await.0, 1);
    settle().await;
    assert_eq!(
        other.request(Caller::ROOT, mutation()).await,
        Err(RequestError::SessionLost)
    );
    setup.peer.reply(1).await;
    assert_eq!(setup.peer.next().await, ClientMessage::Goodbye);
    assert_eq!(setup.peer.raw_or_end().await, None);
    drop(setup.peer);
    closing.await.unwrap();
    assert_eq!(request.await, Ok(Reply::Offset(1)));
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_handle_ends_the_session() {
    let mut setup = Setup::new().await;
    let request = setup.session.request(Caller::ROOT, mutation());
    drop(setup.session);
    assert_eq!(setup.peer.next().await, ClientMessage::Goodbye);
    drop(setup.peer);
    assert_eq!(request.await, Err(RequestError::SessionLost));
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_tells_why() {
    let (sender, mut streams) = mpsc::unbounded_channel();
    let connecting = Session::connect(
        Arc::new(Script {
            streams: sender,
            capacity: 4,
        }),
        options(),
        Arc::new(WithoutCaches),
    );
    let refusal = Refusal::OtherVolume {
        served: VolumeId([1; 16]),
        expected: VolumeId([2; 16]),
    };
    let serving = async {
        let mut peer = streams.recv().await.unwrap();
        peer.hello().await;
        peer.send(ServerMessage::Refused(refusal.clone())).await;
    };
    let (result, ()) = tokio::join!(connecting, serving);
    assert!(matches!(result, Err(ConnectError::Refused(reason)) if reason == refusal));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_too_large_fails_alone() {
    let mut setup = Setup::new().await;
    let value = bytes::Bytes::from(vec![0; crate::wire::MESSAGE_MAX_BYTES]);
    let operation = Operation::SetExtendedAttribute {
        inode: InodeNumber(1),
        name: bytes::Bytes::from_static(b"user.a"),
        value,
        mode: crate::operation::SetMode::Any,
    };
    assert_eq!(
        setup.session.request(Caller::ROOT, operation).await,
        Err(RequestError::Failed(Errno::TooBig))
    );
    let request = setup.session.request(Caller::ROOT, attributes_of(1));
    assert_eq!(setup.peer.request().await.0, 1);
    setup.peer.reply(1).await;
    request.await.unwrap();
}

/// Found by the simulation: an unlock that timed out while the service was away was forgotten, and nobody got the lock again.
#[tokio::test(start_paused = true)]
async fn what_gives_something_back_is_sent_even_if_nobody_waits_for_it_any_more() {
    let mut setup = Setup::new().await;
    setup.break_stream().await;
    let unlock = Operation::SetLock {
        inode: crate::InodeNumber(7),
        lock: Lock {
            family: LockFamily::Flock,
            kind: LockKind::Unlock,
            start: 0,
            end: u64::MAX,
            owner: 1,
            process: 1,
        },
        wait: false,
    };
    let given_up = tokio::spawn(setup.session.request(Caller::ROOT, unlock.clone()));
    let withdrawn = tokio::spawn(setup.session.request(Caller::ROOT, mutation()));
    assert_eq!(given_up.await.unwrap(), Err(RequestError::TimedOut));
    assert_eq!(withdrawn.await.unwrap(), Err(RequestError::TimedOut));
    setup.next_attempt().await;
    setup.peer.welcome(resumed(1, 1, 0)).await;
    let mut sent = Vec::new();
    while sent.len() < 2 {
        if let ClientMessage::Request { operation, .. } = setup.peer.next().await {
            sent.push(operation);
        }
    }
    assert_eq!(sent[0], unlock);
    assert!(matches!(sent[1], Operation::StatFileSystem { .. }), "{sent:?}");
}

#[path = "recorder_tests.rs"]
mod recorder;
