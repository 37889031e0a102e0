//! Everything of ours that is in the cluster, as the watches saw it last; and what was applied, so that nothing is written that is
//! there already.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use kube::Resource;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::reflector::{ObjectRef, Store};
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};

/// Objects of all watched kinds. The watches run behind: what must not be missed is read from the API server instead.
#[derive(Clone, Default)]
pub struct Inventory {
    stores: BTreeMap<String, (ApiResource, Store<DynamicObject>)>,
}

impl Inventory {
    /// Adds a kind.
    pub fn add(&mut self, resource: ApiResource, store: Store<DynamicObject>) {
        self.stores.insert(resource.kind.clone(), (resource, store));
    }

    /// Waits until all watches have seen everything once.
    pub async fn ready(&self) {
        for (_, store) in self.stores.values() {
            // A writer that is gone never becomes ready; its watch has ended the operator then.
            let _ = store.wait_until_ready().await;
        }
    }

    /// An object, if the watches have seen it.
    pub fn get<K>(&self, namespace: &str, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let object = self.find(&K::kind(&()), namespace, name)?;
        DynamicObject::clone(&object).try_parse().ok()
    }

    /// Its resource version.
    pub fn resource_version(&self, kind: &str, namespace: &str, name: &str) -> Option<String> {
        self.find(kind, namespace, name)?
            .metadata
            .resource_version
            .clone()
    }

    fn find(&self, kind: &str, namespace: &str, name: &str) -> Option<Arc<DynamicObject>> {
        let (resource, store) = self.stores.get(kind)?;
        store.get(&ObjectRef::new_with(name, resource.clone()).within(namespace))
    }

    /// All objects of a kind with a label.
    pub fn with_label<K>(&self, namespace: &str, label: &str, value: &str) -> Vec<K>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned,
    {
        let Some((_, store)) = self.stores.get(K::kind(&()).as_ref()) else {
            return Vec::new();
        };
        store
            .state_filter(|object| has(object, namespace, label, value))
            .into_iter()
            .filter_map(|object| DynamicObject::clone(&object).try_parse().ok())
            .collect()
    }

    /// All objects with a label, of all kinds.
    pub fn all_with_label(
        &self,
        namespace: &str,
        label: &str,
        value: &str,
    ) -> Vec<(ApiResource, Arc<DynamicObject>)> {
        let mut found = Vec::new();
        for (resource, store) in self.stores.values() {
            let objects = store.state_filter(|object| has(object, namespace, label, value));
            found.extend(objects.into_iter().map(|object| (resource.clone(), object)));
        }
        found
    }
}

fn has(object: &DynamicObject, namespace: &str, label: &str, value: &str) -> bool {
    object.metadata.namespace.as_deref() == Some(namespace)
        && object
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get(label))
            .is_some_and(|found| found == value)
}

/// Identifies an object: kind, namespace, name.
pub type Key = (String, String, String);

/// A fingerprint of what an object should be.
pub type Fingerprint = [u8; 32];

/// The fingerprint of a desired object.
pub fn fingerprint(desired: &serde_json::Value) -> Fingerprint {
    // Keys of objects are sorted, so the text is the same for the same object.
    Sha256::digest(desired.to_string()).into()
}

/// What was applied, and as which version it then stood in the API server. An object that still stands there as that version, and
/// should still be the same, is not written again.
#[derive(Default)]
pub struct Memory {
    applied: Mutex<HashMap<Key, (Fingerprint, String)>>,
}

impl Memory {
    /// Is the object, seen as `version`, what it should be?
    pub fn holds(&self, key: &Key, desired: &Fingerprint, version: Option<&str>) -> bool {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        match (applied.get(key), version) {
            (Some((fingerprint, then)), Some(now)) => fingerprint == desired && then == now,
            _ => false,
        }
    }

    /// Remembers what was applied.
    pub fn remember(&self, key: Key, desired: Fingerprint, version: String) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.insert(key, (desired, version));
    }

    /// Forgets everything of a volume.
    pub fn forget(&self, namespace: &str, belongs: impl Fn(&str) -> bool) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.retain(|(_, within, name), _| within != namespace || !belongs(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        ("Secret".to_owned(), "team".to_owned(), name.to_owned())
    }

    #[test]
    fn only_what_stands_as_it_was_left_is_not_written_again() {
        let memory = Memory::default();
        let desired = fingerprint(&serde_json::json!({"a": 1}));
        let other = fingerprint(&serde_json::json!({"a": 2}));
        assert!(!memory.holds(&key("x"), &desired, Some("5")));
        memory.remember(key("x"), desired, "5".to_owned());
        assert!(memory.holds(&key("x"), &desired, Some("5")));
        assert!(
            !memory.holds(&key("x"), &desired, Some("6")),
            "somebody changed it"
        );
        assert!(!memory.holds(&key("x"), &desired, None), "somebody removed it");
        assert!(
            !memory.holds(&key("x"), &other, Some("5")),
            "it should be something else"
        );
        memory.forget("team", |name| name == "x");
        assert!(!memory.holds(&key("x"), &desired, Some("5")));
    }
}
