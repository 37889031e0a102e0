//! The mounts of volumes on this node: one for each `ReplicatedVolume`, which all claims on it share. What pods see is bound from it.
//!
//! # Flow
//!
//! 1. The first use of a volume: `/dev/fuse` is opened and mounted here, with privilege, and served by a process of the mounter, without.
//! 2. Directories of it are bound to where the kubelet wants them. A use is a bind: the kernel's table of mounts counts them, nothing else does.
//! 3. With the last bind the volume is written out and unmounted, and its process ends.
//!
//! While it is mounted, its Secret is watched: changed keys and certificates go to the mounter.
//!
//! # Failure cases
//!
//! *This plugin ends*: nothing happens to the mounts; the next one finds them in the kernel's table, and gets copies of their descriptors from the mounter. *The process of a
//! mount ends*: the mounter has another one go on. *The mounter ends*: this plugin has the next one go on ([`Volumes::follow_mounter`]). *Nobody can go on*: the mount is dead,
//! programs get `ENOTCONN`; the next use finds it dead, takes it away and mounts anew. Pods that had the dead one keep it until they are started again.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client};
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;
use twinshore_crds::names::VolumeNames;

use super::mounting;
use super::paths::Paths;
use super::table::{self, Mounted};
use crate::error::{CallError, with_causes};
use crate::limited::{LOOK_LIMIT, MOUNT_LIMIT, call};
use crate::mounter::SecretData;
use crate::mounter::kept::Kept;
use crate::mounter::link::Link;
use crate::service::{Services, parse};
use crate::volume_key::VolumeKey;

/// How long the last use of a volume may take to write out before the kubelet is told to ask again: less than its patience (2 min).
const WRITE_OUT_LIMIT: Duration = Duration::from_secs(90);

/// Between two attempts to have a mount gone on with.
const GO_ON_INTERVAL: Duration = Duration::from_secs(1);

/// The mounts of volumes on this node.
pub struct Volumes {
    paths: Paths,
    link: Link,
    client: Client,
    services: Arc<Services>,
    node: String,
    turns: Mutex<HashMap<VolumeKey, Arc<tokio::sync::Mutex<()>>>>,
    watches: Mutex<HashMap<VolumeKey, JoinHandle<()>>>,
}

/// The right to mount, use and unmount a volume. Others wait.
pub type Turn = OwnedMutexGuard<()>;

impl Volumes {
    /// Goes on with what is mounted.
    pub fn new(
        paths: Paths,
        link: Link,
        client: Client,
        services: Arc<Services>,
        node: String,
    ) -> io::Result<Self> {
        let volumes = Self {
            paths,
            link,
            client,
            services,
            node,
            turns: Mutex::default(),
            watches: Mutex::default(),
        };
        for mounted in table::read()?.into_iter().filter(Mounted::is_ours) {
            if let Some(key) = volumes.paths.volume_at(&mounted.mount_point) {
                tracing::info!(%key, "is mounted");
                volumes.watch(&key);
            }
        }
        Ok(volumes)
    }

    /// The node.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Waits for the turn to work on a volume.
    async fn turn(&self, key: &VolumeKey) -> Turn {
        let turn = Arc::clone(lock(&self.turns).entry(key.clone()).or_default());
        turn.lock_owned().await
    }

    /// A volume, mounted and alive. It stays so at least until the turn is given back.
    pub async fn ensure(&self, key: &VolumeKey) -> Result<(Mounted, Turn), CallError> {
        let turn = self.turn(key).await;
        let point = self.paths.volume(key);
        let find = || table::find(&point).map_err(CallError::system("read the table of mounts"));
        if let Some(mounted) = find()? {
            let looked_at = mounted.clone();
            let look = call(format!("look at the mount of {key}"), LOOK_LIMIT, move || {
                mounting::ask(&looked_at)
            });
            match look.await {
                Ok(()) => return Ok((mounted, turn)),
                Err(CallError::System { source, .. }) if mounting::is_dead(&source) => {
                    tracing::warn!(%key, "the process of the mount is gone: it is mounted anew");
                    self.take_away(key).await?;
                }
                Err(error) => return Err(error),
            }
        }
        self.mount(key).await?;
        let mounted = find()?.ok_or_else(|| CallError::not_yet(format!("{key} is not mounted")))?;
        Ok((mounted, turn))
    }

    async fn mount(&self, key: &VolumeKey) -> Result<(), CallError> {
        let data = self.services.secret(key).await?;
        // Read here too, so that what is wrong with it is told as such.
        parse(key, &data)?;
        let secret = as_text(&data);
        let (point, name) = (self.paths.volume(key), key.name().to_owned());
        let place = point.clone();
        let device = call(format!("mount {key}"), MOUNT_LIMIT, move || {
            mounting::make_directory(&place, 0o700)?;
            mounting::mount_volume(&name, &place)
        })
        .await?;
        let kept = Arc::new(Kept::new(device).map_err(CallError::system("make a logbook"))?);
        let served = self
            .link
            .start(&key.to_string(), &point, &self.node, secret, kept)
            .await;
        if let Err(error) = served {
            tracing::warn!(%key, "cannot be mounted: {}", with_causes(&error));
            self.take_away(key).await?;
            return Err(error);
        }
        tracing::info!(%key, "mounted");
        self.watch(key);
        Ok(())
    }

    /// Takes a mount away that nobody serves, and ends whatever process may still be there.
    async fn take_away(&self, key: &VolumeKey) -> Result<(), CallError> {
        let point = self.paths.volume(key);
        call(format!("unmount {key}"), MOUNT_LIMIT, move || {
            mounting::unmount_all(&point)
        })
        .await?;
        self.link.forget(&key.to_string());
        self.link.kill(&key.to_string()).await
    }

    /// Has each new mounter go on with what the one before has left, until the future is dropped.
    pub async fn follow_mounter(&self) {
        loop {
            for name in self.link.something_left().await {
                let Ok(key) = name.parse::<VolumeKey>() else {
                    self.link.forget(&name);
                    continue;
                };
                match self.go_on(&key).await {
                    Ok(()) => tracing::info!(%key, "the new mounter goes on with the mount"),
                    Err(error) => {
                        tracing::warn!(%key, "the new mounter does not go on with the mount: {}", with_causes(&error));
                        tokio::time::sleep(GO_ON_INTERVAL).await;
                    }
                }
            }
        }
    }

    async fn go_on(&self, key: &VolumeKey) -> Result<(), CallError> {
        let _turn = self.turn(key).await;
        let name = key.to_string();
        // It may have been taken away, or served, while this waited for its turn.
        let Some(kept) = self.link.kept(&name).filter(|_| self.link.left().contains(&name)) else {
            return Ok(());
        };
        let point = self.paths.volume(key);
        let found = table::find(&point).map_err(CallError::system("read the table of mounts"))?;
        if found.is_none() {
            self.link.forget(&name);
            return Ok(());
        }
        let data = self.services.secret(key).await?;
        parse(key, &data)?;
        self.link
            .start(&name, &point, &self.node, as_text(&data), kept)
            .await
    }

    /// Unmounts a volume that nothing uses any more, when everything is written.
    pub async fn give_up(&self, key: &VolumeKey) -> Result<(), CallError> {
        let _turn = self.turn(key).await;
        let point = self.paths.volume(key);
        let all = table::read().map_err(CallError::system("read the table of mounts"))?;
        if let Some(mounted) = all.iter().rfind(|mounted| mounted.mount_point == point) {
            let is_used = |other: &Mounted| other.device == mounted.device && other.mount_point != point;
            if all.iter().any(is_used) {
                return Ok(());
            }
            let place = point.clone();
            call(
                format!("write out what {key} has buffered"),
                WRITE_OUT_LIMIT,
                move || mounting::write_everything_out(&place),
            )
            .await?;
            let place = point.clone();
            call(format!("unmount {key}"), MOUNT_LIMIT, move || {
                mounting::unmount_all(&place)
            })
            .await?;
        }
        self.link.finish(&key.to_string()).await?;
        self.link.forget(&key.to_string());
        if let Some(watch) = lock(&self.watches).remove(key) {
            watch.abort();
        }
        if let Err(error) = mounting::remove_directory(&point) {
            tracing::warn!("cannot remove {}: {error}", point.display());
        }
        tracing::info!(%key, "unmounted");
        Ok(())
    }

    /// Hands changed keys and certificates over, for as long as the volume is mounted.
    fn watch(&self, key: &VolumeKey) {
        let mut watches = lock(&self.watches);
        if watches.get(key).is_some_and(|watch| !watch.is_finished()) {
            return;
        }
        let watch = follow(
            self.client.clone(),
            key.clone(),
            self.link.clone(),
            Arc::clone(&self.services),
        );
        watches.insert(key.clone(), tokio::spawn(watch));
    }
}

async fn follow(client: Client, key: VolumeKey, link: Link, services: Arc<Services>) {
    let secrets: Api<Secret> = Api::namespaced(client, key.namespace());
    let name = VolumeNames::new(key.name()).client();
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let changes = watcher(secrets, only).default_backoff().applied_objects();
    let mut changes = std::pin::pin!(changes);
    let mut last = None;
    loop {
        match changes.try_next().await {
            Ok(Some(secret)) => {
                let data = secret.data.unwrap_or_default();
                if last.as_ref() == Some(&data) {
                    continue;
                }
                if let Err(error) = link.renew(&key.to_string(), as_text(&data)).await {
                    tracing::warn!(%key, "new keys do not reach the mount: {}", with_causes(&error));
                    continue;
                }
                if last.replace(data).is_some() {
                    tracing::info!(%key, "keys or certificates have changed");
                    services.forget(&key);
                }
            }
            Ok(None) => return,
            // It goes on by itself, later and later.
            Err(error) => tracing::warn!(%key, "the Secret cannot be watched: {}", with_causes(&error)),
        }
    }
}

/// What is not text is not for a mount either: [`parse`] has said so.
fn as_text(data: &BTreeMap<String, ByteString>) -> SecretData {
    SecretData(
        data.iter()
            .filter_map(|(key, value)| Some((key.clone(), String::from_utf8(value.0.clone()).ok()?)))
            .collect(),
    )
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
