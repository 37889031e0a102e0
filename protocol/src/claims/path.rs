//! Paths of directories, from the volume's root.

use std::fmt;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

use crate::name::{FileName, NameError};

/// The deepest directory that can be claimed: a template of a class has a few parts.
const COMPONENTS_MAX: usize = 16;

/// A directory below the root: 1 to 16 names, none of them `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryPath(Box<[FileName]>);

/// Why a text is no such path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A part.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The number of parts.
    #[error("a path has 1 to {COMPONENTS_MAX} names")]
    Depth,
}

impl DirectoryPath {
    /// Checks and takes the names.
    pub fn new(names: impl Into<Box<[FileName]>>) -> Result<Self, PathError> {
        let names = names.into();
        if names.is_empty() || names.len() > COMPONENTS_MAX {
            return Err(PathError::Depth);
        }
        Ok(Self(names))
    }

    /// The names, from the root.
    pub fn names(&self) -> &[FileName] {
        &self.0
    }
}

impl fmt::Display for DirectoryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.0 {
            write!(f, "/{name}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for DirectoryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for DirectoryPath {
    type Err = PathError;

    /// Slashes at the beginning and at the end, but no double ones, are accepted.
    fn from_str(text: &str) -> Result<Self, PathError> {
        let text = text.strip_prefix('/').unwrap_or(text);
        let text = text.strip_suffix('/').unwrap_or(text);
        if text.is_empty() {
            return Err(PathError::Depth);
        }
        let names: Result<Vec<FileName>, NameError> = text.split('/').map(str::parse).collect();
        Self::new(names?)
    }
}

impl<C> Encode<C> for DirectoryPath {
    fn encode<W: encode::Write>(
        &self,
        e: &mut Encoder<W>,
        context: &mut C,
    ) -> Result<(), encode::Error<W::Error>> {
        self.0.to_vec().encode(e, context)
    }
}

impl<'b, C> Decode<'b, C> for DirectoryPath {
    fn decode(d: &mut Decoder<'b>, context: &mut C) -> Result<Self, decode::Error> {
        let names = Vec::<FileName>::decode(d, context)?;
        Self::new(names).map_err(|error| decode::Error::message(error).at(d.position()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::wire;

    #[test]
    fn a_path_never_leaves_the_root() {
        for wrong in ["", "/", "..", "a/../b", "a/./b", "a//b", "//a", "a/b\0"] {
            assert!(wrong.parse::<DirectoryPath>().is_err(), "{wrong:?}");
        }
        assert_eq!("a/".repeat(17).parse::<DirectoryPath>(), Err(PathError::Depth));
        let path: DirectoryPath = "/team/data/".parse().unwrap();
        assert_eq!(path.to_string(), "/team/data");
        assert_eq!(path.names().len(), 2);
        assert_eq!(wire::decode::<DirectoryPath>(&wire::encode(&path)).unwrap(), path);
    }
}
