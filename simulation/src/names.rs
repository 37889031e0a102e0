//! Names in directories that one program each changes, several at a time, and everybody looks at.
//!
//! Each mount has such a directory, which is delegated to it most of the time. What its program was told has happened, though
//! perhaps nobody but its mount knows of it yet, must be seen by whoever looks afterwards, on whichever mount: unless the mount was
//! cut off for longer than its lease meanwhile. The same goes for whoever asks for a removed file by its number. What was made durable by `fsync` of the directory must be there in the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use twinshore_filesystem::vfs::{OpenFlags, Vfs};
use twinshore_protocol::{Caller, Errno, FileName, InodeNumber, SessionId};

use crate::history::MountNumber;
use crate::random::Random;
use crate::shared::{Shared, name};

/// Names that exist or may be made at a time, in each directory.
const SLOTS: u64 = 6;

/// Names that are changed at a time at most.
const AT_ONCE: u64 = 3;

/// What a program was told.
#[derive(Clone, Copy, Debug)]
struct Told {
    exists: bool,
    session: SessionId,
    lapses: u64,
    /// The mount may have answered in place of the service: it had a lease before or after the answer.
    leased: bool,
}

/// One name.
#[derive(Clone, Debug)]
struct Row {
    name: String,
    /// Grows with each change that begins.
    version: u64,
    changing: bool,
    told: Option<Told>,
    durable: bool,
    /// What it names, if it exists.
    inode: Option<InodeNumber>,
}

struct Directory {
    inode: InodeNumber,
    vfs: Vfs,
    rows: Vec<Row>,
    used: u64,
    /// Files that lost their only name, the last first.
    removed: VecDeque<(InodeNumber, Told)>,
}

/// So many removed files are remembered of each directory.
const REMOVED_MAX: usize = 8;

/// What everybody was told of the names.
#[derive(Clone, Default)]
pub struct Names(Arc<Mutex<BTreeMap<MountNumber, Directory>>>);

impl Names {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<MountNumber, Directory>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A mount's directory, the mount, and one of the names.
    fn find(&self, of: MountNumber, slot: usize) -> Option<(InodeNumber, Vfs, Row)> {
        let directories = self.lock();
        let directory = directories.get(&of)?;
        let row = directory.rows.get(slot)?;
        Some((directory.inode, directory.vfs.clone(), row.clone()))
    }

    /// Directories, names, and whether these exist, of all that is durable.
    pub fn durable(&self) -> Vec<(InodeNumber, FileName, bool)> {
        let directories = self.lock();
        let durable = directories.values().flat_map(|directory| {
            let rows = directory.rows.iter().filter(|row| row.durable && !row.changing);
            rows.filter_map(move |row| Some((directory.inode, name(&row.name), row.told?.exists)))
        });
        durable.collect()
    }
}

impl Directory {
    fn new_row(&mut self) -> Row {
        self.used += 1;
        Row {
            name: format!("name-{}", self.used),
            version: 0,
            changing: false,
            told: None,
            durable: false,
            inode: None,
        }
    }
}

/// Changes the names of its directory.
pub struct Namer {
    shared: Shared,
    names: Names,
    directory: InodeNumber,
}

/// What is done to names.
#[derive(Clone, Copy, Debug)]
enum Change {
    Create(usize),
    Unlink(usize),
    Rename(usize, usize),
}

impl Namer {
    /// With a directory that is made before any fault.
    pub async fn new(shared: Shared, names: Names) -> Result<Self, Errno> {
        let directory = shared
            .kernel
            .make_directory(InodeNumber::ROOT, &name(&format!("names-{}", shared.mount.0)))
            .await?;
        let mut made = Directory {
            inode: directory,
            vfs: shared.kernel.vfs.clone(),
            rows: Vec::new(),
            used: 0,
            removed: VecDeque::new(),
        };
        for _ in 0..SLOTS {
            let row = made.new_row();
            made.rows.push(row);
        }
        names.lock().insert(shared.mount, made);
        Ok(Self {
            shared,
            names,
            directory,
        })
    }

    /// Takes steps until the time is up, and makes everything durable.
    pub async fn work(mut self, until: Instant) {
        while Instant::now() < until && !self.shared.verdict.is_guilty() {
            if self.shared.random.one_in(8) {
                self.make_durable().await;
            } else {
                self.change_some().await;
            }
            let pause = self.shared.random.between(1, 80);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.make_durable().await;
    }

    /// Chooses changes that do not touch each other's names, and carries them out at the same time.
    async fn change_some(&mut self) {
        let mut taken = BTreeSet::new();
        let mut changes = Vec::new();
        for _ in 0..self.shared.random.between(1, AT_ONCE + 1) {
            if let Some(change) = self.choose(&mut taken) {
                changes.push(change);
            }
        }
        let work = changes
            .into_iter()
            .map(|change| carry_out(&self.shared, &self.names, self.directory, change));
        join_all(work).await;
    }

    fn choose(&mut self, taken: &mut BTreeSet<usize>) -> Option<Change> {
        let exists: Vec<bool> = {
            let directories = self.names.lock();
            let rows = &directories.get(&self.shared.mount)?.rows;
            rows.iter()
                .map(|row| row.told.is_some_and(|told| told.exists))
                .collect()
        };
        let slot = pick(&mut self.shared.random, taken)?;
        if !exists[slot] {
            return Some(Change::Create(slot));
        }
        if self.shared.random.one_in(2) {
            return Some(Change::Unlink(slot));
        }
        pick(&mut self.shared.random, taken).map(|other| Change::Rename(slot, other))
    }

    async fn make_durable(&self) {
        let vfs = &self.shared.kernel.vfs;
        let versions: Vec<_> = {
            let directories = self.names.lock();
            let rows = directories
                .get(&self.shared.mount)
                .into_iter()
                .flat_map(|directory| &directory.rows);
            rows.map(|row| (row.version, row.changing)).collect()
        };
        let session = vfs.session().id();
        let synced = vfs.fsync_directory(Caller::ROOT, self.directory).await;
        self.shared
            .trace
            .event(&self.shared.name, &format!("fsync of the directory: {synced:?}"));
        let mut directories = self.names.lock();
        let Some(directory) = directories.get_mut(&self.shared.mount) else {
            return;
        };
        for (slot, (version, changing)) in versions.into_iter().enumerate() {
            let row = &mut directory.rows[slot];
            let same =
                row.version == version && !changing && row.told.is_some_and(|told| told.session == session);
            if synced.is_ok() && same && vfs.session().id() == session {
                row.durable = true;
            }
        }
        // Of what a lost session answered and did not say to be durable nothing is known.
        for slot in 0..directory.rows.len() {
            let row = &directory.rows[slot];
            let is_lost = row.told.is_some_and(|told| told.session != vfs.session().id());
            if !row.durable && !row.changing && (is_lost || synced.is_err()) {
                directory.rows[slot] = directory.new_row();
            }
        }
    }
}

/// One that no other change touches.
fn pick(random: &mut Random, taken: &mut BTreeSet<usize>) -> Option<usize> {
    let slot = usize::try_from(random.between(0, SLOTS)).unwrap_or(0);
    taken.insert(slot).then_some(slot)
}

/// Carries out one change, and writes down what the program was told.
async fn carry_out(shared: &Shared, names: &Names, directory: InodeNumber, change: Change) {
    let kernel = &shared.kernel;
    let (slots, existed): (Vec<usize>, bool) = match change {
        Change::Create(slot) => (vec![slot], false),
        Change::Unlink(slot) => (vec![slot], true),
        Change::Rename(slot, other) => (vec![slot, other], true),
    };
    let mut files = Vec::new();
    let session = kernel.vfs.session().id();
    let lapses = kernel.vfs.session().lease_lapses();
    let leased = kernel.vfs.session().lease_is_valid();
    let mut known_since = session;
    {
        let mut directories = names.lock();
        let Some(directory) = directories.get_mut(&shared.mount) else {
            return;
        };
        for (index, slot) in slots.iter().enumerate() {
            let row = &mut directory.rows[*slot];
            row.version += 1;
            row.changing = true;
            if let (0, false, Some(told)) = (index, row.durable, row.told) {
                known_since = told.session;
            }
            row.durable = false;
            files.push(name(&row.name));
        }
    }
    let (result, opened) = match change {
        Change::Create(_) => {
            let flags = OpenFlags {
                write: true,
                ..OpenFlags::default()
            };
            match kernel.create(directory, &files[0], flags).await {
                Ok(file) => (Ok(()), Some(file)),
                Err(errno) => (Err(errno), None),
            }
        }
        Change::Unlink(_) => (kernel.unlink(directory, &files[0]).await, None),
        Change::Rename(..) => (
            kernel.rename(directory, &files[0], directory, &files[1]).await,
            None,
        ),
    };
    shared
        .trace
        .event(&shared.name, &format!("{change:?} {files:?}: {result:?}"));
    let now = kernel.vfs.session().id();
    if known_since == now && session == now {
        match (result, existed) {
            (Err(Errno::Exists), false) => {
                guilty(shared, &format!("the creation of {} was applied twice", files[0]));
            }
            (Err(Errno::NotFound), true) => guilty(shared, &format!("{} has vanished: {change:?}", files[0])),
            _ => {}
        }
    }
    let told = |exists| Told {
        exists,
        session,
        lapses,
        leased: leased || kernel.vfs.session().lease_is_valid(),
    };
    if result.is_ok() {
        follow(shared, names, change, opened.map(|file| file.inode), told(false));
    }
    let outcome: Vec<Option<Told>> = match (result, change) {
        (Ok(()), Change::Create(_)) => vec![Some(told(true))],
        (Ok(()), Change::Unlink(_)) => vec![Some(told(false))],
        (Ok(()), Change::Rename(..)) => vec![Some(told(false)), Some(told(true))],
        (Err(_), _) => slots.iter().map(|_| None).collect(),
    };
    settle(shared, names, &slots, &outcome);
    if let Some(file) = opened {
        let closed = kernel.close(file).await;
        if closed.is_err() {
            settle(shared, names, &slots, &[None]);
        }
    }
}

/// Keeps track of which file has which name, and which has none.
fn follow(shared: &Shared, names: &Names, change: Change, made: Option<InodeNumber>, told: Told) {
    let mut directories = names.lock();
    let Some(directory) = directories.get_mut(&shared.mount) else {
        return;
    };
    let rows = &mut directory.rows;
    let removed = match change {
        Change::Create(slot) => {
            rows[slot].inode = made;
            None
        }
        Change::Unlink(slot) => rows[slot].inode.take(),
        Change::Rename(slot, other) => {
            let moved = rows[slot].inode.take();
            std::mem::replace(&mut rows[other].inode, moved)
        }
    };
    if let Some(removed) = removed {
        directory.removed.push_front((removed, told));
        directory.removed.truncate(REMOVED_MAX);
    }
}

/// What became of names. Of those of which nothing is known others take the place: what was asked for may still be done.
fn settle(shared: &Shared, names: &Names, slots: &[usize], outcome: &[Option<Told>]) {
    let mut directories = names.lock();
    let Some(directory) = directories.get_mut(&shared.mount) else {
        return;
    };
    for (slot, told) in slots.iter().zip(outcome) {
        if let Some(told) = told {
            let row = &mut directory.rows[*slot];
            row.told = Some(*told);
            row.changing = false;
        } else {
            directory.rows[*slot] = directory.new_row();
        }
    }
}

fn guilty(shared: &Shared, what: &str) {
    shared.trace.event(&shared.name, &format!("BROKEN {what}"));
    shared.verdict.guilty(format!("{}: {what}", shared.name));
}

/// Looks at one name of somebody's directory, and says so if that is not what it must be.
pub async fn look(shared: &mut Shared, names: &Names, mounts: u64) -> Result<(), Errno> {
    let of = MountNumber(shared.random.between(0, mounts));
    let slot = usize::try_from(shared.random.between(0, SLOTS)).unwrap_or(0);
    let Some((directory, writer, before)) = names.find(of, slot) else {
        return Ok(());
    };
    let Some(told) = before.told.filter(|_| !before.changing) else {
        return Ok(());
    };
    let kernel = shared.kernel.clone();
    if shared.random.one_in(3) {
        kernel
            .lookup(InodeNumber::ROOT, &name(&format!("names-{}", of.0)))
            .await?;
    }
    let found = kernel.lookup(directory, &name(&before.name)).await?;
    let Some((_, _, after)) = names.find(of, slot) else {
        return Ok(());
    };
    if after.version != before.version || after.name != before.name || found.is_some() == told.exists {
        return Ok(());
    }
    let was_cut_off = was_cut_off(&writer, &told);
    let is_explained = told.leased && !after.durable && was_cut_off;
    if !is_explained {
        let what = format!(
            "{} of mount {} is {found:?} although its program was told before that it {}",
            before.name,
            of.0,
            if told.exists { "was made" } else { "was removed" }
        );
        guilty(shared, &what);
    }
    Ok(())
}

/// Was the mount of a program cut off since it was told this?
fn was_cut_off(writer: &Vfs, told: &Told) -> bool {
    let session = writer.session();
    session.lease_lapses() != told.lapses || !session.lease_is_valid() || session.id() != told.session
}

/// Asks for a file by its number whose program was told that it has lost its only name.
pub async fn look_at_removed(shared: &mut Shared, names: &Names, mounts: u64) -> Result<(), Errno> {
    let of = MountNumber(shared.random.between(0, mounts));
    let which = usize::try_from(shared.random.between(0, REMOVED_MAX as u64)).unwrap_or(0);
    let found = {
        let directories = names.lock();
        directories.get(&of).and_then(|directory| {
            let (inode, told) = directory.removed.get(which)?;
            Some((directory.vfs.clone(), *inode, *told))
        })
    };
    let Some((writer, inode, told)) = found else {
        return Ok(());
    };
    let links = match shared.kernel.vfs.attributes(Caller::ROOT, inode).await {
        Ok(attributed) => attributed.attributes.links,
        Err(Errno::NotFound | Errno::Stale) => 0,
        Err(errno) => return Err(errno),
    };
    if links > 0 && !(told.leased && was_cut_off(&writer, &told)) {
        let what = format!(
            "file {inode} has a name although the program of mount {} was told before that it has none",
            of.0
        );
        guilty(shared, &what);
    }
    Ok(())
}
