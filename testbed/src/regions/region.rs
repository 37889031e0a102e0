//! The two, by name.

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// The primary.
    East,
    /// The target.
    West,
}

impl Region {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::East, Self::West];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::East => "east",
            Self::West => "west",
        }
    }

    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::East => Self::West,
            Self::West => Self::East,
        }
    }

    /// How the volume's status calls it.
    pub fn side(self) -> &'static str {
        match self {
            Self::East => "primary",
            Self::West => "target",
        }
    }

    pub(super) fn index(self) -> usize {
        match self {
            Self::East => 0,
            Self::West => 1,
        }
    }
}

impl std::fmt::Display for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
