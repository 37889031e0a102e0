//! Files that all programs fight for, and what is checked about them.
//!
//! | file | how it is changed | what is checked |
//! |---|---|---|
//! | `register-N` | replaced by `rename` | a read is whole, and not of a replaced version |
//! | `inplace-N` | overwritten in place, whole or in part, by everybody | each sector is of a version that was not overwritten before |
//! | `locked-N` | read and rewritten in place with another length, under `flock` | updates form a chain: none is lost, none comes late |

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use twinshore_filesystem::vfs::OpenFlags;
use twinshore_protocol::lock::LockKind;
use twinshore_protocol::{Caller, Errno, FileName, InodeNumber};

use crate::content::{self, SECTOR_BYTES};
use crate::history::{History, MountNumber};
use crate::kernel::{Kernel, OpenFile};
use crate::random::Random;
use crate::trace::Trace;
use crate::verdict::Verdict;

/// How many registers there are.
const REGISTERS: u64 = 4;

/// Sectors of the files that are overwritten in place: inline, at the limit of inline data, in objects.
const IN_PLACE_SECTORS: [u64; 3] = [6, 16, 60];

/// How many files are changed under their lock.
pub const LOCKED_FILES: u64 = 2;

/// How long a program waits for a lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);

/// An answer that was longer under way proves nothing about the time at which it came.
const PROOF_MAX: Duration = Duration::from_secs(5);

/// A step either worked, or failed in a way that faults explain; what must not be goes to the verdict.
pub type Step = Result<(), Errno>;

/// For reading and writing.
const READ_WRITE: OpenFlags = OpenFlags {
    write: true,
    append: false,
    truncate: false,
    direct: false,
    synchronous: false,
};

/// One program's way to the shared files.
pub struct Shared {
    /// The program.
    pub name: String,
    /// Its mount.
    pub kernel: Kernel,
    /// The number of its mount.
    pub mount: MountNumber,
    /// What everybody did.
    pub history: History,
    /// What is wrong.
    pub verdict: Verdict,
    /// What happens.
    pub trace: Trace,
    /// Its decisions.
    pub random: Random,
}

/// A name in the simulation.
pub fn name(text: &str) -> FileName {
    match text.parse() {
        Ok(name) => name,
        Err(error) => unreachable!("the simulation makes only names that are right, not {text}: {error}"),
    }
}

fn first_register(file: u64) -> u64 {
    1000 * (file + 1)
}

impl Shared {
    /// Makes the files, before any fault.
    pub async fn set_up(&mut self) -> Step {
        for (file, sectors) in (0..).zip(IN_PLACE_SECTORS) {
            let created = self
                .kernel
                .create(InodeNumber::ROOT, &name(&format!("inplace-{file}")), READ_WRITE)
                .await?;
            self.overwrite(created, file, 0..sectors).await?;
            self.kernel.close(created).await?;
        }
        for file in 0..LOCKED_FILES {
            let created = self
                .kernel
                .create(InodeNumber::ROOT, &name(&format!("locked-{file}")), READ_WRITE)
                .await?;
            self.kernel.close(created).await?;
        }
        Ok(())
    }

    fn guilty(&self, what: &str) {
        self.trace.event(&self.name, &format!("BROKEN {what}"));
        self.verdict.guilty(format!("{}: {what}", self.name));
    }

    /// Sizes around the borders that matter: nothing, inline, packed, a block, several blocks.
    pub fn length(&mut self) -> usize {
        let limit = *self.random.pick(&[64, 5_000, 16_384, 40_000, 200_000]);
        usize::try_from(self.random.between(16, limit + 16)).unwrap_or(16)
    }

    /// Opens a file of the root.
    pub async fn open(&self, file: &str, flags: OpenFlags) -> Result<Option<OpenFile>, Errno> {
        match self.kernel.lookup(InodeNumber::ROOT, &name(file)).await? {
            Some(inode) => self.kernel.open(inode, flags).await.map(Some),
            None => Ok(None),
        }
    }

    /// The whole content of a file of a directory, or `None` if there is none.
    pub async fn read_file(&self, parent: InodeNumber, file: &FileName) -> Result<Option<Bytes>, Errno> {
        read_file(&self.kernel, parent, file).await
    }

    /// Creates a file of a name that nobody else uses: a retried creation must not see its own effect.
    pub async fn write_new(
        &self,
        parent: InodeNumber,
        file: &FileName,
        content: Bytes,
    ) -> Result<InodeNumber, Errno> {
        let created = self.kernel.create(parent, file, READ_WRITE).await;
        if created.as_ref().err() == Some(&Errno::Exists) {
            self.guilty(&format!("the exclusive creation of {file} was applied twice"));
        }
        let created = created?;
        let written = self.kernel.write(created, 0, content).await;
        let closed = self.kernel.close(created).await;
        written?;
        closed.map(|()| created.inode)
    }

    /// Replaces a register by a new file, made in `home` as `temporary`.
    pub async fn replace_register(&mut self, home: InodeNumber, temporary: FileName) -> Step {
        let register = self.random.between(0, REGISTERS);
        let length = self.length();
        let number = self.history.begin(register..register + 1, self.mount);
        self.write_new(home, &temporary, content::of_write(number, length))
            .await?;
        let target = name(&format!("register-{register}"));
        self.kernel
            .rename(home, &temporary, InodeNumber::ROOT, &target)
            .await?;
        self.history.acknowledge(register..register + 1, number);
        self.trace
            .event(&self.name, &format!("register {register} is {number:?} now"));
        Ok(())
    }

    /// Reads a register.
    pub async fn read_register(&mut self) -> Step {
        let register = self.random.between(0, REGISTERS);
        let started = Instant::now();
        let content = self
            .read_file(InodeNumber::ROOT, &name(&format!("register-{register}")))
            .await?;
        let found = match content.as_deref().map(content::parse).transpose() {
            Ok(found) => found,
            Err(reason) => {
                self.guilty(&format!("read register {register}: {reason}"));
                return Ok(());
            }
        };
        self.trace
            .event(&self.name, &format!("register {register} is {found:?}"));
        if let Err(reason) = self.history.read(register, self.mount, started, found) {
            self.guilty(&reason);
        }
        Ok(())
    }

    /// Which file to overwrite or read in place.
    pub fn pick_in_place(&mut self) -> u64 {
        self.random.between(0, IN_PLACE_SECTORS.len() as u64)
    }

    /// Overwrites sectors of a file in place, and makes them durable.
    async fn overwrite(&self, file: OpenFile, number: u64, sectors: std::ops::Range<u64>) -> Step {
        let first = first_register(number);
        let registers = first + sectors.start..first + sectors.end;
        let write = self.history.begin(registers.clone(), self.mount);
        let data: Vec<u8> = sectors
            .clone()
            .flat_map(|sector| content::of_sector(write, sector))
            .collect();
        self.kernel
            .write(file, sectors.start * SECTOR_BYTES as u64, data.into())
            .await?;
        self.kernel.fsync(file).await?;
        self.history.acknowledge(registers, write);
        self.trace.event(
            &self.name,
            &format!("in place {number}: {sectors:?} is {write:?}"),
        );
        Ok(())
    }

    /// Opens a file, overwrites it in place, whole or in part, and closes it.
    pub async fn overwrite_in_place(&mut self) -> Step {
        let number = self.pick_in_place();
        let all = IN_PLACE_SECTORS[usize::try_from(number).unwrap_or(0)];
        let sectors = if self.random.one_in(2) {
            0..all
        } else {
            let start = self.random.between(0, all);
            start..self.random.between(start, all) + 1
        };
        let Some(file) = self.open(&format!("inplace-{number}"), READ_WRITE).await? else {
            self.guilty(&format!("the file inplace-{number} has vanished"));
            return Ok(());
        };
        let overwritten = self.overwrite(file, number, sectors).await;
        let closed = self.kernel.close(file).await;
        overwritten.and(closed)
    }

    /// Reads a file that is overwritten in place.
    pub async fn read_in_place(&self, number: u64, file: OpenFile) -> Step {
        let started = Instant::now();
        let content = self.kernel.read_to_end(file).await?;
        let expected = IN_PLACE_SECTORS[usize::try_from(number).unwrap_or(0)];
        if content.len() as u64 != expected * SECTOR_BYTES as u64 {
            self.guilty(&format!("inplace-{number} has {} bytes", content.len()));
            return Ok(());
        }
        let mut found = Vec::new();
        for (sector, bytes) in (0..).zip(content.chunks(SECTOR_BYTES)) {
            let checked = content::parse_sector(bytes, sector).and_then(|write| {
                found.push(write.0);
                self.history
                    .read(first_register(number) + sector, self.mount, started, Some(write))
            });
            if let Err(reason) = checked {
                self.guilty(&format!("read inplace-{number}, sector {sector}: {reason}"));
                return Ok(());
            }
        }
        found.dedup();
        self.trace
            .event(&self.name, &format!("in place {number} is {found:?}"));
        Ok(())
    }

    /// Under the lock of a file, reads it, and replaces it in place by something of another length (`change`).
    pub async fn use_locked(&mut self, number: u64, change: bool) -> Step {
        let Some(file) = self.open(&format!("locked-{number}"), READ_WRITE).await? else {
            self.guilty(&format!("the file locked-{number} has vanished"));
            return Ok(());
        };
        let session = self.kernel.vfs.session().id();
        let kind = if change { LockKind::Write } else { LockKind::Read };
        let locked = if self.random.one_in(2) {
            self.kernel.lock(file, kind, false).await
        } else {
            tokio::time::timeout(LOCK_PATIENCE, self.kernel.lock(file, kind, true))
                .await
                .unwrap_or(Err(Errno::Interrupted))
        };
        let result = match locked {
            Ok(()) => self.under_lock(number, file, session, change).await,
            Err(errno) => Err(errno),
        };
        // Given back in any case: a request that failed may have got the lock.
        let unlocked = self.kernel.lock(file, LockKind::Unlock, false).await;
        let closed = self.kernel.close(file).await;
        result.and(unlocked).and(closed)
    }

    async fn under_lock(
        &mut self,
        number: u64,
        file: OpenFile,
        session: twinshore_protocol::SessionId,
        change: bool,
    ) -> Step {
        let content = self.kernel.read_to_end(file).await?;
        // Whoever asks the service after reading, in the same session, had the lock all the time.
        let asked = Instant::now();
        self.kernel.vfs.usage(Caller::ROOT, file.inode).await?;
        if self.kernel.vfs.session().id() != session || asked.elapsed() > PROOF_MAX {
            return Err(Errno::Again);
        }
        let found = if content.is_empty() {
            None
        } else {
            match content::parse_prefix(&content) {
                // A writer that failed may not have come to cutting off what was there before.
                Ok((write, length))
                    if length == content.len() || !self.history.is_acknowledged(number, write) =>
                {
                    Some(write)
                }
                Ok((write, length)) => {
                    self.guilty(&format!(
                        "locked-{number} has {} bytes instead of the {length} of {write:?}",
                        content.len()
                    ));
                    return Ok(());
                }
                Err(reason) => {
                    self.guilty(&format!("read locked-{number}: {reason}"));
                    return Ok(());
                }
            }
        };
        self.trace
            .event(&self.name, &format!("locked {number} is {found:?}"));
        if let Err(reason) = self.history.read_locked(number, found) {
            self.guilty(&reason);
            return Ok(());
        }
        if !change {
            return Ok(());
        }
        let length = self.length();
        let write = self.history.begin_locked(number, found);
        self.kernel
            .write(file, 0, content::of_write(write, length))
            .await?;
        if length < content.len() {
            self.kernel.truncate(file, length as u64).await?;
        }
        self.kernel.fsync(file).await?;
        self.trace
            .event(&self.name, &format!("locked {number} is {write:?} now"));
        if let Err(reason) = self.history.acknowledge_locked(number, write) {
            self.guilty(&reason);
        }
        Ok(())
    }
}

/// The whole content of a file of a directory, or `None` if there is none.
pub async fn read_file(
    kernel: &Kernel,
    parent: InodeNumber,
    file: &FileName,
) -> Result<Option<Bytes>, Errno> {
    let Some(inode) = kernel.lookup(parent, file).await? else {
        return Ok(None);
    };
    let opened = match kernel.open(inode, OpenFlags::default()).await {
        Ok(opened) => opened,
        // Replaced between lookup and open: the kernel would look it up again.
        Err(Errno::Stale) => return Err(Errno::Again),
        Err(errno) => return Err(errno),
    };
    let content = kernel.read_to_end(opened).await;
    let closed = kernel.close(opened).await;
    let content = content?;
    closed.map(|()| Some(content))
}
