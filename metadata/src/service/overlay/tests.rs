#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

/// An ordered map as a store.
#[derive(Default)]
struct Map(BTreeMap<Bytes, Bytes>);

impl View for Map {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ViewError> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Bytes, Bytes)>, ViewError> {
        if start >= end {
            return Ok(Vec::new());
        }
        let range = self
            .0
            .range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)));
        Ok(range
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
}

fn mutation(key: u8, value: Option<u8>) -> Mutation {
    Mutation {
        key: Bytes::from(vec![key]),
        value: value.map(|value| Bytes::from(vec![value])),
    }
}

fn overlay(mutations: &[(u8, Option<u8>)]) -> Overlay {
    let mut overlay = Overlay::default();
    overlay.extend(
        &mutations
            .iter()
            .map(|(key, value)| mutation(*key, *value))
            .collect::<Vec<_>>(),
    );
    overlay
}

#[test]
fn a_read_remembers_the_youngest_uncommitted_layer_it_depends_on() {
    let mut map = Map::default();
    map.0.insert(Bytes::from_static(&[1]), Bytes::from_static(b"a"));
    map.0.insert(Bytes::from_static(&[9]), Bytes::from_static(b"z"));
    let flight = overlay(&[(3, Some(3))]);
    let filling = overlay(&[(5, None)]);
    let depth_of = |read: &dyn Fn(&Layered<'_, Map>)| {
        let view = Layered::new(&map, Some(&flight), &filling);
        read(&view);
        view.depth()
    };
    assert_eq!(
        depth_of(&|view| assert!(view.get(&[1]).unwrap().is_some())),
        Depth::Committed
    );
    assert_eq!(
        depth_of(&|view| assert!(view.get(&[3]).unwrap().is_some())),
        Depth::Flight
    );
    assert_eq!(
        depth_of(&|view| assert!(view.get(&[5]).unwrap().is_none())),
        Depth::Filling
    );
    assert_eq!(
        depth_of(&|view| assert_eq!(view.scan(&[0], &[255], 1).unwrap().len(), 1)),
        Depth::Committed
    );
    assert_eq!(
        depth_of(&|view| assert_eq!(view.scan(&[0], &[255], 2).unwrap().len(), 2)),
        Depth::Flight
    );
    assert_eq!(
        depth_of(&|view| assert_eq!(view.scan(&[0], &[255], 3).unwrap().len(), 3)),
        Depth::Filling
    );
    assert_eq!(
        depth_of(&|view| assert_eq!(view.scan(&[6], &[255], 3).unwrap().len(), 1)),
        Depth::Committed
    );
}

proptest! {
    #[test]
    fn layers_read_like_one_map_with_everything_applied(
        below in proptest::collection::btree_map(0..32_u8, any::<u8>(), 0..20),
        flight in proptest::collection::vec((0..32_u8, any::<Option<u8>>()), 0..12),
        filling in proptest::collection::vec((0..32_u8, any::<Option<u8>>()), 0..12),
        start in 0..33_u8, end in 0..33_u8, limit in 0..20_usize,
    ) {
        let mut map = Map::default();
        for (key, value) in &below {
            map.0.insert(Bytes::from(vec![*key]), Bytes::from(vec![*value]));
        }
        let mut whole = below;
        for (key, value) in flight.iter().chain(&filling) {
            match value {
                Some(value) => whole.insert(*key, *value),
                None => whole.remove(key),
            };
        }
        let (flight, filling) = (overlay(&flight), overlay(&filling));
        let view = Layered::new(&map, Some(&flight), &filling);
        let found: Vec<_> = view.scan(&[start], &[end], limit).unwrap().into_iter().map(|(k, v)| (k[0], v[0])).collect();
        let expected: Vec<_> = if start < end {
            whole.range(start..end).take(limit).map(|(k, v)| (*k, *v)).collect()
        } else {
            Vec::new()
        };
        prop_assert_eq!(found, expected);
        for key in 0..32 {
            prop_assert_eq!(view.get(&[key]).unwrap().map(|value| value[0]), whole.get(&key).copied());
        }
    }
}
