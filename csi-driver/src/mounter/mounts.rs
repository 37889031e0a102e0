//! All mount processes of this node.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::ByteString;
use tokio::sync::{mpsc, watch};
use twinshore_crds::client_secret::{
    AUTHORITY_KEY, BUCKET_CA_KEY, CERTIFICATE_KEY, CREDENTIALS_KEY, CREDENTIALS2_KEY, PRIVATE_KEY_KEY,
    PartSecret,
};

use super::flags;
use super::kept::Kept;
use super::message::{Event, MountKey, SecretData};
use super::process::{Ended, Process};
use super::restarts::Restarts;

/// The files that a mount process reads, and reads again when they change.
const FILES: [&str; 6] = [
    CREDENTIALS_KEY,
    CREDENTIALS2_KEY,
    BUCKET_CA_KEY,
    AUTHORITY_KEY,
    CERTIFICATE_KEY,
    PRIVATE_KEY_KEY,
];

/// How long `Finish` waits for a process that writes out: less than the kubelet's patience with a call (2 min); it asks again.
const FINISH_LIMIT: Duration = Duration::from_secs(90);

/// Where things are.
#[derive(Clone, Debug)]
pub struct Directories {
    /// For keys and certificates: memory.
    pub secrets: PathBuf,
    /// For the caches of mounts.
    pub cache: PathBuf,
}

/// All mount processes of this node.
pub struct Mounts {
    program: OsString,
    directories: Directories,
    processes: Mutex<HashMap<MountKey, State>>,
    /// All processes have been asked to end, and are followed by nobody here.
    is_ending: AtomicBool,
    line: Mutex<Option<mpsc::Sender<Event>>>,
}

enum State {
    Starting,
    Serving(Serving),
}

/// A mount that is served.
#[derive(Clone)]
struct Serving {
    /// Of several one after the other, the present one.
    process: Process,
    kept: Arc<Kept>,
    /// Its process is not followed by another one.
    is_over: Arc<AtomicBool>,
    /// Set when the last process has ended.
    ended: watch::Receiver<bool>,
}

/// What it takes to start a process for a mount.
struct Plan {
    key: MountKey,
    arguments: Vec<String>,
    secrets: PathBuf,
    kept: Arc<Kept>,
}

impl Mounts {
    /// Serves nothing yet. `program` is `twinshore`.
    pub fn new(program: OsString, directories: Directories) -> Self {
        Self {
            program,
            directories,
            processes: Mutex::default(),
            is_ending: AtomicBool::new(false),
            line: Mutex::default(),
        }
    }

    /// Tells a plugin from now on what ends. What is served now, and what is kept of it.
    pub fn tell(&self, line: mpsc::Sender<Event>) -> Vec<(MountKey, Arc<Kept>)> {
        *lock(&self.line) = Some(line);
        lock(&self.processes)
            .iter()
            .filter_map(|(key, state)| match state {
                State::Serving(serving) => Some((key.clone(), Arc::clone(&serving.kept))),
                State::Starting => None,
            })
            .collect()
    }

    /// Starts to serve a mount; done when it can be used.
    pub async fn start(
        self: &Arc<Self>,
        key: MountKey,
        mount_point: &str,
        node: &str,
        data: &SecretData,
        kept: Kept,
    ) -> Result<(), String> {
        let secret = parse(data)?;
        let name = directory_name(&key)?;
        let secrets = self.directories.secrets.join(&name);
        let cache = self.directories.cache.join(&name);
        {
            let mut processes = lock(&self.processes);
            if self.is_ending.load(Ordering::Acquire) {
                return Err("this mounter is ending".to_owned());
            }
            if processes.contains_key(&key) {
                return Err(format!("{key} is served already"));
            }
            processes.insert(key.clone(), State::Starting);
        }
        let started = async {
            write_files(&secrets, data)
                .map_err(|error| format!("cannot write to {}: {error}", secrets.display()))?;
            make_directory(&cache).map_err(|error| format!("cannot make {}: {error}", cache.display()))?;
            let logbook = kept.logbook_path();
            let directories = flags::Directories {
                secret: &secrets,
                cache: &cache,
                logbook: Path::new(&logbook),
            };
            let plan = Plan {
                key: key.clone(),
                arguments: flags::arguments(&secret, node, mount_point, directories),
                secrets: secrets.clone(),
                kept: Arc::new(kept),
            };
            let process = self.start_process(&plan).await?;
            Ok::<_, String>((plan, process))
        }
        .await;
        let (plan, process) = match started {
            Ok(started) => started,
            Err(reason) => {
                lock(&self.processes).remove(&key);
                return Err(reason);
            }
        };
        let (says_ended, ended) = watch::channel(false);
        let serving = Serving {
            process,
            kept: Arc::clone(&plan.kept),
            is_over: Arc::default(),
            ended,
        };
        lock(&self.processes).insert(key, State::Serving(serving.clone()));
        tokio::spawn(Arc::clone(self).serve(plan, serving, says_ended));
        Ok(())
    }

    async fn start_process(&self, plan: &Plan) -> Result<Process, String> {
        let device = plan.kept.device();
        let device = device.map_err(|error| format!("cannot hand the device over: {error}"))?;
        Process::start(&self.program, &plan.arguments, &plan.key, device).await
    }

    /// Has one process follow the other until the mount is over.
    async fn serve(self: Arc<Self>, plan: Plan, mut serving: Serving, says_ended: watch::Sender<bool>) {
        let mut restarts = Restarts::default();
        let mut ready = Some(Instant::now());
        let mut ended = serving.process.wait_for_end().await;
        loop {
            if ended.successfully
                || self.is_ending.load(Ordering::Acquire)
                || serving.is_over.load(Ordering::Acquire)
            {
                break;
            }
            let key = &plan.key;
            let Some(pause) = restarts.ended(ready, Instant::now()) else {
                tracing::error!(
                    key,
                    how = ended.how,
                    "mount processes fail again and again: the mount is given up"
                );
                break;
            };
            tracing::warn!(
                key,
                how = ended.how,
                "a mount process has ended: another one goes on"
            );
            tokio::time::sleep(pause).await;
            ended = match self.start_process(&plan).await {
                Ok(process) => {
                    ready = Some(Instant::now());
                    serving.process = process;
                    lock(&self.processes).insert(key.clone(), State::Serving(serving.clone()));
                    if serving.is_over.load(Ordering::Acquire) {
                        // Asked for while there was no process.
                        serving.process.kill();
                    }
                    serving.process.wait_for_end().await
                }
                Err(how) => {
                    ready = None;
                    Ended {
                        successfully: false,
                        how,
                    }
                }
            };
        }
        let Plan { key, secrets, .. } = plan;
        lock(&self.processes).remove(&key);
        // Keys of a volume that is not mounted have no business here.
        if let Err(error) = fs::remove_dir_all(&secrets) {
            tracing::warn!("cannot remove {}: {error}", secrets.display());
        }
        let how = ended.how;
        tracing::info!(key, how, "a mount has ended here");
        says_ended.send_replace(true);
        // What another mounter goes on with has not ended.
        if self.is_ending.load(Ordering::Acquire) {
            return;
        }
        let line = lock(&self.line).clone();
        if let Some(line) = line {
            // A plugin that has gone hears it from the next list.
            let _ = line.send(Event::Ended { key, how }).await;
        }
    }

    /// New keys and certificates: the process reads them by itself.
    pub fn renew(&self, key: &MountKey, data: &SecretData) -> Result<(), String> {
        parse(data)?;
        if !lock(&self.processes).contains_key(key) {
            return Err(format!("{key} is not served"));
        }
        let directory = self.directories.secrets.join(directory_name(key)?);
        write_files(&directory, data)
            .map_err(|error| format!("cannot write to {}: {error}", directory.display()))
    }

    fn serving(&self, key: &MountKey) -> Result<Option<Serving>, String> {
        match lock(&self.processes).get(key) {
            Some(State::Serving(serving)) => Ok(Some(serving.clone())),
            Some(State::Starting) => Err(format!("{key} is just being started")),
            None => Ok(None),
        }
    }

    /// Waits until a mount that is gone has been written out.
    pub async fn finish(&self, key: &MountKey) -> Result<(), String> {
        let Some(mut serving) = self.serving(key)? else {
            return Ok(());
        };
        match tokio::time::timeout(FINISH_LIMIT, serving.ended.wait_for(|ended| *ended)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("{key} still writes what was buffered")),
        }
    }

    /// Ends a process whose mount can no longer be used.
    pub async fn kill(&self, key: &MountKey) -> Result<(), String> {
        if let Some(mut serving) = self.serving(key)? {
            serving.is_over.store(true, Ordering::Release);
            serving.process.kill();
            // An error means that it has ended.
            let _ = serving.ended.wait_for(|ended| *ended).await;
        }
        Ok(())
    }

    /// Has all of them write everything and end. Who has copies of the descriptors goes on with them.
    pub async fn terminate_all(&self) {
        let all: Vec<Serving> = {
            let processes = lock(&self.processes);
            self.is_ending.store(true, Ordering::Release);
            let serving = processes.values().filter_map(|state| match state {
                State::Serving(serving) => Some(serving.clone()),
                State::Starting => None,
            });
            serving.collect()
        };
        for serving in &all {
            serving.process.terminate();
        }
        for mut serving in all {
            // An error means that it has ended.
            let _ = serving.ended.wait_for(|ended| *ended).await;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn parse(data: &SecretData) -> Result<PartSecret, String> {
    let data = data
        .0
        .iter()
        .map(|(key, value)| (key.clone(), ByteString(value.clone().into_bytes())))
        .collect();
    PartSecret::from_data(&data).map_err(|error| error.to_string())
}

/// `<namespace>/<name>` as one name of a directory. Neither part can contain a `_`.
fn directory_name(key: &MountKey) -> Result<String, String> {
    let allowed = |part: &str| {
        !part.is_empty()
            && part.len() <= 63
            && part
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    match key.split_once('/') {
        Some((namespace, name)) if allowed(namespace) && allowed(name) => Ok(format!("{namespace}_{name}")),
        _ => Err(format!("`{key}` is not NAMESPACE/NAME")),
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Each file is replaced at once: a reader sees the old or the new one. A key that is no longer there loses its file.
fn write_files(directory: &Path, data: &SecretData) -> io::Result<()> {
    make_directory(directory)?;
    for name in FILES {
        let path = directory.join(name);
        match data.0.get(name) {
            Some(text) => {
                let partial = directory.join(format!(".{name}"));
                let mut file = fs::OpenOptions::new()
                    .write(true)
                    .create(true)
                    .truncate(true)
                    .mode(0o600)
                    .open(&partial)?;
                file.write_all(text.as_bytes())?;
                fs::rename(&partial, &path)?;
            }
            None => match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_key_that_is_no_name_of_a_volume_becomes_no_path() {
        assert_eq!(
            directory_name(&"team/documents".to_owned()).unwrap(),
            "team_documents"
        );
        for wrong in ["documents", "../x/y", "team/../x", "/x", "a/b/c", "a/", "A/b"] {
            assert!(directory_name(&wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn files_are_replaced_and_removed_with_their_keys() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("team_documents");
        let data = |pairs: &[(&str, &str)]| {
            SecretData(
                pairs
                    .iter()
                    .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                    .collect(),
            )
        };
        write_files(
            &path,
            &data(&[(CREDENTIALS_KEY, "old"), (BUCKET_CA_KEY, "ca"), ("else", "x")]),
        )
        .unwrap();
        write_files(&path, &data(&[(CREDENTIALS_KEY, "new")])).unwrap();
        assert_eq!(fs::read_to_string(path.join(CREDENTIALS_KEY)).unwrap(), "new");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
    }
}
