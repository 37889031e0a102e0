//! Access of pods, registered with the metadata service: access modes hold across both clusters.
//!
//! Taken before a pod's mount is made, given back after it is gone. What cannot be given back (the service does not answer, and a pod's end must
//! not wait for it; or the machine started anew) is given back later: what this node holds for a target that is not mounted.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use twinshore_protocol::claims::{AccessMode, Label, NodeName};

use super::mounting::name_of;
use super::paths::Paths;
use super::{records, table};
use crate::attributes::Attributes;
use crate::error::{CallError, with_causes};
use crate::locks::Locks;
use crate::service::{Service, Services};
use crate::volume_key::VolumeKey;

/// How long the end of a pod waits for the service.
const RELEASE_LIMIT: Duration = Duration::from_secs(5);

/// How soon giving back is tried again, at first and at last: a volume may be gone for good.
const RETRY_INTERVAL: Duration = Duration::from_secs(15);
const RETRY_INTERVAL_MAX: Duration = Duration::from_mins(10);

/// Holds looked at in one message.
const PAGE: u32 = 500;

/// Access of pods on this node.
#[derive(Clone)]
pub struct Access {
    services: Arc<Services>,
    paths: Paths,
    node: String,
    /// One call about a target at a time, this included.
    targets: Locks,
    /// One call about a volume at a time.
    volumes: Locks,
    owed: Arc<Owed>,
}

/// Volumes of which this node may hold what it does not use.
#[derive(Default)]
struct Owed {
    volumes: Mutex<HashSet<VolumeKey>>,
    more: Notify,
}

impl Access {
    /// Everything that was staged before is looked at first.
    pub fn new(services: Arc<Services>, paths: Paths, node: String, targets: Locks, volumes: Locks) -> Self {
        let access = Self {
            services,
            paths,
            node,
            targets,
            volumes,
            owed: Arc::default(),
        };
        for record in records::all(&access.paths) {
            if let Ok(key) = record.attributes.volume() {
                access.owe(key);
            }
        }
        access
    }

    fn owed(&self) -> MutexGuard<'_, HashSet<VolumeKey>> {
        self.owed.volumes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owe(&self, key: VolumeKey) {
        self.owed().insert(key);
        self.owed.more.notify_one();
    }

    /// Something is still to be given back: the volume's records have to stay.
    pub fn owes(&self, key: &VolumeKey) -> bool {
        self.owed().contains(key)
    }

    fn names(&self, service: &Service, target: &Path) -> Result<(NodeName, Label), CallError> {
        let invalid = |error| CallError::Invalid(format!("{}: {error}", target.display()));
        let node = NodeName::new(service.region.as_str(), self.node.as_str()).map_err(invalid)?;
        Ok((node, Label::new(target_name(target)).map_err(invalid)?))
    }

    /// Takes access for a target.
    pub async fn take(
        &self,
        key: &VolumeKey,
        attributes: &Attributes,
        target: &Path,
        mode: AccessMode,
    ) -> Result<(), CallError> {
        let service = self.services.of(key).await?;
        let Some(to) = attributes.access_to(&service.region)? else {
            return match mode {
                AccessMode::ReadOnly | AccessMode::ReadWrite => Ok(()),
                AccessMode::SinglePod | AccessMode::SingleNode => Err(CallError::Precondition(format!(
                    "the whole of {key} can be used as ReadWriteMany or ReadOnlyMany only: for {mode}, name a directory of it"
                ))),
            };
        };
        let (node, target) = self.names(&service, target)?;
        let what = format!("take access for {target}");
        let result = service.session.hold_access(to, node, target, mode).await;
        result.map_err(|error| self.services.failed(key, &what, error))
    }

    /// Gives access back, now or later.
    pub async fn give_back(&self, key: &VolumeKey, target: &Path) {
        let release = async {
            let service = self.services.of(key).await?;
            let (node, label) = self.names(&service, target)?;
            let what = format!("give back the access of {label}");
            let result = service.session.release_access(node, label).await;
            result.map_err(|error| self.services.failed(key, &what, error))
        };
        match tokio::time::timeout(RELEASE_LIMIT, release).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%key, "later: {}", with_causes(&error));
                self.owe(key.clone());
            }
            Err(_) => {
                tracing::warn!(%key, "the service does not answer: access is given back later");
                self.owe(key.clone());
            }
        }
    }

    /// Gives back what was left, for ever.
    pub async fn run(&self) {
        let mut pause = RETRY_INTERVAL;
        loop {
            let keys: Vec<VolumeKey> = self.owed().iter().cloned().collect();
            if keys.is_empty() {
                self.owed.more.notified().await;
                continue;
            }
            for key in keys {
                match self.tidy(&key).await {
                    Ok(()) => {
                        self.owed().remove(&key);
                    }
                    Err(error) => {
                        tracing::warn!(%key, "access cannot be given back yet: {}", with_causes(&error));
                    }
                }
            }
            if self.owed().is_empty() {
                pause = RETRY_INTERVAL;
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_INTERVAL_MAX);
            }
        }
    }

    /// Gives back what this node holds of a volume for targets that are not mounted, and forgets what is no longer staged.
    async fn tidy(&self, key: &VolumeKey) -> Result<(), CallError> {
        let service = self.services.of(key).await?;
        let node = NodeName::new(service.region.as_str(), self.node.as_str())
            .map_err(|error| CallError::Precondition(error.to_string()))?;
        let mut from = None;
        loop {
            let page = service
                .session
                .list_access(Some(node.clone()), from, PAGE)
                .await
                .map_err(|error| self.services.failed(key, "list access", error))?;
            for hold in page.holds {
                // A call about this target is under way: it will see to it.
                let Ok(_held) = self.targets.take(hold.target.as_str()) else {
                    return Err(CallError::Pending(hold.target.to_string()));
                };
                if is_mounted(hold.target.as_str())? {
                    continue;
                }
                tracing::info!(%key, target = %hold.target, "gives back the access of a pod that is gone");
                let what = format!("give back the access of {}", hold.target);
                let result = service.session.release_access(node.clone(), hold.target).await;
                result.map_err(|error| self.services.failed(key, &what, error))?;
            }
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        let point = self.paths.volume(key);
        let mounted = table::find(&point).map_err(CallError::system("read the table of mounts"))?;
        if mounted.is_some() {
            return Ok(());
        }
        for record in records::all(&self.paths) {
            if record.attributes.volume().ok().as_ref() != Some(key) {
                continue;
            }
            let Ok(_held) = self.volumes.take(&record.volume_id) else {
                continue;
            };
            records::remove(&self.paths, &record.volume_id)?;
        }
        Ok(())
    }
}

/// A target's name with the service. Paths of pods are shorter than names may be; a longer one keeps its end, which is what differs.
pub fn target_name(target: &Path) -> String {
    const NAME_MAX_BYTES: usize = 255;
    let name = name_of(target);
    let start = name.len().saturating_sub(NAME_MAX_BYTES);
    let start = (start..=name.len())
        .find(|index| name.is_char_boundary(*index))
        .unwrap_or(0);
    name[start..].to_owned()
}

fn is_mounted(target: &str) -> Result<bool, CallError> {
    let all = table::read().map_err(CallError::system("read the table of mounts"))?;
    Ok(all
        .iter()
        .any(|mounted| mounted.is_ours() && target_name(&mounted.mount_point) == target))
}
