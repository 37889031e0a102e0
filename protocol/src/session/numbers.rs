//! Numbers granted to a session, for new inodes and new objects. Pure.
//!
//! More are asked for when less than half of the last grant is left, so that in the steady state nobody waits for them.

use std::collections::VecDeque;

use crate::identifiers::{Epoch, InodeNumber, NumberRange, ObjectId};
use crate::message::Welcome;

/// Ranges of one kind.
#[derive(Debug, Default)]
struct Stock {
    ranges: VecDeque<NumberRange>,
    last_grant: u64,
}

impl Stock {
    fn add(&mut self, range: NumberRange) {
        if !range.is_empty() {
            self.last_grant = range.len();
            self.ranges.push_back(range);
        }
    }

    fn take(&mut self) -> Option<u64> {
        loop {
            match self.ranges.front_mut()?.take() {
                Some(number) => return Some(number),
                None => self.ranges.pop_front(),
            };
        }
    }

    fn is_low(&self) -> bool {
        self.ranges.iter().map(NumberRange::len).sum::<u64>() * 2 <= self.last_grant
    }
}

/// The numbers of a session.
#[derive(Debug, Default)]
pub struct Numbers {
    inodes: Stock,
    objects: Stock,
    objects_epoch: Epoch,
}

impl Numbers {
    /// Of a new session.
    pub fn granted_by(welcome: &Welcome) -> Self {
        let mut numbers = Self {
            objects_epoch: welcome.objects_epoch,
            ..Self::default()
        };
        numbers.inodes.add(welcome.inodes);
        numbers.objects.add(welcome.objects);
        numbers
    }

    /// A session was resumed. Inode numbers stay; object numbers are replaced, because those of an older epoch may have
    /// been granted again after a restore.
    pub fn resumed(&mut self, welcome: &Welcome) {
        self.inodes.add(welcome.inodes);
        if welcome.objects_epoch != self.objects_epoch || !welcome.objects.is_empty() {
            self.objects = Stock::default();
            self.objects.add(welcome.objects);
            self.objects_epoch = welcome.objects_epoch;
        }
    }

    /// More numbers. Object numbers of another epoch than the present (the reply was made before a restart of the
    /// service and repeated after it) are not used.
    pub fn granted(&mut self, inodes: NumberRange, objects: NumberRange, epoch: Option<Epoch>) {
        self.inodes.add(inodes);
        if epoch == Some(self.objects_epoch) {
            self.objects.add(objects);
        }
    }

    /// A number for a new inode.
    pub fn take_inode(&mut self) -> Option<InodeNumber> {
        self.inodes.take().map(InodeNumber)
    }

    /// A name for a new object.
    pub fn take_object(&mut self) -> Option<ObjectId> {
        self.objects.take().map(|number| ObjectId {
            epoch: self.objects_epoch,
            number,
        })
    }

    /// Should more be asked for?
    pub fn are_low(&self) -> bool {
        self.inodes.is_low() || self.objects.is_low()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> NumberRange {
        NumberRange { start, end }
    }

    #[test]
    fn numbers_are_low_when_half_of_the_last_grant_is_used() {
        let mut numbers = Numbers {
            objects_epoch: Epoch(1),
            ..Numbers::default()
        };
        numbers.granted(range(10, 14), range(20, 24), Some(Epoch(1)));
        assert!(!numbers.are_low());
        assert_eq!(numbers.take_inode(), Some(InodeNumber(10)));
        assert!(!numbers.are_low());
        assert_eq!(numbers.take_inode(), Some(InodeNumber(11)));
        assert!(numbers.are_low());
        numbers.granted(range(100, 104), range(0, 0), Some(Epoch(1)));
        assert!(!numbers.are_low());
        let rest: Vec<_> = std::iter::from_fn(|| numbers.take_inode())
            .map(|inode| inode.0)
            .collect();
        assert_eq!(rest, [12, 13, 100, 101, 102, 103]);
    }

    #[test]
    fn object_numbers_granted_in_an_older_epoch_are_not_used() {
        let mut numbers = Numbers {
            objects_epoch: Epoch(2),
            ..Numbers::default()
        };
        numbers.granted(range(1, 2), range(5, 9), Some(Epoch(1)));
        assert_eq!(numbers.take_object(), None);
        assert_eq!(numbers.take_inode(), Some(InodeNumber(1)));
        numbers.granted(range(0, 0), range(5, 9), Some(Epoch(2)));
        assert_eq!(
            numbers.take_object(),
            Some(ObjectId {
                epoch: Epoch(2),
                number: 5
            })
        );
    }
}
