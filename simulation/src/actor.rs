//! A program on a mount: it works on files of its own and on files that all share, and checks what it sees.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use twinshore_filesystem::vfs::OpenFlags;
use twinshore_protocol::{Errno, InodeNumber};

use crate::content;
use crate::shared::{LOCKED_FILES, Shared, Step, name};

/// How long a program may take, once everything is healed, to get a lock: sessions that died have to expire.
const LOCK_LIMIT: Duration = Duration::from_mins(3);

/// What an actor knows of a file of its own.
#[derive(Clone)]
struct OwnFile {
    inode: InodeNumber,
    content: Vec<u8>,
}

/// A program.
pub struct Actor {
    shared: Shared,
    /// The directory of its own files.
    home: InodeNumber,
    counter: u64,
    /// Files whose last change was acknowledged as durable.
    own: BTreeMap<String, OwnFile>,
}

/// What must be true of an actor's own files.
pub struct Expected {
    /// The directory.
    pub home: InodeNumber,
    /// Names and contents.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Actor {
    /// An actor with a directory for its own files, made before any fault.
    pub async fn new(shared: Shared) -> Result<Self, Errno> {
        let home = shared
            .kernel
            .make_directory(InodeNumber::ROOT, &name(&format!("home-{}", shared.name)))
            .await?;
        Ok(Self {
            shared,
            home,
            counter: 0,
            own: BTreeMap::new(),
        })
    }

    /// Takes steps until the time is up. Returns what must be true of its own files.
    pub async fn work(mut self, until: Instant) -> Expected {
        while Instant::now() < until && !self.shared.verdict.is_guilty() {
            let step = self.shared.random.between(0, 100);
            let (what, result) = match step {
                0..15 => {
                    let temporary = name(&self.next_name("temporary"));
                    let replaced = self.shared.replace_register(self.home, temporary).await;
                    ("replace register", replaced)
                }
                15..25 => ("read register", self.shared.read_register().await),
                25..40 => ("overwrite in place", self.shared.overwrite_in_place().await),
                40..45 => ("read in place", self.read_in_place().await),
                45..60 => {
                    let file = self.shared.random.between(0, LOCKED_FILES);
                    let change = !self.shared.random.one_in(4);
                    ("use locked", self.shared.use_locked(file, change).await)
                }
                60..75 => ("write own file", self.write_own_file().await),
                75..83 => ("read own file", self.read_own_file().await),
                83..88 => ("link own file", self.link_own_file().await),
                88..94 => ("remove own file", self.remove_own_file().await),
                _ => ("directories", self.make_and_remove_directory().await),
            };
            let outcome = result
                .err()
                .map_or_else(|| "ok".to_owned(), |errno| errno.to_string());
            self.event(&format!("{what}: {outcome}"));
            let pause = self.shared.random.between(1, 150);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.get_every_lock().await;
        Expected {
            home: self.home,
            files: self
                .own
                .into_iter()
                .map(|(name, file)| (name, file.content))
                .collect(),
        }
    }

    /// No lock may be lost for good.
    async fn get_every_lock(&mut self) {
        let deadline = Instant::now() + LOCK_LIMIT;
        for file in 0..LOCKED_FILES {
            while let Err(errno) = self.shared.use_locked(file, true).await {
                if Instant::now() > deadline {
                    self.guilty(&format!("the lock of locked-{file} is lost: {errno}"));
                }
                if self.shared.verdict.is_guilty() {
                    return;
                }
                let pause = self.shared.random.between(1, 150);
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    }

    fn event(&self, what: &str) {
        self.shared.trace.event(&self.shared.name, what);
    }

    fn guilty(&self, what: &str) {
        self.shared
            .verdict
            .guilty(format!("{}: {what}", self.shared.name));
    }

    fn next_name(&mut self, kind: &str) -> String {
        self.counter += 1;
        format!("{kind}-{}", self.counter)
    }

    async fn read_in_place(&mut self) -> Step {
        let number = self.shared.pick_in_place();
        let opened = self
            .shared
            .open(&format!("inplace-{number}"), OpenFlags::default())
            .await?;
        let file = opened.ok_or(Errno::NotFound)?;
        let read = self.shared.read_in_place(number, file).await;
        let closed = self.shared.kernel.close(file).await;
        read.and(closed)
    }

    async fn write_own_file(&mut self) -> Step {
        if self.own.len() < 4 || self.shared.random.one_in(4) {
            let file = self.next_name("own");
            let length = self.shared.length();
            let content = content::of_write(self.shared.history.number(), length);
            let inode = self
                .shared
                .write_new(self.home, &name(&file), content.clone())
                .await?;
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
        let offset = self.shared.random.between(0, expected.len() as u64 + 1000);
        let at = usize::try_from(offset).unwrap_or(0);
        let length = self.shared.length();
        let piece = content::of_write(self.shared.history.number(), length);
        if expected.len() < at + piece.len() {
            expected.resize(at + piece.len(), 0);
        }
        expected[at..at + piece.len()].copy_from_slice(&piece);
        let flags = OpenFlags {
            write: true,
            ..OpenFlags::default()
        };
        let opened = self.shared.kernel.open(known.inode, flags).await?;
        let written = match self.shared.kernel.write(opened, offset, piece).await {
            Ok(()) => self.shared.kernel.fsync(opened).await,
            Err(errno) => Err(errno),
        };
        let closed = self.shared.kernel.close(opened).await;
        written.and(closed)?;
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
        match self.shared.read_file(self.home, &name(&file)).await? {
            None => self.guilty(&format!("its file {file} has vanished")),
            Some(content) if content != known.content => {
                let place = content.iter().zip(&known.content).position(|(a, b)| a != b);
                self.guilty(&format!(
                    "its file {file} holds {} bytes instead of {}, first difference at {place:?}",
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
            .shared
            .kernel
            .link(known.inode, self.home, &name(&second))
            .await;
        if linked.as_ref().err() == Some(&Errno::Exists) {
            self.guilty(&format!("the link {second} was applied twice"));
        }
        let links = linked?;
        if links != 2 {
            self.guilty(&format!("{file} has {links} links after one more was made"));
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
        let removed = self.shared.kernel.unlink(self.home, &name(file)).await;
        if removed == Err(Errno::NotFound) {
            self.guilty(&format!(
                "the removal of {file} was applied twice, or the file was lost"
            ));
        }
        removed
    }

    async fn make_and_remove_directory(&mut self) -> Step {
        let directory = name(&self.next_name("directory"));
        let kernel = self.shared.kernel.clone();
        let made = kernel.make_directory(self.home, &directory).await;
        if made.as_ref().err() == Some(&Errno::Exists) {
            self.guilty(&format!("the creation of {directory} was applied twice"));
        }
        let inside = made?;
        kernel.make_pipe(inside, &name("pipe")).await?;
        let refused = kernel.remove_directory(self.home, &directory).await;
        if refused.is_ok() {
            self.guilty(&format!("{directory} was removed although it was not empty"));
        }
        kernel.unlink(inside, &name("pipe")).await?;
        kernel.remove_directory(self.home, &directory).await
    }

    fn pick_own(&mut self) -> Option<(String, OwnFile)> {
        let names: Vec<String> = self.own.keys().cloned().collect();
        if names.is_empty() {
            return None;
        }
        let file = self.shared.random.pick(&names).clone();
        self.own.get(&file).cloned().map(|known| (file, known))
    }
}
