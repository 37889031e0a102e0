#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use twinshore_protocol::InodeNumber;

use super::*;

fn record() -> Record {
    Record {
        volume: VolumeId([7; 16]),
        epoch: Epoch(3),
        position: Position(42),
        previous: [9; 32],
        time: Timestamp {
            seconds: -5,
            nanoseconds: 999_999_999,
        },
        mutations: vec![
            Mutation {
                key: Bytes::from_static(b"Ia"),
                value: Some(Bytes::from_static(b"value")),
            },
            Mutation {
                key: Bytes::from_static(b"Ib"),
                value: None,
            },
            Mutation {
                key: Bytes::from_static(b"Ic"),
                value: Some(Bytes::new()),
            },
        ],
        changes: vec![
            Invalidation::Attributes(InodeNumber(1)),
            Invalidation::Entry(InodeNumber(1), "name".parse().unwrap()),
        ],
    }
}

#[test]
fn a_record_is_read_back_as_it_was_written() {
    let (bytes, digest) = record().encode();
    assert_eq!(Record::decode(&bytes), Ok((record(), digest)));
    let header = RecordHeader::peek(&bytes).unwrap();
    assert_eq!(
        (header.length_bytes, header.position, header.epoch),
        (bytes.len(), Position(42), Epoch(3))
    );
}

#[test]
fn the_layout_is_what_the_documentation_says() {
    let (bytes, _) = record().encode();
    assert_eq!(&bytes[..8], b"TSJR\x01\x00\x00\x00");
    assert_eq!(bytes[16..32], [7; 16]);
    assert_eq!(bytes[32..40], 3_u64.to_le_bytes());
    assert_eq!(bytes[40..48], 42_u64.to_le_bytes());
    assert_eq!(bytes[48..80], [9; 32]);
    assert_eq!(bytes[80..88], (-5_i64).to_le_bytes());
    assert_eq!(bytes[92..96], 3_u32.to_le_bytes());
    assert_eq!(&bytes[96..111], b"\x02\0\0\0\x05\0\0\0Iavalue");
    assert_eq!(&bytes[111..121], b"\x02\0\0\0\xff\xff\xff\xffIb");
}

#[test]
fn every_flipped_bit_is_noticed() {
    let (bytes, _) = record().encode();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Record::decode(&damaged).is_err(), "bit {bit}");
    }
}

#[test]
fn every_truncation_is_noticed() {
    let (bytes, _) = record().encode();
    for length in 0..bytes.len() {
        assert!(Record::decode(&bytes[..length]).is_err(), "{length} bytes");
    }
    let mut longer = bytes.to_vec();
    longer.push(0);
    assert_eq!(
        Record::decode(&longer),
        Err(RecordError::Malformed("bytes after the end"))
    );
}

#[test]
fn the_digest_depends_on_the_record_before() {
    let (_, digest) = record().encode();
    let (_, other) = Record {
        previous: [8; 32],
        ..record()
    }
    .encode();
    assert_ne!(digest, other);
}

#[test]
fn a_newer_version_asks_for_a_newer_release() {
    let (bytes, _) = record().encode();
    let mut newer = bytes.to_vec();
    newer[4] = 2;
    assert_eq!(Record::decode(&newer), Err(RecordError::Version(2)));
}

proptest! {
    #[test]
    fn any_record_survives_a_round_trip(
        position in any::<u64>(), seconds in any::<i64>(), nanoseconds in 0_u32..1_000_000_000,
        pairs in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..40), prop::option::of(prop::collection::vec(any::<u8>(), 0..200))), 0..30),
    ) {
        let mutations = pairs
            .into_iter()
            .map(|(key, value)| Mutation { key: key.into(), value: value.map(Into::into) })
            .collect();
        let record = Record {
            position: Position(position), time: Timestamp { seconds, nanoseconds }, mutations, ..record()
        };
        let (bytes, digest) = record.encode();
        prop_assert_eq!(Record::decode(&bytes), Ok((record, digest)));
    }

    #[test]
    fn garbage_with_a_right_checksum_never_panics(payload in prop::collection::vec(any::<u8>(), 0..300), count in 0_u32..50) {
        let mut bytes = Record { mutations: vec![], changes: vec![], ..record() }.encode().0[..RECORD_HEADER_BYTES].to_vec();
        bytes.extend_from_slice(&payload);
        bytes[8..12].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        bytes[92..96].copy_from_slice(&count.to_le_bytes());
        let right = checksum(&bytes);
        bytes[12..16].copy_from_slice(&right.to_le_bytes());
        let _ = Record::decode(&bytes);
    }
}
