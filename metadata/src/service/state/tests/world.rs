//! A service over a journal in memory, whose appends end when the test says so.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use twinshore_protocol::attributes::Attributes;
use twinshore_protocol::format::{
    Compression, Durability, Encryption, FORMAT_VERSION, RegionFormat, VolumeFormat, VolumeSettings,
};
use twinshore_protocol::identifiers::NumberRange;
use twinshore_protocol::message::{
    ClientMessage, Hello, Invalidation, PROTOCOL_VERSION, Reclaim, Refusal, Role, ServerMessage,
    SessionDescription, Welcome,
};
use twinshore_protocol::operation::NewInode;
use twinshore_protocol::{
    Caller, Epoch, Errno, FileName, InodeNumber, Operation, Position, Reply, RequestNumber, SessionId, Side,
    Timestamp, VolumeId,
};

use crate::core::VolumeLimits;
use crate::journal::memory::{MemoryDisk, MemoryJournal};
use crate::journal::{Digest, Tail};
use crate::service::recovery;
use crate::service::state::{AppendError, ConnectionId, Input, Instants, Output, Service, ServiceOptions};
use crate::view::memory::MemoryView;

pub const VOLUME: VolumeId = VolumeId([7; 16]);
const START: i64 = 1_000_000;

pub fn format() -> VolumeFormat {
    let region = |name: &str| RegionFormat {
        name: name.into(),
        bucket: format!("file:///{name}"),
    };
    VolumeFormat {
        version: FORMAT_VERSION,
        volume: VOLUME,
        name: "test".into(),
        encryption: Encryption::None,
        settings: VolumeSettings {
            primary: region("east"),
            target: Some(region("west")),
            replication_enabled: true,
            compression: Compression::None,
            durability: Durability::Close,
            inline_limit_bytes: 16 << 10,
            trash_retention_seconds: 0,
            synchronisation_interval_seconds: 0,
            bandwidth_limit_bytes_per_second: [0; 2],
        },
    }
}

pub struct World {
    pub service: Service<MemoryView>,
    disk: MemoryDisk,
    journal: Option<MemoryJournal>,
    pub options: ServiceOptions,
    pub now: Duration,
    next_connection: u64,
    inboxes: BTreeMap<ConnectionId, Vec<ServerMessage>>,
    pub closed: Vec<ConnectionId>,
    pub append: Option<(Tail, Digest, Bytes)>,
    pub stopped: Option<String>,
    /// Records are committed as soon as they are to be appended.
    pub automatic: bool,
}

/// A client as a test plays it.
#[derive(Clone, Copy, Debug)]
pub struct Client {
    pub connection: ConnectionId,
    pub session: SessionId,
    pub inodes: NumberRange,
    pub objects: NumberRange,
    pub epoch: Epoch,
    pub next: u64,
}

impl World {
    pub fn new() -> Self {
        Self::with(ServiceOptions::default())
    }

    pub fn with(options: ServiceOptions) -> Self {
        let disk = MemoryDisk::new(VOLUME, &Tail::EMPTY);
        let mut journal = disk.open().unwrap();
        recovery::create(
            &mut journal,
            &format(),
            VolumeLimits::default(),
            wall(Duration::ZERO),
        )
        .unwrap();
        drop(journal);
        Self::start(disk, options, Duration::ZERO)
    }

    fn start(disk: MemoryDisk, options: ServiceOptions, now: Duration) -> Self {
        let mut journal = disk.open().unwrap();
        let mut view = MemoryView::new();
        let tail = recovery::recover(&mut journal, &mut view, VOLUME).unwrap();
        let instants = Instants {
            wall: wall(now),
            monotonic: now,
        };
        let (service, outputs) = Service::start(view, tail, instants, options).unwrap();
        let mut world = Self {
            service,
            disk,
            journal: Some(journal),
            options,
            now,
            next_connection: 1,
            inboxes: BTreeMap::new(),
            closed: Vec::new(),
            append: None,
            stopped: None,
            automatic: true,
        };
        world.take(outputs);
        world
    }

    /// The process dies and another one starts on the same disk.
    pub fn restart(mut self) -> Self {
        self.journal = None;
        let mut next = Self::start(self.disk.clone(), self.options, self.now);
        next.next_connection = self.next_connection;
        next
    }

    fn take(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send { connection, message } | Output::SendLater { connection, message } => {
                    self.inboxes.entry(connection).or_default().push(message);
                }
                Output::Append { tail, digest, bytes } => {
                    assert!(
                        self.append.replace((tail, digest, bytes)).is_none(),
                        "two appends at once"
                    );
                }
                Output::Close { connection } => self.closed.push(connection),
                Output::Pause { .. } | Output::Resume { .. } => {}
                Output::Stop { reason } => self.stopped = Some(reason),
            }
        }
        while self.automatic && self.append.is_some() {
            self.commit();
        }
    }

    pub fn input(&mut self, input: Input) {
        let instants = Instants {
            wall: wall(self.now),
            monotonic: self.now,
        };
        let outputs = self.service.handle(input, instants);
        self.take(outputs);
    }

    /// The append under way succeeds.
    pub fn commit(&mut self) {
        let (tail, digest, bytes) = self.append.take().expect("an append is under way");
        let tail = recovery::append(self.journal.as_mut().unwrap(), &tail, digest, &bytes).unwrap();
        self.input(Input::Appended(Ok(tail)));
    }

    /// The append under way finds a full disk.
    pub fn fill_disk(&mut self) {
        self.append.take().expect("an append is under way");
        self.input(Input::Appended(Err(AppendError::Full)));
    }

    /// Time passes, in ticks; clients that are given send heartbeats.
    pub fn pass(&mut self, duration: Duration, alive: &[Client]) {
        let until = self.now + duration;
        while self.now < until {
            self.now = (self.now + Duration::from_secs(1)).min(until);
            for client in alive {
                self.message(client, ClientMessage::Heartbeat { number: 1 });
            }
            self.input(Input::Tick);
        }
        for inbox in self.inboxes.values_mut() {
            inbox.retain(|message| !matches!(message, ServerMessage::HeartbeatReply { .. }));
        }
    }

    pub fn open_stream(&mut self, hello: Hello) -> ConnectionId {
        let connection = ConnectionId(self.next_connection);
        self.next_connection += 1;
        self.input(Input::Connected { connection });
        self.input(Input::Messages {
            connection,
            messages: vec![ClientMessage::Hello(hello)],
        });
        connection
    }

    pub fn client(&mut self) -> Client {
        self.connect(hello())
    }

    pub fn admin(&mut self) -> Client {
        self.connect(Hello {
            role: Role::Admin,
            ..hello()
        })
    }

    pub fn connect(&mut self, hello: Hello) -> Client {
        let connection = self.open_stream(hello);
        let welcome = self.welcome(connection);
        Client {
            connection,
            session: welcome.session,
            inodes: welcome.inodes,
            objects: welcome.objects,
            epoch: welcome.objects_epoch,
            next: 1,
        }
    }

    fn welcome(&mut self, connection: ConnectionId) -> Welcome {
        let inbox = self.inboxes.entry(connection).or_default();
        assert!(
            matches!(inbox.first(), Some(ServerMessage::Welcome(_))),
            "no welcome first but {inbox:?}"
        );
        match inbox.remove(0) {
            ServerMessage::Welcome(welcome) => *welcome,
            other => panic!("no welcome but {other:?}"),
        }
    }

    /// Connects a client again, with what it claims to hold. Its kernel has dropped everything.
    pub fn resume(&mut self, client: &mut Client, reclaim: Reclaim) {
        let number = self.resume_slowly(client, reclaim);
        self.message(client, ClientMessage::Acknowledge { number });
    }

    /// The same while its kernel is still dropping: answers what is to be acknowledged when it is through.
    pub fn resume_slowly(&mut self, client: &mut Client, reclaim: Reclaim) -> u64 {
        let number = self.welcome_again(client);
        self.claim(client, reclaim);
        number
    }

    /// Connects a client again, which claims nothing yet. Answers what is to be acknowledged when its kernel is through.
    pub fn welcome_again(&mut self, client: &mut Client) -> u64 {
        client.connection = self.open_stream(Hello {
            session: Some(client.session),
            ..hello()
        });
        let welcome = self.welcome(client.connection);
        assert_eq!(welcome.session, client.session);
        client.objects = welcome.objects;
        client.epoch = welcome.objects_epoch;
        let number = match self.inboxes.entry(client.connection).or_default().first() {
            Some(ServerMessage::Invalidate { number, items }) if items.is_empty() => *number,
            other => panic!("not asked for what was cached before but {other:?}"),
        };
        self.inboxes.entry(client.connection).or_default().remove(0);
        number
    }

    /// Says what a client holds.
    pub fn claim(&mut self, client: &Client, reclaim: Reclaim) {
        self.message(
            client,
            ClientMessage::Reclaim(Reclaim {
                complete: true,
                ..reclaim
            }),
        );
    }

    pub fn disconnect(&mut self, client: &Client) {
        self.input(Input::Disconnected {
            connection: client.connection,
        });
        self.inboxes.remove(&client.connection);
    }

    pub fn refusal(&mut self, hello: Hello) -> Refusal {
        let connection = self.open_stream(hello);
        assert!(self.closed.contains(&connection));
        match self.inbox(connection).as_slice() {
            [ServerMessage::Refused(refusal)] => refusal.clone(),
            other => panic!("not refused but {other:?}"),
        }
    }

    pub fn message(&mut self, client: &Client, message: ClientMessage) {
        self.input(Input::Messages {
            connection: client.connection,
            messages: vec![message],
        });
    }

    /// Sends a request and answers its number.
    pub fn ask(&mut self, client: &mut Client, operation: Operation) -> RequestNumber {
        let number = RequestNumber(client.next);
        client.next += 1;
        self.send(client, number, operation);
        number
    }

    pub fn send(&mut self, client: &Client, number: RequestNumber, operation: Operation) {
        self.message(
            client,
            ClientMessage::Request {
                number,
                caller: Caller::ROOT,
                operation,
            },
        );
    }

    /// Sends a request that is answered at once, and acknowledges nothing.
    pub fn get(&mut self, client: &mut Client, operation: Operation) -> Result<Reply, Errno> {
        let number = self.ask(client, operation);
        self.reply(client, number).expect("it is answered at once")
    }

    /// What came over a stream since the last look.
    pub fn inbox(&mut self, connection: ConnectionId) -> Vec<ServerMessage> {
        self.inboxes.remove(&connection).unwrap_or_default()
    }

    /// The reply to a request, if it came. Everything else stays in the inbox.
    pub fn reply(&mut self, client: &Client, number: RequestNumber) -> Option<Result<Reply, Errno>> {
        let inbox = self.inboxes.entry(client.connection).or_default();
        let found = inbox.iter().position(
            |message| matches!(message, ServerMessage::Reply { number: other, .. } if *other == number),
        )?;
        match inbox.remove(found) {
            ServerMessage::Reply { result, .. } => Some(result),
            _ => None,
        }
    }

    /// Invalidations that came, with their numbers.
    pub fn invalidations(&mut self, client: &Client) -> Vec<(u64, Vec<Invalidation>)> {
        let inbox = self.inboxes.entry(client.connection).or_default();
        let mut found = Vec::new();
        inbox.retain(|message| match message {
            ServerMessage::Invalidate { number, items } => {
                found.push((*number, items.clone()));
                false
            }
            _ => true,
        });
        found
    }

    pub fn acknowledge_all(&mut self, client: &Client) -> usize {
        let invalidations = self.invalidations(client);
        for (number, _) in &invalidations {
            self.message(client, ClientMessage::Acknowledge { number: *number });
        }
        invalidations.len()
    }

    pub fn create(&mut self, client: &mut Client, text: &str) -> InodeNumber {
        let operation = create(client, text);
        match self.get(client, operation) {
            Ok(Reply::Created {
                attributes,
                new: true,
                ..
            }) => attributes.inode,
            other => panic!("not created but {other:?}"),
        }
    }

    pub fn attributes(&mut self, client: &mut Client, inode: InodeNumber) -> Result<Attributes, Errno> {
        match self.get(client, Operation::GetAttributes { inode }) {
            Ok(Reply::Attributes(attributes)) => Ok(attributes),
            Err(error) => Err(error),
            other => panic!("no attributes but {other:?}"),
        }
    }

    pub fn position(&self) -> Position {
        self.service.position()
    }
}

pub fn wall(now: Duration) -> Timestamp {
    let start = Timestamp {
        seconds: START,
        nanoseconds: 0,
    };
    start.plus_seconds(now.as_secs().cast_signed())
}

pub fn hello() -> Hello {
    Hello {
        protocol_version: PROTOCOL_VERSION,
        volume: Some(VOLUME),
        session: None,
        role: Role::Client,
        near: Side::Primary,
        task_slots: 0,
        description: SessionDescription::default(),
        seen: None,
    }
}

pub fn name(text: &str) -> FileName {
    text.parse().unwrap()
}

pub fn create(client: &mut Client, text: &str) -> Operation {
    let inode = InodeNumber(client.inodes.take().unwrap());
    Operation::Create {
        parent: InodeNumber::ROOT,
        name: name(text),
        new: NewInode {
            inode,
            mode: 0o644,
            umask: 0,
        },
        exclusive: true,
        truncate: false,
    }
}

pub fn lookup(text: &str) -> Operation {
    Operation::Lookup {
        parent: InodeNumber::ROOT,
        name: name(text),
    }
}

pub fn unlink(text: &str) -> Operation {
    Operation::Unlink {
        parent: InodeNumber::ROOT,
        name: name(text),
    }
}
