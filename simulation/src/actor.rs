//! A program on a mount: it works on files of its own and on files that all share, and checks what it sees.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;
use twinshore_filesystem::vfs::{Found, OpenFlags, Vfs};
use twinshore_protocol::operation::RenameMode;
use twinshore_protocol::{Caller, Errno, FileName, FileType, InodeNumber};

use crate::content;
use crate::history::History;
use crate::random::Random;
use crate::trace::Trace;
use crate::verdict::Verdict;

/// How many registers the clients fight for.
pub const REGISTERS: u64 = 4;

/// A read is made in pieces of this size, as the kernel does.
const READ_BYTES: u32 = 128 << 10;

/// The mode of everything that is made.
const MODE: u16 = 0o777;

/// What an actor knows of a file of its own.
#[derive(Clone)]
struct OwnFile {
    inode: InodeNumber,
    content: Vec<u8>,
}

/// A program.
pub struct Actor {
    /// Its name, which begins the names of its own files.
    pub name: String,
    /// Its mount.
    pub vfs: Vfs,
    random: Random,
    trace: Trace,
    history: History,
    verdict: Verdict,
    counter: u64,
    /// Files whose last change was acknowledged as durable.
    own: BTreeMap<String, OwnFile>,
}

/// A step either worked, or failed in a way that faults explain; what must not be goes to the verdict.
type Step = Result<(), Errno>;

impl Actor {
    /// An actor on a mount.
    pub fn new(name: &str, vfs: Vfs, seed: u64, trace: Trace, history: History, verdict: Verdict) -> Self {
        let random = Random::fork(seed, &format!("actor {name}"));
        Self {
            name: name.to_owned(),
            vfs,
            random,
            trace,
            history,
            verdict,
            counter: 0,
            own: BTreeMap::new(),
        }
    }

    /// Takes steps until the time is up. Returns what must be true of its own files.
    pub async fn work(mut self, until: Instant) -> BTreeMap<String, Vec<u8>> {
        while Instant::now() < until && !self.verdict.is_guilty() {
            let step = self.random.between(0, 100);
            let (what, result) = match step {
                0..25 => ("write register", self.write_register().await),
                25..55 => ("read register", self.read_register().await),
                55..75 => ("write own file", self.write_own_file().await),
                75..85 => ("read own file", self.read_own_file().await),
                85..90 => ("link own file", self.link_own_file().await),
                90..95 => ("remove own file", self.remove_own_file().await),
                _ => ("directories", self.make_and_remove_directory().await),
            };
            let outcome = result
                .err()
                .map_or_else(|| "ok".to_owned(), |errno| errno.to_string());
            self.trace.event(&self.name, &format!("{what}: {outcome}"));
            tokio::time::sleep(Duration::from_millis(self.random.between(1, 200))).await;
        }
        self.own
            .iter()
            .map(|(name, file)| (name.clone(), file.content.clone()))
            .collect()
    }

    fn next_name(&mut self, kind: &str) -> String {
        self.counter += 1;
        format!("{}-{kind}-{}", self.name, self.counter)
    }

    /// Sizes around the borders that matter: nothing, inline, packed, a block, several blocks.
    fn length(&mut self) -> usize {
        let limit = *self.random.pick(&[64, 5_000, 16_384, 40_000, 200_000]);
        usize::try_from(self.random.between(16, limit + 16)).unwrap_or(16)
    }

    async fn write_register(&mut self) -> Step {
        let register = self.random.between(0, REGISTERS);
        let temporary = self.next_name("temporary");
        let length = self.length();
        let number = self.history.begin(register);
        self.write_new(&temporary, content::of_write(number, length))
            .await?;
        let target = register_name(register);
        self.vfs
            .rename(
                Caller::ROOT,
                InodeNumber::ROOT,
                name(&temporary),
                InodeNumber::ROOT,
                name(&target),
                RenameMode::Replace,
            )
            .await?;
        self.history.acknowledge(register, number);
        Ok(())
    }

    async fn read_register(&mut self) -> Step {
        let register = self.random.between(0, REGISTERS);
        let started = Instant::now();
        let content = read_file(&self.vfs, &register_name(register)).await?;
        let found = match content {
            None => None,
            Some(content) => match content::parse(&content) {
                Ok(number) => Some(number),
                Err(reason) => {
                    self.verdict
                        .guilty(format!("{} read register {register}: {reason}", self.name));
                    return Ok(());
                }
            },
        };
        self.trace
            .event(&self.name, &format!("register {register} is {found:?}"));
        if let Err(reason) = self.history.read(register, started, found) {
            self.verdict.guilty(format!("{}: {reason}", self.name));
        }
        Ok(())
    }

    /// Creates a file of a name that nobody else uses: a retried creation must not see its own effect.
    async fn write_new(&mut self, file: &str, content: Bytes) -> Result<InodeNumber, Errno> {
        let flags = OpenFlags {
            write: true,
            ..OpenFlags::default()
        };
        let created = self
            .vfs
            .create(Caller::ROOT, InodeNumber::ROOT, name(file), MODE, 0, true, flags)
            .await;
        if created.as_ref().err() == Some(&Errno::Exists) {
            self.verdict.guilty(format!(
                "{}: the exclusive creation of {file} was applied twice",
                self.name
            ));
        }
        let (attributed, opened) = created?;
        let inode = attributed.attributes.inode;
        let result = async {
            self.vfs
                .write(Caller::ROOT, inode, opened.handle, 0, content)
                .await?;
            self.vfs.flush(Caller::ROOT, inode, opened.handle, 0).await
        }
        .await;
        self.vfs.release(inode, opened.handle, None);
        result.map(|()| inode)
    }

    async fn write_own_file(&mut self) -> Step {
        if self.own.len() < 4 || self.random.one_in(4) {
            let file = self.next_name("own");
            let length = self.length();
            let number = self.history.begin(u64::MAX);
            let content = content::of_write(number, length);
            let inode = self.write_new(&file, content.clone()).await?;
            self.own.insert(
                file,
                OwnFile {
                    inode,
                    content: content.to_vec(),
                },
            );
            return Ok(());
        }
        let Some((file, known)) = self.pick_own() else {
            return Ok(());
        };
        // Until the change is acknowledged nobody knows what the file holds.
        self.own.remove(&file);
        let mut expected = known.content.clone();
        let offset = usize::try_from(self.random.between(0, expected.len() as u64 + 1000)).unwrap_or(0);
        let length = self.length();
        let piece = content::of_write(self.history.begin(u64::MAX), length);
        if expected.len() < offset + piece.len() {
            expected.resize(offset + piece.len(), 0);
        }
        expected[offset..offset + piece.len()].copy_from_slice(&piece);
        let flags = OpenFlags {
            write: true,
            ..OpenFlags::default()
        };
        let opened = self.vfs.open(Caller::ROOT, known.inode, flags).await?;
        let result = async {
            self.vfs
                .write(Caller::ROOT, known.inode, opened.handle, offset as u64, piece)
                .await?;
            self.vfs.fsync(Caller::ROOT, known.inode, opened.handle).await
        }
        .await;
        self.vfs.release(known.inode, opened.handle, None);
        result?;
        self.own.insert(
            file,
            OwnFile {
                inode: known.inode,
                content: expected,
            },
        );
        Ok(())
    }

    async fn read_own_file(&mut self) -> Step {
        let Some((file, known)) = self.pick_own() else {
            return Ok(());
        };
        match read_file(&self.vfs, &file).await? {
            None => self
                .verdict
                .guilty(format!("{}: its file {file} has vanished", self.name)),
            Some(content) if content != known.content => {
                let place = content.iter().zip(&known.content).position(|(a, b)| a != b);
                self.verdict.guilty(format!(
                    "{}: its file {file} holds {} bytes instead of {}, first difference at {place:?}",
                    self.name,
                    content.len(),
                    known.content.len()
                ));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Gives a file a second name and takes the first away: link counts must follow exactly.
    async fn link_own_file(&mut self) -> Step {
        let Some((file, known)) = self.pick_own() else {
            return Ok(());
        };
        let second = self.next_name("linked");
        self.own.remove(&file);
        let linked = self
            .vfs
            .link(Caller::ROOT, known.inode, InodeNumber::ROOT, name(&second))
            .await;
        if linked.as_ref().err() == Some(&Errno::Exists) {
            self.verdict
                .guilty(format!("{}: the link {second} was applied twice", self.name));
        }
        let links = linked?.attributes.links;
        if links != 2 {
            self.verdict.guilty(format!(
                "{}: {file} has {links} links after one more was made",
                self.name
            ));
        }
        self.remove(&file).await?;
        self.own.insert(second, known);
        Ok(())
    }

    async fn remove_own_file(&mut self) -> Step {
        let Some((file, _)) = self.pick_own() else {
            return Ok(());
        };
        self.own.remove(&file);
        self.remove(&file).await
    }

    async fn remove(&mut self, file: &str) -> Step {
        let removed = self.vfs.unlink(Caller::ROOT, InodeNumber::ROOT, name(file)).await;
        if removed == Err(Errno::NotFound) {
            self.verdict.guilty(format!(
                "{}: the removal of {file} was applied twice, or the file was lost",
                self.name
            ));
        }
        removed
    }

    async fn make_and_remove_directory(&mut self) -> Step {
        let directory = self.next_name("directory");
        let made = self
            .vfs
            .make_directory(Caller::ROOT, InodeNumber::ROOT, name(&directory), MODE, 0)
            .await;
        if made.as_ref().err() == Some(&Errno::Exists) {
            self.verdict.guilty(format!(
                "{}: the creation of {directory} was applied twice",
                self.name
            ));
        }
        let inside = made?.attributes.inode;
        self.vfs
            .make_node(Caller::ROOT, inside, name("pipe"), MODE, 0, FileType::Fifo, 0)
            .await?;
        let refused = self
            .vfs
            .remove_directory(Caller::ROOT, InodeNumber::ROOT, name(&directory))
            .await;
        if refused.is_ok() {
            self.verdict.guilty(format!(
                "{}: {directory} was removed although it was not empty",
                self.name
            ));
        }
        self.vfs.unlink(Caller::ROOT, inside, name("pipe")).await?;
        self.vfs
            .remove_directory(Caller::ROOT, InodeNumber::ROOT, name(&directory))
            .await
    }

    fn pick_own(&mut self) -> Option<(String, OwnFile)> {
        let names: Vec<String> = self.own.keys().cloned().collect();
        if names.is_empty() {
            return None;
        }
        let file = self.random.pick(&names).clone();
        self.own.get(&file).cloned().map(|known| (file, known))
    }
}

fn register_name(register: u64) -> String {
    format!("register-{register}")
}

fn name(text: &str) -> FileName {
    match text.parse() {
        Ok(name) => name,
        Err(error) => unreachable!("the simulation makes only names that are right, not {text}: {error}"),
    }
}

/// The whole content of a file in the root, or `None` if there is none.
pub async fn read_file(vfs: &Vfs, file: &str) -> Result<Option<Vec<u8>>, Errno> {
    let inode = match vfs.lookup(Caller::ROOT, InodeNumber::ROOT, name(file)).await? {
        Found::Absent(_) => return Ok(None),
        Found::Entry(attributed) => attributed.attributes.inode,
    };
    let opened = match vfs.open(Caller::ROOT, inode, OpenFlags::default()).await {
        Ok(opened) => opened,
        // Replaced between lookup and open: the kernel would look it up again.
        Err(Errno::Stale) => return Err(Errno::Again),
        Err(errno) => return Err(errno),
    };
    let mut content = BytesMut::new();
    let result = loop {
        match vfs
            .read(
                Caller::ROOT,
                inode,
                opened.handle,
                content.len() as u64,
                READ_BYTES,
            )
            .await
        {
            Ok(piece) if piece.is_empty() => break Ok(Some(content.to_vec())),
            Ok(piece) => content.extend_from_slice(&piece),
            Err(errno) => break Err(errno),
        }
    };
    vfs.release(inode, opened.handle, None);
    result
}
