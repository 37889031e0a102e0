//! Keys of claims and snapshots: a cluster, and a name that this cluster never gives to two of them.

use std::fmt;

use minicbor::{Decode, Decoder, Encode, Encoder, decode, encode};

/// The longest label in bytes. CSI asks for names of at least 128.
const LABEL_MAX_BYTES: usize = 255;

/// A text of 1 to 255 bytes without control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Label(Box<str>);

/// Why a text is no label, or no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Of a label.
    #[error("a name has 1 to {LABEL_MAX_BYTES} bytes, without control characters")]
    Label,
    /// Of a region.
    #[error("the name of a region must not contain `/`")]
    Region,
    /// Of a key.
    #[error("expected <region>/<name>")]
    Form,
}

impl Label {
    /// Checks and takes a text.
    pub fn new(text: impl Into<Box<str>>) -> Result<Self, KeyError> {
        let text = text.into();
        if text.is_empty() || text.len() > LABEL_MAX_BYTES || text.chars().any(char::is_control) {
            return Err(KeyError::Label);
        }
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::str::FromStr for Label {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::new(text)
    }
}

impl<C> Encode<C> for Label {
    fn encode<W: encode::Write>(&self, e: &mut Encoder<W>, _: &mut C) -> Result<(), encode::Error<W::Error>> {
        e.str(&self.0)?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Label {
    fn decode(d: &mut Decoder<'b>, _: &mut C) -> Result<Self, decode::Error> {
        Self::new(d.str()?).map_err(|error| decode::Error::message(error).at(d.position()))
    }
}

/// A region's name: a label without `/`.
pub(super) fn region(text: impl Into<Box<str>>) -> Result<Label, KeyError> {
    let label = Label::new(text)?;
    if label.as_str().contains('/') {
        return Err(KeyError::Region);
    }
    Ok(label)
}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Written as `<region>/<name>`; in the order of region and name.
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode)]
        pub struct $name {
            #[n(0)]
            region: Label,
            #[n(1)]
            name: Label,
        }

        impl $name {
            /// Checks and takes both.
            pub fn new(
                region: impl Into<Box<str>>,
                name: impl Into<Box<str>>,
            ) -> Result<Self, KeyError> {
                Ok(Self { region: self::region(region)?, name: Label::new(name)? })
            }

            /// The region of the cluster.
            pub fn region(&self) -> &str {
                self.region.as_str()
            }

            /// The name that is unique in that cluster.
            pub fn name(&self) -> &str {
                self.name.as_str()
            }
        }

        impl<'b, C> Decode<'b, C> for $name {
            fn decode(d: &mut Decoder<'b>, context: &mut C) -> Result<Self, decode::Error> {
                #[derive(Decode)]
                struct Parts {
                    #[n(0)]
                    region: Label,
                    #[n(1)]
                    name: Label,
                }
                let Parts { region, name } = Parts::decode(d, context)?;
                let region = self::region(region.0).map_err(decode::Error::message)?;
                Ok(Self { region, name })
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}/{}", self.region, self.name)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                let (region, name) = text.split_once('/').ok_or(KeyError::Form)?;
                Self::new(region, name)
            }
        }
    };
}

key! {
    /// Whose a claim is: the cluster's region, and the name under which its controller asked (of Kubernetes: `pvc-<uid>`).
    ClaimKey
}
key! {
    /// Whose a snapshot is: the cluster's region, and the name under which its controller asked (of Kubernetes: `snapshot-<uid>`).
    SnapshotKey
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::wire;

    #[test]
    fn a_key_is_read_back_as_it_was_written() {
        let key = ClaimKey::new("east", "pvc-1/with a slash").unwrap();
        assert_eq!(key.to_string().parse(), Ok(key.clone()));
        assert_eq!(wire::decode::<ClaimKey>(&wire::encode(&key)).unwrap(), key);
    }

    #[test]
    fn what_would_be_ambiguous_in_a_row_is_refused() {
        assert_eq!(ClaimKey::new("ea/st", "x"), Err(KeyError::Region));
        assert_eq!(ClaimKey::new("", "x"), Err(KeyError::Label));
        assert_eq!(ClaimKey::new("east", "x\0y"), Err(KeyError::Label));
        assert_eq!(SnapshotKey::new("east", "x".repeat(256)), Err(KeyError::Label));
        assert_eq!("east".parse::<SnapshotKey>(), Err(KeyError::Form));
        // Not with a decoder either.
        let wrong = wire::encode(&("ea/st", "x"));
        assert!(wire::decode::<ClaimKey>(&wrong).is_err());
    }
}
