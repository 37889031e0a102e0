#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use bytes::Bytes;
use proptest::prelude::*;
use twinshore_protocol::format::Compression;
use twinshore_protocol::{Epoch, ObjectId};

use super::*;

const COMPRESSIONS: [Compression; 3] = [Compression::None, Compression::Lz4, Compression::Zstd];

/// Content of a length, compressible or not.
fn content(length: usize, compressible: bool) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    (0..length)
        .map(|at| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if compressible {
                (at / 97 % 251) as u8
            } else {
                (state >> 24) as u8
            }
        })
        .collect()
}

fn joined(blocks: &[Bytes]) -> Vec<u8> {
    blocks.concat()
}

#[test]
fn every_length_around_a_block_is_read_back_as_it_was_written() {
    for length in [
        0,
        1,
        2,
        100,
        BLOCK_BYTES - 1,
        BLOCK_BYTES,
        BLOCK_BYTES + 1,
        3 * BLOCK_BYTES,
        1_000_000,
    ] {
        for compression in COMPRESSIONS {
            for compressible in [true, false] {
                let bytes = content(length, compressible);
                let object = encode(&[Bytes::from(bytes.clone())], compression);
                assert_eq!(object.content_bytes, length as u64);
                assert_eq!(
                    object.checksum,
                    crc32c::crc32c(&object.body),
                    "{length} {compression:?}"
                );
                let (header, decoded) = decode(&object.body).unwrap();
                assert_eq!(decoded, bytes, "{length} {compression:?}");
                assert_eq!(header.stored_bytes(), object.stored_bytes());
                assert_eq!(header.header_bytes(), header_bytes_for(length as u64));
                assert_eq!(verify(&object.body).unwrap(), header);
            }
        }
    }
}

#[test]
fn what_does_not_shrink_is_stored_as_it_is() {
    let bytes = Bytes::from(content(5 * BLOCK_BYTES + 17, false));
    for compression in COMPRESSIONS {
        let object = encode(std::slice::from_ref(&bytes), compression);
        assert_eq!(
            object.stored_bytes(),
            header_bytes_for(bytes.len() as u64) + bytes.len() as u64
        );
    }
}

#[test]
fn what_shrinks_is_stored_smaller() {
    let bytes = Bytes::from(content(5 * BLOCK_BYTES, true));
    for compression in [Compression::Lz4, Compression::Zstd] {
        assert!(
            encode(std::slice::from_ref(&bytes), compression).stored_bytes() < bytes.len() as u64 / 4,
            "{compression:?}"
        );
    }
}

#[test]
fn content_that_does_not_compress_is_rarely_tried_and_what_compresses_after_it_is_found() {
    for compression in [Compression::Lz4, Compression::Zstd] {
        let noise = Bytes::from(content(32 * BLOCK_BYTES, false));
        let alone = encode(std::slice::from_ref(&noise), compression);
        assert_eq!(alone.raw_content(), Some(noise.clone()), "{compression:?}");
        let text = Bytes::from(content(32 * BLOCK_BYTES, true));
        let object = encode(&[noise.clone(), text.clone()], compression);
        assert_eq!(object.raw_content(), None);
        assert_eq!(decode(&object.body).unwrap().1, [noise.clone(), text].concat());
        // Of the text at most as many blocks as lie between two attempts are stored as they are.
        let most = noise.len() + 12 * BLOCK_BYTES;
        assert!(
            object.stored_bytes() < most as u64,
            "{compression:?}: {}",
            object.stored_bytes()
        );
    }
}

#[test]
fn uncompressed_content_is_a_slice_of_what_was_fetched() {
    let object = encode(&[Bytes::from(content(3 * BLOCK_BYTES, false))], Compression::None);
    let (header, decoded) = decode(&object.body).unwrap();
    assert_eq!(
        decoded.as_ptr(),
        object.body[Header::length(&object.body).unwrap()..].as_ptr()
    );
    assert_eq!(decoded.len() as u64, header.content_bytes());
}

#[test]
fn an_object_of_another_version_is_named_as_such() {
    let mut body = encode(&[Bytes::from_static(b"x")], Compression::None)
        .body
        .to_vec();
    body[4] = 2;
    assert_eq!(
        Header::parse(&body),
        Err(ObjectError::UnknownVersion { version: 2 })
    );
}

#[test]
fn an_absurd_block_count_is_refused_before_anything_is_fetched_or_allocated() {
    let mut body = encode(&[Bytes::from_static(b"x")], Compression::None)
        .body
        .to_vec();
    body[24..32].copy_from_slice(&(MAXIMUM_BLOCKS as u64 + 1).to_le_bytes());
    assert_eq!(
        Header::length(&body),
        Err(ObjectError::BadHeader { what: "block count" })
    );
}

#[test]
fn the_bytes_of_an_object_are_those_of_the_document() {
    let object = encode(&[Bytes::from_static(b"hello")], Compression::None);
    let mut expected = b"TwSO\x01\x00\x00\x00".to_vec();
    expected.extend(44_u32.to_le_bytes());
    expected.extend(65_536_u32.to_le_bytes());
    expected.extend(5_u64.to_le_bytes());
    expected.extend(1_u64.to_le_bytes());
    expected.extend(5_u32.to_le_bytes());
    expected.extend(crc32c::crc32c(b"hello").to_le_bytes());
    expected.extend(crc32c::crc32c(&expected).to_le_bytes());
    expected.extend(b"hello");
    assert_eq!(object.body, expected);
}

#[test]
fn a_key_names_its_object_and_no_other_key_does() {
    let id = ObjectId {
        epoch: Epoch(7),
        number: 42,
    };
    let key = object_key(id);
    assert_eq!(parse_object_key(&key), Some(id));
    assert_eq!(key.len(), "objects/ab/00000007-00000000002a".len());
    for wrong in [
        "objects/zz/00000007-00000000002a",
        "objects/00000007-00000000002a",
        "journal/1",
        "objects/",
        "",
    ] {
        assert_eq!(parse_object_key(wrong), None, "{wrong}");
    }
}

#[test]
fn consecutive_objects_are_spread_over_the_prefixes() {
    let prefixes: std::collections::BTreeSet<String> = (0..2_000)
        .map(|number| {
            object_key(ObjectId {
                epoch: Epoch(1),
                number,
            })["objects/".len()..][..2]
                .to_owned()
        })
        .collect();
    assert!(prefixes.len() > 200, "{}", prefixes.len());
}

fn any_compression() -> impl Strategy<Value = Compression> {
    prop::sample::select(COMPRESSIONS.to_vec())
}

/// Content in slices of any size, partly compressible.
fn any_slices() -> impl Strategy<Value = Vec<Bytes>> {
    prop::collection::vec((0..150_000_usize, any::<bool>()), 0..6).prop_map(|parts| {
        parts
            .into_iter()
            .map(|(length, easy)| Bytes::from(content(length, easy)))
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_checksum_of_a_whole_follows_from_those_of_its_parts(
        first in prop::collection::vec(any::<u8>(), 0..300),
        second in prop::collection::vec(any::<u8>(), 0..70_000),
    ) {
        let whole = [first.clone(), second.clone()].concat();
        let joined = checksum::join(crc32c::crc32c(&first), crc32c::crc32c(&second), second.len());
        prop_assert_eq!(joined, crc32c::crc32c(&whole));
    }

    #[test]
    fn any_range_is_read_from_its_blocks_alone(
        slices in any_slices(), compression in any_compression(), ends in (any::<u64>(), any::<u64>()),
    ) {
        let whole = joined(&slices);
        let object = encode(&slices, compression);
        prop_assert_eq!(object.checksum, crc32c::crc32c(&object.body));
        let header = Header::parse(&object.body).unwrap();
        let length = whole.len() as u64;
        let (a, b) = (ends.0 % (length + 1), ends.1 % (length + 1));
        let range = a.min(b)..a.max(b);
        let blocks = header.blocks_of(&range).unwrap();
        let stored = header.stored_range(&blocks);
        let stored = object.body.slice(stored.start as usize..stored.end as usize);
        let decoded = decode_blocks(&header, &blocks, &stored).unwrap();
        let skipped = (range.start - blocks.start * BLOCK_BYTES as u64) as usize;
        prop_assert_eq!(
            if range.is_empty() { &[] } else { &decoded[skipped..skipped + (range.end - range.start) as usize] },
            &whole[range.start as usize..range.end as usize]
        );
    }

    #[test]
    fn a_flipped_bit_is_always_found(
        slices in any_slices(), compression in any_compression(), at in any::<usize>(), bit in 0..8_u8,
    ) {
        let object = encode(&slices, compression);
        let mut body = object.body.to_vec();
        let at = at % body.len();
        body[at] ^= 1 << bit;
        let body = Bytes::from(body);
        prop_assert!(verify(&body).is_err());
        prop_assert!(decode(&body).is_err());
    }

    #[test]
    fn a_cut_or_lengthened_object_is_always_found(
        slices in any_slices(), compression in any_compression(), at in any::<usize>(), surplus in 1..100_usize,
    ) {
        let object = encode(&slices, compression);
        let cut = object.body.slice(..at % object.body.len());
        prop_assert!(verify(&cut).is_err());
        prop_assert!(decode(&cut).is_err());
        let mut longer = object.body.to_vec();
        longer.resize(longer.len() + surplus, 0);
        let longer = Bytes::from(longer);
        prop_assert!(verify(&longer).is_err());
        prop_assert!(decode(&longer).is_err());
    }

    #[test]
    fn no_input_makes_a_reader_fail_otherwise_than_by_an_error(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let bytes = Bytes::from(bytes);
        prop_assert!(decode(&bytes).is_err());
        prop_assert!(verify(&bytes).is_err());
    }

    /// Damage behind correct checksums: the fields themselves must be checked.
    #[test]
    fn a_header_of_nonsense_with_a_correct_checksum_is_an_error_or_harmless(
        fields in prop::collection::vec((0..44_usize, any::<u8>()), 0..6), compression in any_compression(),
        compressible in any::<bool>(),
    ) {
        let original = content(100_000, compressible);
        let mut body = encode(&[Bytes::from(original.clone())], compression).body.to_vec();
        for (at, value) in fields {
            body[at] = value;
        }
        if let Ok(length) = Header::length(&body)
            && let Some(header) = body.get_mut(..length)
        {
            let checksum = crc32c::crc32c(&header[..length - 4]);
            header[length - 4..].copy_from_slice(&checksum.to_le_bytes());
        }
        if let Ok((_, decoded)) = decode(&Bytes::from(body)) {
            prop_assert_eq!(decoded, original);
        }
    }

    #[test]
    fn a_damaged_compressed_block_with_a_correct_checksum_is_decompressed_to_its_length_or_refused(
        compression in prop::sample::select(vec![Compression::Lz4, Compression::Zstd]),
        damage in prop::collection::vec((any::<usize>(), any::<u8>()), 1..8),
    ) {
        let mut body = encode(&[Bytes::from(content(BLOCK_BYTES, true))], compression).body.to_vec();
        let header = Header::length(&body).unwrap();
        for (at, value) in damage {
            let place = header + at % (body.len() - header);
            body[place] = value;
        }
        let checksum = crc32c::crc32c(&body[header..]);
        body[36..40].copy_from_slice(&checksum.to_le_bytes());
        let checksum = crc32c::crc32c(&body[..header - 4]);
        body[header - 4..header].copy_from_slice(&checksum.to_le_bytes());
        match decode(&Bytes::from(body)) {
            Ok((_, decoded)) => prop_assert_eq!(decoded.len(), BLOCK_BYTES),
            Err(error) => prop_assert_eq!(error, ObjectError::BlockCompression { block: 0 }),
        }
    }
}
