//! From the kernel's words to ours and back. Pure.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, INodeNo, RenameFlags, TimeOrNow};
use twinshore_protocol::attributes::TimeChange;
use twinshore_protocol::lock::LockKind;
use twinshore_protocol::operation::{AllocateMode, RenameMode, SeekTarget, SetMode};
use twinshore_protocol::{Attributes, Errno, FileType, InodeNumber, Timestamp};

use crate::vfs::OpenFlags;

/// What `st_blksize` tells programs to read and write at a time: a request's largest size would make small tools slow, a page
/// would make `cp` slow.
const PREFERRED_IO_BYTES: u32 = 128 * 1024;

const FALLOC_FL_KEEP_SIZE: i32 = 0x01;
const FALLOC_FL_PUNCH_HOLE: i32 = 0x02;
const FALLOC_FL_ZERO_RANGE: i32 = 0x10;

const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;

const F_RDLCK: i32 = 0;
const F_WRLCK: i32 = 1;
const F_UNLCK: i32 = 2;

const O_ACCMODE: i32 = 0o3;
const O_EXCL: i32 = 0o200;
const O_TRUNC: i32 = 0o1000;
const O_APPEND: i32 = 0o2000;
const O_DSYNC: i32 = 0o10000;
/// x86-64 and aarch64 differ; FUSE passes the program's own flags on.
#[cfg(target_arch = "aarch64")]
const O_DIRECT: i32 = 0o200_000;
#[cfg(not(target_arch = "aarch64"))]
const O_DIRECT: i32 = 0o40000;

const S_IFMT: u32 = 0o170_000;

/// The error number for the kernel.
pub fn errno(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.number())
}

/// The kernel's number of an inode.
pub const fn node(inode: InodeNumber) -> INodeNo {
    INodeNo(inode.0)
}

/// The inode of a kernel's number.
pub const fn inode(node: INodeNo) -> InodeNumber {
    InodeNumber(node.0)
}

/// The type as FUSE knows it.
pub const fn kind(kind: FileType) -> fuser::FileType {
    match kind {
        FileType::Regular => fuser::FileType::RegularFile,
        FileType::Directory => fuser::FileType::Directory,
        FileType::SymbolicLink => fuser::FileType::Symlink,
        FileType::Fifo => fuser::FileType::NamedPipe,
        FileType::Socket => fuser::FileType::Socket,
        FileType::CharacterDevice => fuser::FileType::CharDevice,
        FileType::BlockDevice => fuser::FileType::BlockDevice,
    }
}

/// The type that `mknod` asks for. `None` for what it cannot make.
pub const fn node_kind(mode: u32) -> Option<FileType> {
    match mode & S_IFMT {
        // `mknod(2)`: a zero type stands for a regular file.
        0 | 0o100_000 => Some(FileType::Regular),
        0o010_000 => Some(FileType::Fifo),
        0o140_000 => Some(FileType::Socket),
        0o020_000 => Some(FileType::CharacterDevice),
        0o060_000 => Some(FileType::BlockDevice),
        _ => None,
    }
}

/// The twelve permission bits of a mode.
pub fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or(0)
}

/// A time as fuser wants it, which writes times before 1970 correctly.
pub fn system_time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.seconds.unsigned_abs());
    let base = if time.seconds < 0 {
        UNIX_EPOCH.checked_sub(whole)
    } else {
        UNIX_EPOCH.checked_add(whole)
    };
    base.and_then(|base| base.checked_add(Duration::from_nanos(u64::from(time.nanoseconds))))
        .unwrap_or(UNIX_EPOCH)
}

/// A time as fuser gives it.
///
/// fuser 0.18 turns the kernel's `(seconds, nanoseconds)` of a time before 1970 into `1970 - |seconds| - nanoseconds`, although the kernel means
/// `1970 - |seconds| + nanoseconds`. Taking the two numbers out again undoes that.
pub fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp::since_epoch(after),
        Err(before) => {
            let before = before.duration();
            let seconds = i64::try_from(before.as_secs()).map_or(i64::MIN, |seconds| -seconds);
            Timestamp {
                seconds,
                nanoseconds: before.subsec_nanos(),
            }
        }
    }
}

/// A time that a program sets.
pub fn time_change(time: TimeOrNow) -> TimeChange {
    match time {
        TimeOrNow::SpecificTime(time) => TimeChange::To(timestamp(time)),
        TimeOrNow::Now => TimeChange::Now,
    }
}

/// Attributes as FUSE wants them.
pub fn attributes(ours: &Attributes) -> FileAttr {
    FileAttr {
        ino: node(ours.inode),
        size: ours.size_bytes,
        blocks: ours.allocated_bytes.div_ceil(512),
        atime: system_time(ours.accessed),
        mtime: system_time(ours.modified),
        ctime: system_time(ours.changed),
        crtime: UNIX_EPOCH,
        kind: kind(ours.kind),
        perm: ours.mode & 0o7777,
        nlink: ours.links,
        uid: ours.user,
        gid: ours.group,
        rdev: ours.device,
        blksize: PREFERRED_IO_BYTES,
        flags: 0,
    }
}

/// What a negative entry carries: node 0, and nothing else that the kernel looks at.
pub const fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: fuser::FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: PREFERRED_IO_BYTES,
        flags: 0,
    }
}

/// How a file is opened.
pub const fn open_flags(flags: i32) -> OpenFlags {
    OpenFlags {
        write: flags & O_ACCMODE != 0,
        append: flags & O_APPEND != 0,
        truncate: flags & O_TRUNC != 0,
        direct: flags & O_DIRECT != 0,
        // O_SYNC contains O_DSYNC.
        synchronous: flags & O_DSYNC != 0,
    }
}

/// `O_EXCL`.
pub const fn is_exclusive(flags: i32) -> bool {
    flags & O_EXCL != 0
}

/// `renameat2` flags. `EINVAL` for what we do not know, as rename(2) demands of file systems.
pub fn rename_mode(flags: RenameFlags) -> Result<RenameMode, Errno> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        Err(Errno::Invalid)
    }
}

/// `fallocate` modes. `EOPNOTSUPP` for those that move bytes or that we do not know, as fallocate(2) demands.
pub const fn allocate_mode(mode: i32) -> Result<AllocateMode, Errno> {
    const PUNCH: i32 = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    const ZERO_KEEP: i32 = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
    match mode {
        0 => Ok(AllocateMode::Reserve { keep_size: false }),
        FALLOC_FL_KEEP_SIZE => Ok(AllocateMode::Reserve { keep_size: true }),
        PUNCH => Ok(AllocateMode::PunchHole),
        FALLOC_FL_ZERO_RANGE => Ok(AllocateMode::Zero { keep_size: false }),
        ZERO_KEEP => Ok(AllocateMode::Zero { keep_size: true }),
        _ => Err(Errno::NotSupported),
    }
}

/// `lseek`: the kernel handles the other whences itself.
pub const fn seek_target(whence: i32) -> Result<SeekTarget, Errno> {
    match whence {
        SEEK_DATA => Ok(SeekTarget::Data),
        SEEK_HOLE => Ok(SeekTarget::Hole),
        _ => Err(Errno::Invalid),
    }
}

/// Flags of `setxattr`.
pub const fn set_mode(flags: i32) -> Result<SetMode, Errno> {
    match flags {
        0 => Ok(SetMode::Any),
        XATTR_CREATE => Ok(SetMode::Create),
        XATTR_REPLACE => Ok(SetMode::Replace),
        _ => Err(Errno::Invalid),
    }
}

/// `l_type`.
pub const fn lock_kind(kind: i32) -> Result<LockKind, Errno> {
    match kind {
        F_RDLCK => Ok(LockKind::Read),
        F_WRLCK => Ok(LockKind::Write),
        F_UNLCK => Ok(LockKind::Unlock),
        _ => Err(Errno::Invalid),
    }
}

/// `l_type` again.
pub const fn lock_type(kind: LockKind) -> i32 {
    match kind {
        LockKind::Read => F_RDLCK,
        LockKind::Write => F_WRLCK,
        LockKind::Unlock => F_UNLCK,
    }
}

/// The largest offset that the kernel's locks know: it stands for the end of the file.
const OFFSET_MAX: u64 = i64::MAX.unsigned_abs();

/// The end of a lock's range, from the kernel.
pub const fn lock_end(end: u64) -> u64 {
    if end >= OFFSET_MAX { u64::MAX } else { end }
}

/// The end of a lock's range, for the kernel, which compares it as a signed number.
pub const fn kernel_lock_end(end: u64) -> u64 {
    if end >= OFFSET_MAX { OFFSET_MAX } else { end }
}

/// How many bytes one copy request may claim to have copied: its answer is a 32-bit number, and whole pages keep the next one aligned.
pub const COPY_BYTES_MAX: u64 = 0xffff_f000;

#[cfg(test)]
#[path = "convert_tests.rs"]
mod tests;
