//! The plugin's end of the line to the mounter of its node.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::kept::Kept;
use super::message::{Command, Event, MountKey, Request, SecretData, VERSION};
use super::socket::{Listener, Socket};
use crate::error::CallError;

/// How long a call waits for a mounter that is not connected: one that is being started connects within a second.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// How long an answer may take: longer than the mounter's own limits.
const ANSWER_LIMIT: Duration = Duration::from_secs(100);

/// The line, whether there is one at the moment or not.
#[derive(Clone, Default)]
pub struct Link(Arc<Inner>);

#[derive(Default)]
struct Inner {
    state: Mutex<State>,
    connected: Notify,
}

#[derive(Default)]
struct State {
    line: Option<Arc<Socket>>,
    /// Numbers of requests, and of lines, which share the counter.
    last_number: u64,
    line_number: u64,
    answers: HashMap<u64, oneshot::Sender<Result<(), String>>>,
    mounts: HashSet<MountKey>,
    /// What it takes to go on with the mounts when the mounter is gone.
    kept: HashMap<MountKey, Arc<Kept>>,
}

impl Link {
    /// Listens at a path for the mounter, which runs as this user, until the future is dropped.
    pub async fn run(&self, path: &Path, user: u32) -> io::Result<()> {
        let listener = Listener::bind(path)?;
        loop {
            let (socket, peer) = listener.accept().await?;
            if peer != user && peer != 0 {
                tracing::warn!(
                    peer,
                    "somebody who is not the mounter has connected, and is sent away"
                );
                continue;
            }
            let link = self.clone();
            tokio::spawn(async move {
                if let Err(error) = link.follow(socket).await {
                    tracing::warn!("the line to the mounter broke: {error}");
                }
            });
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn follow(&self, socket: Socket) -> io::Result<()> {
        let socket = Arc::new(socket);
        let first = socket.receive::<Event>().await?;
        let Some((Event::Hello { version, mounts }, _)) = first else {
            return Err(io::Error::other("the mounter does not say who it is"));
        };
        if version != VERSION {
            return Err(io::Error::other(format!(
                "the mounter speaks version {version}, this plugin {VERSION}: delete the mounter's pod when its mounts are not in use, so that it is replaced"
            )));
        }
        tracing::info!(?mounts, "the mounter is connected");
        let number = {
            let mut state = self.state();
            // Of two lines the newer is that of the pod that replaces the other.
            state.last_number += 1;
            state.line_number = state.last_number;
            state.line = Some(Arc::clone(&socket));
            state.answers.clear();
            state.mounts = mounts.into_iter().collect();
            state.line_number
        };
        // It says what it keeps of what it serves before anything else.
        self.0.connected.notify_waiters();
        let result = self.listen(&socket).await;
        let mut state = self.state();
        if state.line_number == number {
            state.line = None;
            state.answers.clear();
            state.mounts.clear();
        }
        result
    }

    async fn listen(&self, socket: &Socket) -> io::Result<()> {
        while let Some((event, descriptors)) = socket.receive::<Event>().await? {
            match event {
                Event::Hello { .. } => {}
                Event::Kept { key } => {
                    if let Some(kept) = Kept::received(descriptors) {
                        self.state().kept.insert(key, Arc::new(kept));
                    }
                }
                Event::Answer { number, result } => {
                    let answer = self.state().answers.remove(&number);
                    if let Some(answer) = answer {
                        // Whoever asked may have stopped waiting.
                        let _ = answer.send(result);
                    }
                }
                Event::Ended { key, how } => {
                    tracing::warn!(key, how, "a mount has ended");
                    let mut state = self.state();
                    state.mounts.remove(&key);
                    // With the last copy of the device the connection ends: programs get an error instead of waiting.
                    state.kept.remove(&key);
                }
            }
        }
        Ok(())
    }

    /// What the mounter serves, as it last said; none if it is not connected.
    pub fn mounts(&self) -> Option<HashSet<MountKey>> {
        let state = self.state();
        state.line.is_some().then(|| state.mounts.clone())
    }

    /// Waits until a mounter is connected that does not serve all of what is kept here, and answers what that is.
    pub async fn something_left(&self) -> Vec<MountKey> {
        loop {
            let connected = self.0.connected.notified();
            tokio::pin!(connected);
            connected.as_mut().enable();
            let left = self.left();
            if !left.is_empty() {
                return left;
            }
            connected.await;
        }
    }

    /// What is kept here and not served by the mounter that is connected, if one is.
    pub fn left(&self) -> Vec<MountKey> {
        let state = self.state();
        if state.line.is_none() {
            return Vec::new();
        }
        let left = state.kept.keys().filter(|key| !state.mounts.contains(*key));
        left.cloned().collect()
    }

    /// What is kept of a mount.
    pub fn kept(&self, key: &MountKey) -> Option<Arc<Kept>> {
        self.state().kept.get(key).cloned()
    }

    /// The mount is gone: nothing is kept of it.
    pub fn forget(&self, key: &MountKey) {
        self.state().kept.remove(key);
    }

    /// Has a mount served.
    pub async fn start(
        &self,
        key: &MountKey,
        mount_point: &Path,
        node: &str,
        secret: SecretData,
        kept: Arc<Kept>,
    ) -> Result<(), CallError> {
        let command = Command::Start {
            key: key.clone(),
            mount_point: mount_point.display().to_string(),
            node: node.to_owned(),
            secret,
        };
        self.ask(command, Some(&kept)).await?;
        let mut state = self.state();
        state.mounts.insert(key.clone());
        state.kept.insert(key.clone(), kept);
        Ok(())
    }

    /// Hands over new keys and certificates.
    pub async fn renew(&self, key: &MountKey, secret: SecretData) -> Result<(), CallError> {
        let key = key.clone();
        self.ask(Command::Renew { key, secret }, None).await
    }

    /// Waits until a mount that is gone has been written out.
    pub async fn finish(&self, key: &MountKey) -> Result<(), CallError> {
        let key = key.clone();
        self.ask(Command::Finish { key }, None).await
    }

    /// Ends a process whose mount can no longer be used.
    pub async fn kill(&self, key: &MountKey) -> Result<(), CallError> {
        let key = key.clone();
        self.ask(Command::Kill { key }, None).await
    }

    async fn line(&self) -> Result<Arc<Socket>, CallError> {
        let wait = async {
            loop {
                let connected = self.0.connected.notified();
                tokio::pin!(connected);
                connected.as_mut().enable();
                if let Some(line) = self.state().line.clone() {
                    return line;
                }
                connected.await;
            }
        };
        tokio::time::timeout(CONNECT_PATIENCE, wait).await.map_err(|_| {
            CallError::not_yet("the mounter of this node is not connected: look at its pod, which is beside the node plugin's")
        })
    }

    async fn ask(&self, command: Command, kept: Option<&Kept>) -> Result<(), CallError> {
        let line = self.line().await?;
        let (sender, receiver) = oneshot::channel();
        let number = {
            let mut state = self.state();
            state.last_number += 1;
            let number = state.last_number;
            state.answers.insert(number, sender);
            number
        };
        let request = Request { number, command };
        let sent = match kept {
            Some(kept) => line.send(&request, &kept.descriptors()).await,
            None => line.send(&request, &[]).await,
        };
        if let Err(error) = sent {
            self.state().answers.remove(&number);
            return Err(CallError::unavailable(
                "the mounter of this node cannot be reached",
                error,
            ));
        }
        match tokio::time::timeout(ANSWER_LIMIT, receiver).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(reason))) => Err(CallError::not_yet(reason)),
            Ok(Err(_)) => Err(CallError::not_yet("the line to the mounter of this node broke")),
            Err(_) => {
                self.state().answers.remove(&number);
                Err(CallError::Slow(
                    "the mounter of this node does not answer".to_owned(),
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::ffi::OsString;

    use super::*;
    use crate::mounter::{Directories, Mounts};

    #[tokio::test]
    async fn a_mounter_is_waited_for_and_what_it_refuses_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mounter.sock");
        let link = Link::default();
        let user = rustix::process::geteuid().as_raw();
        let serving = {
            let (link, path) = (link.clone(), path.clone());
            tokio::spawn(async move { link.run(&path, user).await })
        };
        assert_eq!(link.mounts(), None);
        let directories = Directories {
            secrets: directory.path().join("secrets"),
            cache: directory.path().join("cache"),
        };
        let mounts = Arc::new(Mounts::new(OsString::from("true"), directories));
        let mounter = tokio::spawn(crate::mounter::run(path.clone(), mounts));
        let key = "team/documents".to_owned();
        let device = std::os::fd::OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let kept = Arc::new(Kept::new(device).unwrap());
        let secret = SecretData(BTreeMap::new());
        let refused = link.start(&key, Path::new("/mnt"), "node", secret, kept).await;
        assert_eq!(refused.unwrap_err().to_string(), "the key config.json is missing");
        assert_eq!(link.mounts(), Some(HashSet::new()));
        // What is not served is finished already.
        link.finish(&key).await.unwrap();
        mounter.abort();
        serving.abort();
    }
}
