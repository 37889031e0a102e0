//! All mount processes of this node.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use k8s_openapi::ByteString;
use tokio::sync::mpsc;
use twinshore_crds::client_secret::{
    AUTHORITY_KEY, BUCKET_CA_KEY, CERTIFICATE_KEY, CREDENTIALS_KEY, CREDENTIALS2_KEY, PRIVATE_KEY_KEY,
    PartSecret,
};

use super::flags;
use super::message::{Event, MountKey, SecretData};
use super::process::Process;

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
    line: Mutex<Option<mpsc::Sender<Event>>>,
}

enum State {
    Starting,
    Serving(Process),
}

impl Mounts {
    /// Serves nothing yet. `program` is `twinshore`.
    pub fn new(program: OsString, directories: Directories) -> Self {
        Self {
            program,
            directories,
            processes: Mutex::default(),
            line: Mutex::default(),
        }
    }

    /// Tells a plugin from now on what ends. What is served now.
    pub fn tell(&self, line: mpsc::Sender<Event>) -> Vec<MountKey> {
        *lock(&self.line) = Some(line);
        lock(&self.processes)
            .iter()
            .filter(|(_, state)| matches!(state, State::Serving(_)))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Starts to serve a mount; done when it can be used.
    pub async fn start(
        self: &Arc<Self>,
        key: MountKey,
        mount_point: &str,
        node: &str,
        data: &SecretData,
        device: OwnedFd,
    ) -> Result<(), String> {
        let secret = parse(data)?;
        let name = directory_name(&key)?;
        let secrets = self.directories.secrets.join(&name);
        let cache = self.directories.cache.join(&name);
        {
            let mut processes = lock(&self.processes);
            if processes.contains_key(&key) {
                return Err(format!("{key} is served already"));
            }
            processes.insert(key.clone(), State::Starting);
        }
        let started = async {
            write_files(&secrets, data)
                .map_err(|error| format!("cannot write to {}: {error}", secrets.display()))?;
            make_directory(&cache).map_err(|error| format!("cannot make {}: {error}", cache.display()))?;
            let directories = flags::Directories {
                secret: &secrets,
                cache: &cache,
            };
            let arguments = flags::arguments(&secret, node, mount_point, directories);
            Process::start(&self.program, &arguments, &key, device).await
        }
        .await;
        let mut process = match started {
            Ok(process) => process,
            Err(reason) => {
                lock(&self.processes).remove(&key);
                return Err(reason);
            }
        };
        lock(&self.processes).insert(key.clone(), State::Serving(process.clone()));
        let mounts = Arc::clone(self);
        tokio::spawn(async move {
            let how = process.wait_for_end().await;
            lock(&mounts.processes).remove(&key);
            // Keys of a volume that is not mounted have no business here.
            if let Err(error) = fs::remove_dir_all(&secrets) {
                tracing::warn!("cannot remove {}: {error}", secrets.display());
            }
            tracing::info!(key, how, "a mount process has ended");
            let line = lock(&mounts.line).clone();
            if let Some(line) = line {
                let _ = line.send(Event::Ended { key, how }).await;
            }
        });
        Ok(())
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

    fn serving(&self, key: &MountKey) -> Result<Option<Process>, String> {
        match lock(&self.processes).get(key) {
            Some(State::Serving(process)) => Ok(Some(process.clone())),
            Some(State::Starting) => Err(format!("{key} is just being started")),
            None => Ok(None),
        }
    }

    /// Waits until a mount that is gone has been written out.
    pub async fn finish(&self, key: &MountKey) -> Result<(), String> {
        let Some(mut process) = self.serving(key)? else {
            return Ok(());
        };
        match tokio::time::timeout(FINISH_LIMIT, process.wait_for_end()).await {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("{key} still writes what was buffered")),
        }
    }

    /// Ends a process whose mount can no longer be used.
    pub async fn kill(&self, key: &MountKey) -> Result<(), String> {
        if let Some(mut process) = self.serving(key)? {
            process.kill();
            process.wait_for_end().await;
        }
        Ok(())
    }

    /// Has all of them write everything and end.
    pub async fn terminate_all(&self) {
        let processes: Vec<Process> = lock(&self.processes)
            .values()
            .filter_map(|state| match state {
                State::Serving(process) => Some(process.clone()),
                State::Starting => None,
            })
            .collect();
        for process in &processes {
            process.terminate();
        }
        for mut process in processes {
            process.wait_for_end().await;
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
