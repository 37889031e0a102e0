//! The `ReplicatedVolume`s of this cluster, by their identity.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use kube::api::{DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::{Api, Client, ResourceExt as _};
use twinshore_crds::ReplicatedVolume;

use crate::error::CallError;
use crate::volume_key::VolumeKey;

/// Finds volumes.
pub struct Registry {
    volumes: Api<DynamicObject>,
    known: Mutex<HashMap<String, VolumeKey>>,
}

impl Registry {
    /// Those of a cluster.
    pub fn new(client: Client) -> Self {
        let kind = ApiResource::erase::<ReplicatedVolume>(&());
        Self {
            // Untyped: a volume that this version cannot read must not hide the others.
            volumes: Api::all_with(client, &kind),
            known: Mutex::default(),
        }
    }

    /// All that have an identity, in the order of it.
    pub async fn all(&self) -> Result<BTreeMap<String, VolumeKey>, CallError> {
        let list = self
            .volumes
            .list(&ListParams::default())
            .await
            .map_err(|error| CallError::unavailable("cannot list ReplicatedVolumes", error))?;
        let found: BTreeMap<String, VolumeKey> = list
            .items
            .iter()
            .filter_map(|volume| {
                let identity = volume.data["status"]["volumeId"].as_str()?;
                let key = VolumeKey::new(&volume.namespace()?, &volume.name_any()).ok()?;
                Some((identity.to_owned(), key))
            })
            .collect();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = found.clone().into_iter().collect();
        Ok(found)
    }

    /// The one with an identity. A session with its service is refused if it is another one meanwhile.
    pub async fn find(&self, identity: &str) -> Result<Option<VolumeKey>, CallError> {
        let known = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(identity)
            .cloned();
        match known {
            Some(key) => Ok(Some(key)),
            None => Ok(self.all().await?.remove(identity)),
        }
    }
}
