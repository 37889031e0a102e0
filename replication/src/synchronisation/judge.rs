//! What the join makes of one object. Pure.

use twinshore_protocol::reply::ObjectRecord;
use twinshore_protocol::{ObjectId, Side, Sides};

use super::listing::Entry;

/// An object that has to be looked at more closely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspect {
    /// Metadata names it, and the buckets are not (or, by its turn, may not be) as metadata says.
    Named {
        /// What metadata said when it was listed.
        record: ObjectRecord,
        /// Sides whose bytes are to be read and verified.
        read: Sides,
        /// Sides where it was not listed with the right size.
        ask: Sides,
    },
    /// Metadata does not name it.
    Unnamed {
        /// The object.
        object: ObjectId,
        /// Where it was listed, old enough.
        sides: Sides,
    },
}

/// What is being synchronised, and how strictly.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Sides that have a bucket.
    pub configured: Sides,
    /// Orphans stored before this are removed, in seconds since 1970.
    pub orphans_before_seconds: i64,
    /// Out of 10,000 objects so many are read and verified.
    pub verified_of_10000: u64,
    /// Which ones: differs from one synchronisation to the next.
    pub seed: u64,
}

impl Rules {
    /// Judges an object that metadata names, and what the listings hold of it.
    ///
    /// Copies that metadata does not expect and that are not there are owed already: no finding. The listings are older
    /// than this moment, so nothing is decided here, only what to look at.
    pub fn named(&self, record: ObjectRecord, listed: [Option<Entry>; 2]) -> Option<Suspect> {
        if record.live_bytes == 0 {
            // On its way out: deletions of it may be anywhere between metadata and the buckets.
            return None;
        }
        let (mut read, mut ask, mut expected) = (Sides::NONE, Sides::NONE, Sides::NONE);
        for side in self.configured.iter() {
            let is_listed =
                listed[side as usize].is_some_and(|entry| entry.size_bytes == record.stored_bytes);
            if record.present.contains(side) {
                expected = expected.with(side);
                if !is_listed {
                    ask = ask.with(side);
                } else if self.is_verified(record.object, side) {
                    read = read.with(side);
                }
            } else if is_listed {
                read = read.with(side);
            }
        }
        if expected.is_empty() && read.is_empty() {
            // Known to be nowhere: is it lost, or only not listed yet?
            ask = self.configured;
        }
        (!read.is_empty() || !ask.is_empty()).then_some(Suspect::Named { record, read, ask })
    }

    /// Judges an object that metadata does not name.
    pub fn unnamed(&self, object: ObjectId, listed: [Option<Entry>; 2]) -> Option<Suspect> {
        let old = |side: &Side| {
            listed[*side as usize].is_some_and(|entry| entry.modified_seconds < self.orphans_before_seconds)
        };
        // Young on one side is young: it is being copied or committed right now.
        let young = listed
            .iter()
            .flatten()
            .any(|entry| entry.modified_seconds >= self.orphans_before_seconds);
        let sides = self.configured.iter().filter(old).fold(Sides::NONE, Sides::with);
        (!young && !sides.is_empty()).then_some(Suspect::Unnamed { object, sides })
    }

    /// Is it this object's turn? A hash of name, side and seed, so that each synchronisation picks others.
    fn is_verified(&self, object: ObjectId, side: Side) -> bool {
        let mut mixed = self.seed ^ object.number.rotate_left(17) ^ (object.epoch.0 << 1) ^ side as u64;
        for _ in 0..2 {
            // The finaliser of SplitMix64.
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^= mixed >> 31;
        }
        mixed % 10_000 < self.verified_of_10000
    }
}

#[cfg(test)]
mod tests {
    use twinshore_protocol::Epoch;

    use super::*;

    const OBJECT: ObjectId = ObjectId {
        epoch: Epoch(1),
        number: 7,
    };
    const RULES: Rules = Rules {
        configured: Sides::BOTH,
        orphans_before_seconds: 1000,
        verified_of_10000: 0,
        seed: 0,
    };

    fn record(present: Sides, live_bytes: u64) -> ObjectRecord {
        ObjectRecord {
            object: OBJECT,
            stored_bytes: 50,
            checksum: 1,
            present,
            live_bytes,
            content_bytes: 40,
        }
    }

    #[allow(clippy::unnecessary_wraps)] // As a listing has it.
    fn entry(size_bytes: u64, modified_seconds: i64) -> Option<Entry> {
        Some(Entry {
            object: OBJECT,
            size_bytes,
            modified_seconds,
        })
    }

    #[test]
    fn a_named_object_is_looked_at_where_buckets_and_metadata_differ() {
        let (primary, target) = (Sides::only(Side::Primary), Sides::only(Side::Target));
        let good = entry(50, 0);
        let cases = [
            ("as it should be", Sides::BOTH, [good, good], None),
            ("owed to the target already", primary, [good, None], None),
            (
                "damaged where it is owed anyway",
                primary,
                [good, entry(3, 0)],
                None,
            ),
            ("missing", Sides::BOTH, [good, None], Some((Sides::NONE, target))),
            (
                "of another size",
                Sides::BOTH,
                [entry(49, 0), good],
                Some((Sides::NONE, primary)),
            ),
            ("unknown copy", primary, [good, good], Some((target, Sides::NONE))),
            (
                "missing here, unknown there",
                primary,
                [None, good],
                Some((target, primary)),
            ),
            (
                "nowhere",
                Sides::NONE,
                [None, None],
                Some((Sides::NONE, Sides::BOTH)),
            ),
        ];
        for (what, present, listed, expected) in cases {
            let suspect = RULES.named(record(present, 1), listed);
            let found = suspect.map(|suspect| match suspect {
                Suspect::Named { read, ask, .. } => (read, ask),
                Suspect::Unnamed { .. } => unreachable!("it is named"),
            });
            assert_eq!(found, expected, "{what}");
            assert_eq!(RULES.named(record(present, 0), listed), None, "{what}, but dead");
        }
    }

    #[test]
    fn a_side_without_a_bucket_is_not_missed() {
        let rules = Rules {
            configured: Sides::only(Side::Primary),
            ..RULES
        };
        assert_eq!(
            rules.named(record(Sides::only(Side::Primary), 1), [entry(50, 0), None]),
            None
        );
    }

    #[test]
    fn only_old_orphans_are_suspect() {
        let unnamed = |sides| {
            Some(Suspect::Unnamed {
                object: OBJECT,
                sides,
            })
        };
        assert_eq!(
            RULES.unnamed(OBJECT, [entry(1, 999), None]),
            unnamed(Sides::only(Side::Primary))
        );
        assert_eq!(
            RULES.unnamed(OBJECT, [entry(1, 5), entry(1, 6)]),
            unnamed(Sides::BOTH)
        );
        assert_eq!(RULES.unnamed(OBJECT, [entry(1, 5), entry(1, 1000)]), None);
        assert_eq!(RULES.unnamed(OBJECT, [None, entry(1, 1001)]), None);
    }

    #[test]
    fn the_share_that_is_verified_is_as_asked_and_moves_with_the_seed() {
        let picked = |seed| -> Vec<u64> {
            let rules = Rules {
                verified_of_10000: 100,
                seed,
                ..RULES
            };
            let is_picked = |number: &u64| {
                rules.is_verified(
                    ObjectId {
                        epoch: Epoch(1),
                        number: *number,
                    },
                    Side::Primary,
                )
            };
            (0..100_000).filter(is_picked).collect()
        };
        let (first, second) = (picked(1), picked(2));
        assert!((800..1200).contains(&first.len()), "{}", first.len());
        assert!(first.iter().filter(|number| second.contains(number)).count() < 50);
    }
}
