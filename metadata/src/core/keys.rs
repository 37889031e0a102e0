//! The keys of the view: a prefix byte, then numbers in big-endian, so that order is meaning. The table of all keys is in
//! `docs/architecture.md`.
//!
//! Invariant: no key is a prefix of another key of the same kind, except where names end keys, and those are always
//! looked up whole.

use bytes::{BufMut, Bytes, BytesMut};
use twinshore_protocol::claims::{ClaimKey, Label, NodeName, SnapshotKey};
use twinshore_protocol::{Epoch, FileName, InodeNumber, ObjectId, Position, SessionId, Side, Timestamp};

/// Inodes.
pub const INODE: u8 = b'I';
/// Directory entries.
pub const ENTRY: u8 = b'D';
/// Names of an inode beyond its first one.
pub const OTHER_NAME: u8 = b'N';
/// Extents.
pub const EXTENT: u8 = b'E';
/// Extended attributes.
pub const XATTR: u8 = b'X';
/// Targets of symbolic links.
pub const SYMBOLIC_LINK: u8 = b'S';
/// Usage of directories.
pub const USAGE: u8 = b'U';
/// Limits of directories.
pub const QUOTA: u8 = b'Q';
/// Trash, by time of removal.
pub const TRASH: u8 = b'H';
/// Inodes without a name that are open or not yet cleaned up.
pub const ORPHAN: u8 = b'Z';
/// Objects.
pub const OBJECT: u8 = b'O';
/// Copies owed to a side, by position.
pub const OWED: u8 = b'R';
/// Copies owed to a side, by object.
pub const OWED_POSITION: u8 = b'W';
/// Copies that failed for good reasons and are set aside.
pub const QUARANTINE: u8 = b'B';
/// Inline extents, by position.
pub const INLINE: u8 = b'P';
/// Objects of which files name at most half.
pub const SPARSE: u8 = b'K';
/// Files that lie in many small extents.
pub const FRAGMENTED: u8 = b'F';
/// Dead objects, by position.
pub const DEAD: u8 = b'G';
/// Deletions owed to a side.
pub const DELETION: u8 = b'g';
/// Sessions.
pub const SESSION: u8 = b'C';
/// Results of mutating requests.
pub const RESULT: u8 = b'A';
/// Claims on directories.
pub const CLAIM: u8 = b'c';
/// Claimed directories.
pub const CLAIMED: u8 = b'd';
/// The claims of a directory.
pub const CLAIM_OF: u8 = b'e';
/// Claimed directories, by path.
pub const CLAIMED_PATH: u8 = b'p';
/// Access of targets.
pub const HOLD: u8 = b'i';
/// Access of targets, by directory.
pub const HOLD_OF: u8 = b'h';
/// Snapshots.
pub const SNAPSHOT: u8 = b's';
/// Copies of trees that are under way.
pub const COPY: u8 = b'j';
/// Directories of a copy whose entries are still to be copied.
pub const COPY_DIRECTORY: u8 = b'k';
/// What a copy has made of files with several names.
pub const COPY_LINK: u8 = b'l';
/// Trees in the trash.
pub const TREE: u8 = b't';
/// Trees that are being taken apart.
pub const RAZE: u8 = b'z';
/// The volume.
pub const VOLUME: u8 = b'V';

/// The format record.
pub const FORMAT: &[u8] = b"Vformat";
/// The leader's epoch.
pub const EPOCH: &[u8] = b"Vepoch";
/// Where the next granted numbers begin.
pub const COUNTERS: &[u8] = b"Vcounters";
/// Sums over the volume.
pub const TOTALS: &[u8] = b"Vtotals";
/// The full synchronisation.
pub const SYNCHRONISATION: &[u8] = b"Vsynchronisation";
/// The walk over all objects after the target has changed.
pub const BACKFILL: &[u8] = b"Vbackfill";
/// Trash from before this time is removed whatever its retention.
pub const PURGE: &[u8] = b"Vpurge";
/// The directories that no name leads to.
pub const HIDDEN: &[u8] = b"Vhidden";

struct Key(BytesMut);

impl Key {
    fn new(prefix: u8) -> Self {
        let mut bytes = BytesMut::with_capacity(32);
        bytes.put_u8(prefix);
        Self(bytes)
    }

    fn number(mut self, number: u64) -> Self {
        self.0.put_u64(number);
        self
    }

    fn side(mut self, side: Side) -> Self {
        self.0.put_u8(side as u8);
        self
    }

    fn object(self, object: ObjectId) -> Self {
        self.number(object.epoch.0).number(object.number)
    }

    fn time(mut self, time: Timestamp) -> Self {
        // The sign bit is flipped, so that times before 1970 sort before later ones.
        self.0.put_u64(time.seconds.cast_unsigned() ^ (1 << 63));
        self.0.put_u32(time.nanoseconds);
        self
    }

    /// A text that another part follows: no label has a NUL.
    fn label(mut self, label: &str) -> Self {
        self.0.put_slice(label.as_bytes());
        self.0.put_u8(0);
        self
    }

    fn node(self, node: &NodeName) -> Self {
        self.label(node.region.as_str()).label(node.node.as_str())
    }

    fn bytes(mut self, bytes: &[u8]) -> Bytes {
        self.0.put_slice(bytes);
        self.0.freeze()
    }

    fn done(self) -> Bytes {
        self.0.freeze()
    }
}

/// `I<inode>`
pub fn inode(inode: InodeNumber) -> Bytes {
    Key::new(INODE).number(inode.0).done()
}

/// `D<directory><cookie><name>`
pub fn entry(directory: InodeNumber, cookie: u64, name: &FileName) -> Bytes {
    Key::new(ENTRY)
        .number(directory.0)
        .number(cookie)
        .bytes(name.as_bytes())
}

/// Where the entries of a directory with at least this cookie begin.
pub fn entries_from(directory: InodeNumber, cookie: u64) -> Bytes {
    Key::new(ENTRY).number(directory.0).number(cookie).done()
}

/// `N<inode><directory><name>`
pub fn other_name(inode: InodeNumber, directory: InodeNumber, name: &FileName) -> Bytes {
    Key::new(OTHER_NAME)
        .number(inode.0)
        .number(directory.0)
        .bytes(name.as_bytes())
}

/// `E<inode><end offset>`
pub fn extent(inode: InodeNumber, end: u64) -> Bytes {
    Key::new(EXTENT).number(inode.0).number(end).done()
}

/// `X<inode><name>`
pub fn xattr(inode: InodeNumber, name: &[u8]) -> Bytes {
    Key::new(XATTR).number(inode.0).bytes(name)
}

/// `S<inode>`
pub fn symbolic_link(inode: InodeNumber) -> Bytes {
    Key::new(SYMBOLIC_LINK).number(inode.0).done()
}

/// `U<directory>`
pub fn usage(directory: InodeNumber) -> Bytes {
    Key::new(USAGE).number(directory.0).done()
}

/// `Q<directory>`
pub fn quota(directory: InodeNumber) -> Bytes {
    Key::new(QUOTA).number(directory.0).done()
}

/// `H<time><inode>`
pub fn trash(removed: Timestamp, inode: InodeNumber) -> Bytes {
    Key::new(TRASH).time(removed).number(inode.0).done()
}

/// `Z<inode>`
pub fn orphan(inode: InodeNumber) -> Bytes {
    Key::new(ORPHAN).number(inode.0).done()
}

/// `O<object>`
pub fn object(object: ObjectId) -> Bytes {
    Key::new(OBJECT).object(object).done()
}

/// `R<side><position><object>`
pub fn owed(side: Side, position: Position, object: ObjectId) -> Bytes {
    Key::new(OWED).side(side).number(position.0).object(object).done()
}

/// `W<side><object>`
pub fn owed_position(side: Side, object: ObjectId) -> Bytes {
    Key::new(OWED_POSITION).side(side).object(object).done()
}

/// `B<side><object>`
pub fn quarantine(side: Side, object: ObjectId) -> Bytes {
    Key::new(QUARANTINE).side(side).object(object).done()
}

/// `P<position><inode><end offset>`
pub fn inline(position: Position, inode: InodeNumber, end: u64) -> Bytes {
    Key::new(INLINE)
        .number(position.0)
        .number(inode.0)
        .number(end)
        .done()
}

/// `K<object>`
pub fn sparse(object: ObjectId) -> Bytes {
    Key::new(SPARSE).object(object).done()
}

/// `F<inode>`
pub fn fragmented(inode: InodeNumber) -> Bytes {
    Key::new(FRAGMENTED).number(inode.0).done()
}

/// `G<position><object>`
pub fn dead(position: Position, object: ObjectId) -> Bytes {
    Key::new(DEAD).number(position.0).object(object).done()
}

/// `g<side><object>`
pub fn deletion(side: Side, object: ObjectId) -> Bytes {
    Key::new(DELETION).side(side).object(object).done()
}

/// `C<session>`
pub fn session(session: SessionId) -> Bytes {
    Key::new(SESSION).number(session.0).done()
}

/// `A<session><slot>`
pub fn result(session: SessionId, slot: u64) -> Bytes {
    Key::new(RESULT).number(session.0).number(slot).done()
}

/// `c<region>\0<name>`
pub fn claim(key: &ClaimKey) -> Bytes {
    Key::new(CLAIM).label(key.region()).bytes(key.name().as_bytes())
}

/// `d<directory>`
pub fn claimed(directory: InodeNumber) -> Bytes {
    Key::new(CLAIMED).number(directory.0).done()
}

/// `e<directory><region>\0<name>`
pub fn claim_of(directory: InodeNumber, key: &ClaimKey) -> Bytes {
    Key::new(CLAIM_OF)
        .number(directory.0)
        .label(key.region())
        .bytes(key.name().as_bytes())
}

/// `p<path>`, each name followed by `/`: what is within a directory has its key as prefix.
pub fn claimed_path(names: &[FileName]) -> Bytes {
    let mut key = Key::new(CLAIMED_PATH);
    for name in names {
        key.0.put_slice(name.as_bytes());
        key.0.put_u8(b'/');
    }
    key.done()
}

/// `i<region>\0<node>\0<target>`
pub fn hold(node: &NodeName, target: &Label) -> Bytes {
    Key::new(HOLD).node(node).bytes(target.as_str().as_bytes())
}

/// The prefix of all holds of a node.
pub fn holds_of_node(node: &NodeName) -> Bytes {
    Key::new(HOLD).node(node).done()
}

/// `h<directory><region>\0<node>\0<target>`
pub fn hold_of(directory: InodeNumber, node: &NodeName, target: &Label) -> Bytes {
    Key::new(HOLD_OF)
        .number(directory.0)
        .node(node)
        .bytes(target.as_str().as_bytes())
}

/// `s<region>\0<name>`
pub fn snapshot(key: &SnapshotKey) -> Bytes {
    Key::new(SNAPSHOT)
        .label(key.region())
        .bytes(key.name().as_bytes())
}

/// The prefix of all claims, or snapshots, of a region.
pub fn of_region(prefix: u8, region: &str) -> Bytes {
    Key::new(prefix).label(region).done()
}

/// `j<root of the copy>`
pub fn copy(root: InodeNumber) -> Bytes {
    Key::new(COPY).number(root.0).done()
}

/// `k<root of the copy><directory of the copy>`
pub fn copy_directory(root: InodeNumber, directory: InodeNumber) -> Bytes {
    Key::new(COPY_DIRECTORY).number(root.0).number(directory.0).done()
}

/// `l<root of the copy><file of the source>`
pub fn copy_link(root: InodeNumber, source: InodeNumber) -> Bytes {
    Key::new(COPY_LINK).number(root.0).number(source.0).done()
}

/// `t<directory>`
pub fn tree(directory: InodeNumber) -> Bytes {
    Key::new(TREE).number(directory.0).done()
}

/// `z<directory>`
pub fn raze(directory: InodeNumber) -> Bytes {
    Key::new(RAZE).number(directory.0).done()
}

/// The prefix of all keys of one kind and one number, such as the extents of an inode.
pub fn of(prefix: u8, number: u64) -> Bytes {
    Key::new(prefix).number(number).done()
}

/// The prefix of all keys of one kind and one side.
pub fn of_side(prefix: u8, side: Side) -> Bytes {
    Key::new(prefix).side(side).done()
}

/// The first key after all keys that begin with `prefix`.
pub fn after_prefix(prefix: &[u8]) -> Bytes {
    let mut end = BytesMut::from(prefix);
    while let Some(last) = end.last_mut() {
        if *last < u8::MAX {
            *last += 1;
            break;
        }
        end.truncate(end.len() - 1);
    }
    end.freeze()
}

/// The first key after `key`.
pub fn after(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

/// Takes a key apart, from the front.
pub struct KeyReader<'a>(&'a [u8]);

impl<'a> KeyReader<'a> {
    /// Begins after the prefix byte.
    pub fn new(key: &'a [u8]) -> Self {
        Self(key.get(1..).unwrap_or_default())
    }

    /// The next number.
    pub fn number(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*number))
    }

    /// The next side.
    pub fn side(&mut self) -> Option<Side> {
        let (side, rest) = self.0.split_first()?;
        self.0 = rest;
        Side::BOTH.get(usize::from(*side)).copied()
    }

    /// The next inode.
    pub fn inode(&mut self) -> Option<InodeNumber> {
        self.number().map(InodeNumber)
    }

    /// The next object.
    pub fn object(&mut self) -> Option<ObjectId> {
        Some(ObjectId {
            epoch: Epoch(self.number()?),
            number: self.number()?,
        })
    }

    /// The next time.
    pub fn time(&mut self) -> Option<Timestamp> {
        let seconds = (self.number()? ^ (1 << 63)).cast_signed();
        let (nanoseconds, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(Timestamp {
            seconds,
            nanoseconds: u32::from_be_bytes(*nanoseconds),
        })
    }

    /// The next label that another part follows.
    pub fn label(&mut self) -> Option<&'a str> {
        let end = self.0.iter().position(|byte| *byte == 0)?;
        let (label, rest) = self.0.split_at(end);
        self.0 = rest.get(1..)?;
        std::str::from_utf8(label).ok()
    }

    /// The rest, as the key of a claim.
    pub fn claim(&mut self) -> Option<ClaimKey> {
        ClaimKey::new(self.label()?, std::str::from_utf8(self.0).ok()?).ok()
    }

    /// The rest, as the key of a snapshot.
    pub fn snapshot(&mut self) -> Option<SnapshotKey> {
        SnapshotKey::new(self.label()?, std::str::from_utf8(self.0).ok()?).ok()
    }

    /// The rest, as a node and a target.
    pub fn hold(&mut self) -> Option<(NodeName, Label)> {
        let node = NodeName::new(self.label()?, self.label()?).ok()?;
        Some((node, Label::new(std::str::from_utf8(self.0).ok()?).ok()?))
    }

    /// The rest, as a name.
    pub fn name(&self) -> Option<FileName> {
        FileName::new(self.0).ok()
    }

    /// The rest.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn times_sort_as_they_pass() {
        let time = |seconds, nanoseconds| trash(Timestamp { seconds, nanoseconds }, InodeNumber(1));
        let sorted = [
            time(-2, 5),
            time(-1, 0),
            time(0, 0),
            time(0, 1),
            time(7, 0),
            time(i64::MAX, 0),
        ];
        assert!(sorted.is_sorted());
        assert_eq!(
            KeyReader::new(&time(-2, 5)).time(),
            Some(Timestamp {
                seconds: -2,
                nanoseconds: 5
            })
        );
    }

    #[test]
    fn a_key_is_read_back_as_it_was_made() {
        let object = ObjectId {
            epoch: Epoch(3),
            number: 9,
        };
        let key = owed(Side::Target, Position(7), object);
        let mut reader = KeyReader::new(&key);
        assert_eq!(
            (reader.side(), reader.number(), reader.object()),
            (Some(Side::Target), Some(7), Some(object))
        );
        let name: FileName = "name".parse().unwrap();
        let key = entry(InodeNumber(4), 77, &name);
        let mut reader = KeyReader::new(&key);
        assert_eq!(
            (reader.inode(), reader.number(), reader.name()),
            (Some(InodeNumber(4)), Some(77), Some(name))
        );
    }

    #[test]
    fn the_end_of_a_prefix_is_after_everything_that_begins_with_it() {
        assert_eq!(after_prefix(&[b'E', 0, 255]), [b'E', 1][..]);
        assert_eq!(after_prefix(&[b'E', 255, 255]), [b'F'][..]);
        assert!(extent(InodeNumber(5), u64::MAX) < after_prefix(&of(EXTENT, 5)));
        assert!(extent(InodeNumber(6), 0) >= after_prefix(&of(EXTENT, 5)));
    }
}
