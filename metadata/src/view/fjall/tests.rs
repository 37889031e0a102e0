#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn put(key: &str, value: &str) -> Mutation {
    Mutation {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
    }
}

fn remove(key: &str) -> Mutation {
    Mutation {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: None,
    }
}

fn open(directory: &tempfile::TempDir) -> FjallView {
    FjallView::open(directory.path(), FjallOptions::default()).unwrap()
}

#[test]
fn a_record_is_applied_with_its_position_and_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let mut view = open(&directory);
    assert_eq!(view.applied(), Position::ZERO);
    view.apply(Position(1), &[put("Ia", "1"), put("Ib", "2")])
        .unwrap();
    view.apply(Position(2), &[remove("Ia"), put("Ic", "")]).unwrap();
    view.persist().unwrap();
    drop(view);
    let view = open(&directory);
    assert_eq!(view.applied(), Position(2));
    assert_eq!(view.get(b"Ia").unwrap(), None);
    let all = view.scan(b"", b"\xff", 10).unwrap();
    assert_eq!(
        all,
        [
            (Bytes::from("Ib"), Bytes::from("2")),
            (Bytes::from("Ic"), Bytes::new())
        ]
    );
}

#[test]
fn the_last_mutation_of_a_key_in_a_record_wins() {
    let directory = tempfile::tempdir().unwrap();
    let mut view = open(&directory);
    view.apply(
        Position(1),
        &[
            put("Ia", "1"),
            remove("Ia"),
            put("Ib", "1"),
            put("Ia", "3"),
            remove("Ib"),
        ],
    )
    .unwrap();
    assert_eq!(
        view.scan(b"I", b"J", 10).unwrap(),
        [(Bytes::from("Ia"), Bytes::from("3"))]
    );
}

#[test]
fn a_record_out_of_order_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let mut view = open(&directory);
    let error = view.apply(Position(2), &[]).unwrap_err();
    assert!(matches!(
        error,
        ViewError::OutOfOrder {
            applied: Position::ZERO,
            offered: Position(2)
        }
    ));
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let mut view = open(&directory);
    view.apply(Position(1), &[put("Ia", "1")]).unwrap();
    let snapshot = view.snapshot().unwrap();
    view.apply(Position(2), &[put("Ia", "2"), put("Ib", "2")])
        .unwrap();
    assert_eq!(snapshot.get(b"Ia").unwrap(), Some(Bytes::from("1")));
    assert_eq!(snapshot.scan(b"", b"\xff", 10).unwrap().len(), 1);
}

#[test]
fn the_store_keeps_its_own_key_to_itself() {
    let directory = tempfile::tempdir().unwrap();
    let mut view = open(&directory);
    view.apply(Position(1), &[]).unwrap();
    assert_eq!(view.get(&[0]).unwrap(), None);
    assert_eq!(view.scan(&[], &[0xff], 10).unwrap(), []);
    assert_eq!(view.scan(b"J", b"I", 10).unwrap(), []);
    let reserved = Mutation {
        key: Bytes::from_static(&[0]),
        value: None,
    };
    assert!(view.apply(Position(2), &[reserved]).is_err());
    assert_eq!(view.applied(), Position(1));
}

#[test]
fn a_loaded_checkpoint_counts_once_it_is_finished() {
    let directory = tempfile::tempdir().unwrap();
    let mut view = open(&directory);
    view.load(&[(Bytes::from("Ia"), Bytes::from("1"))]).unwrap();
    assert_eq!(view.applied(), Position::ZERO);
    view.finish_load(Position(77)).unwrap();
    drop(view);
    let mut view = open(&directory);
    assert_eq!(view.applied(), Position(77));
    view.apply(Position(78), &[put("Ib", "2")]).unwrap();
    assert_eq!(view.scan(b"I", b"J", 10).unwrap().len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn it_behaves_like_an_ordered_map(
        records in prop::collection::vec(prop::collection::vec((0_u8..20, prop::option::of(any::<u16>())), 0..12), 1..25),
        (low, high, limit) in (0_u8..22, 0_u8..22, 0_usize..25), reopen in any::<bool>(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let mut view = open(&directory);
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (number, record) in records.iter().enumerate() {
            let mut mutations = Vec::new();
            for (key, value) in record {
                let key = vec![b'I', *key];
                match value {
                    Some(value) => model.insert(key.clone(), value.to_be_bytes().to_vec()),
                    None => model.remove(&key),
                };
                mutations.push(Mutation { key: key.into(), value: value.map(|value| value.to_be_bytes().to_vec().into()) });
            }
            view.apply(Position(number as u64 + 1), &mutations).unwrap();
        }
        if reopen {
            drop(view);
            view = open(&directory);
        }
        prop_assert_eq!(view.applied(), Position(records.len() as u64));
        let expected: Vec<(Bytes, Bytes)> = if low < high {
            model.range(vec![b'I', low]..vec![b'I', high]).take(limit)
                .map(|(key, value)| (key.clone().into(), value.clone().into())).collect()
        } else { Vec::new() };
        prop_assert_eq!(view.scan(&[b'I', low], &[b'I', high], limit).unwrap(), expected);
    }
}
