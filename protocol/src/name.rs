//! Names of directory entries.

use std::fmt;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

/// The longest name in bytes (`NAME_MAX` of Linux).
pub const NAME_MAX_BYTES: usize = 255;

/// A name in a directory: 1 to 255 bytes, without `/` and NUL, neither `.` nor `..`.
///
/// Not necessarily UTF-8: POSIX names are bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName(Box<[u8]>);

/// Why bytes are not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// POSIX asks for `ENOENT` for the empty name and Linux answers `EINVAL` for the others.
    #[error("a name must not be empty, `.` or `..`, and must not contain `/` or NUL")]
    Invalid,
    /// `ENAMETOOLONG`.
    #[error("a name has at most {NAME_MAX_BYTES} bytes")]
    TooLong,
}

impl FileName {
    /// Checks and takes the bytes.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, NameError> {
        let bytes = bytes.into();
        if bytes.len() > NAME_MAX_BYTES {
            return Err(NameError::TooLong);
        }
        if bytes.is_empty()
            || &*bytes == b"."
            || &*bytes == b".."
            || bytes.iter().any(|b| matches!(b, b'/' | 0))
        {
            return Err(NameError::Invalid);
        }
        Ok(Self(bytes))
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl std::str::FromStr for FileName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text.as_bytes())
    }
}

impl<C> Encode<C> for FileName {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.bytes(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for FileName {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        Self::new(d.bytes()?).map_err(|error| decode::Error::message(error).at(d.position()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_directory_can_hold_are_refused() {
        for wrong in [&b""[..], b".", b"..", b"a/b", b"a\0b"] {
            assert_eq!(FileName::new(wrong), Err(NameError::Invalid));
        }
        assert_eq!(FileName::new(vec![b'a'; 256]), Err(NameError::TooLong));
        assert!(FileName::new(vec![b'a'; 255]).is_ok());
        assert!(FileName::new(&b"\xff\xfe"[..]).is_ok());
    }
}
