//! Newtypes for everything that must not be mixed up.

use std::fmt;

use minicbor::{Decode, Encode};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
        #[cbor(transparent)]
        pub struct $name(#[n(0)] pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

number! {
    /// The persistent number of an inode; also the kernel's node id, so that a mount can be taken over.
    InodeNumber
}
number! {
    /// The number of a journal record: 1 for the first, without gaps.
    Position
}
number! {
    /// One leader's reign over a volume. Grows at each start of a metadata service and at each restore.
    Epoch
}
number! {
    /// A session of a client, worker or mirror. Unique for ever within a volume.
    SessionId
}
number! {
    /// The number of a request within its session: 1 for the first, without gaps, in the order of execution.
    RequestNumber
}

impl InodeNumber {
    /// The root directory; FUSE fixes its node id as 1.
    pub const ROOT: Self = Self(1);
}

impl Position {
    /// The position before the first record.
    pub const ZERO: Self = Self(0);

    /// The position after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The identity of a volume: 128 random bits, chosen when it is created.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct VolumeId(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 16]);

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for VolumeId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(*uuid::Uuid::parse_str(text)?.as_bytes()))
    }
}

/// The name of an immutable object, never reused.
///
/// The epoch is the one in which the service granted the number. It makes names unique even after a restore from an older
/// checkpoint has turned the counter back: a restore starts a higher epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ObjectId {
    /// The epoch in which the number was granted.
    #[n(0)]
    pub epoch: Epoch,
    /// A number from a range granted to the writer's session in that epoch.
    #[n(1)]
    pub number: u64,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{:012x}", self.epoch.0, self.number)
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for ObjectId {
    type Err = ParseObjectIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = |digits: &str| u64::from_str_radix(digits, 16).map_err(|_| ParseObjectIdError);
        let (epoch, number) = text.split_once('-').ok_or(ParseObjectIdError)?;
        let id = Self {
            epoch: Epoch(parse(epoch)?),
            number: parse(number)?,
        };
        if id.to_string() == text {
            Ok(id)
        } else {
            Err(ParseObjectIdError)
        }
    }
}

/// A text is not the name of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an object name: expected <epoch>-<number> in lower case hexadecimal")]
pub struct ParseObjectIdError;

/// One of the two regions of a volume, as declared.
///
/// A client sees them as *near* and *far*; `flip` exchanges the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum Side {
    /// The region where the metadata service runs.
    #[n(0)]
    Primary,
    /// The other region.
    #[n(1)]
    Target,
}

impl Side {
    /// Both sides, in order.
    pub const BOTH: [Self; 2] = [Self::Primary, Self::Target];

    /// The other side.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Primary => Self::Target,
            Self::Target => Self::Primary,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Target => "target",
        })
    }
}

/// A set of sides: where an object is present.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Encode, Decode)]
#[cbor(transparent)]
pub struct Sides(#[n(0)] u8);

impl Sides {
    /// No side.
    pub const NONE: Self = Self(0);
    /// Both sides.
    pub const BOTH: Self = Self(3);

    /// Only this side.
    #[must_use]
    pub const fn only(side: Side) -> Self {
        Self(1 << side as u8)
    }

    /// This set and one more side.
    #[must_use]
    pub const fn with(self, side: Side) -> Self {
        Self(self.0 | (1 << side as u8))
    }

    /// This set without a side.
    #[must_use]
    pub const fn without(self, side: Side) -> Self {
        Self(self.0 & !(1 << side as u8))
    }

    /// Is the side in the set?
    pub const fn contains(self, side: Side) -> bool {
        self.0 & (1 << side as u8) != 0
    }

    /// Is the set empty?
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The sides of the set, in order.
    pub fn iter(self) -> impl Iterator<Item = Side> {
        Side::BOTH.into_iter().filter(move |side| self.contains(*side))
    }
}

impl fmt::Debug for Sides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// A half-open range of numbers granted to a session: inode numbers or object numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct NumberRange {
    /// The first number.
    #[n(0)]
    pub start: u64,
    /// The number after the last.
    #[n(1)]
    pub end: u64,
}

impl NumberRange {
    /// Is the number within the range?
    pub const fn contains(&self, number: u64) -> bool {
        self.start <= number && number < self.end
    }

    /// How many numbers are in it.
    pub const fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Is nothing left?
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the first number out of the range.
    pub fn take(&mut self) -> Option<u64> {
        if self.is_empty() {
            return None;
        }
        self.start += 1;
        Some(self.start - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_name_is_read_back_as_it_was_written() {
        let id = ObjectId {
            epoch: Epoch(3),
            number: 0x12_3456,
        };
        assert_eq!(id.to_string(), "00000003-000000123456");
        assert_eq!(id.to_string().parse(), Ok(id));
        for wrong in [
            "",
            "3-123456",
            "00000003-00000012345G",
            "00000003-000000123456-1",
            "00000003-00000012345A",
        ] {
            assert_eq!(wrong.parse::<ObjectId>(), Err(ParseObjectIdError), "{wrong}");
        }
    }

    #[test]
    fn sides_are_a_set() {
        let set = Sides::only(Side::Primary).with(Side::Target);
        assert_eq!(set, Sides::BOTH);
        assert_eq!(
            set.without(Side::Primary).iter().collect::<Vec<_>>(),
            [Side::Target]
        );
        assert!(Sides::NONE.is_empty());
    }
}
