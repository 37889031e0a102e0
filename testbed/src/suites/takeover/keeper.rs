//! Keeps a mount while the process that serves it comes and goes: it has the device and the logbook, and never touches the mount.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use twinshore_testbed::failure::Failure;
use twinshore_testbed::mount_table;
use twinshore_testbed::regions::{Region, Regions};

/// For a process to be ready, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// See the module.
pub struct Keeper {
    device: OwnedFd,
    logbook: OwnedFd,
    mount_point: PathBuf,
    binary: PathBuf,
    arguments: Vec<std::ffi::OsString>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    child: Option<Child>,
}

fn mount(mount_point: &Path) -> io::Result<OwnedFd> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other",
        device.as_raw_fd()
    );
    let data = std::ffi::CString::new(data)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("takeover", mount_point, "fuse.twinshore", flags, &*data)?;
    Ok(device)
}

impl Keeper {
    /// Mounts in a region, where nothing must be mounted.
    pub async fn start(regions: &Regions, region: Region) -> Result<Self, Failure> {
        let mount_point = regions.mount_point(region);
        let logbook = rustix::fs::memfd_create("twinshore-logbook", MemfdFlags::CLOEXEC)
            .map_err(|error| Failure::io("make a logbook")(error.into()))?;
        let device = mount(&mount_point).map_err(Failure::io("mount"))?;
        let mut arguments = vec![
            "mount".into(),
            "--foreground".into(),
            "--device-from-stdin".into(),
        ];
        let path = format!("/proc/{}/fd/{}", std::process::id(), logbook.as_raw_fd());
        arguments.extend(["--logbook".into(), path.into()]);
        arguments.extend(regions.mount_arguments(region));
        let mut keeper = Self {
            device,
            logbook,
            mount_point,
            binary: regions.binary().to_owned(),
            arguments,
            environment: regions.credentials(),
            log: regions.log_directory().join(format!("mount-{region}-kept.log")),
            child: None,
        };
        keeper.spawn().await?;
        Ok(keeper)
    }

    async fn spawn(&mut self) -> Result<(), Failure> {
        let failed = |what: &str| Failure::io(format!("{what} a mount process"));
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(failed("write the log of"))?;
        let device = self.device.try_clone().map_err(failed("hand the device to"))?;
        let mut child = Command::new(&self.binary)
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::from(device))
            .stdout(Stdio::piped())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed("start"))?;
        let output = child.stdout.take();
        self.child = Some(child);
        let is_ready = async {
            let mut lines = BufReader::new(output?).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line == "mount: ready" {
                    return Some(());
                }
            }
            None
        };
        match tokio::time::timeout(PATIENCE, is_ready).await {
            Ok(Some(())) => Ok(()),
            _ => Err(Failure::Wrong(format!(
                "a mount process does not become ready; its log is {}:\n{}",
                self.log.display(),
                std::fs::read_to_string(&self.log).unwrap_or_default()
            ))),
        }
    }

    /// Ends the process, suddenly or not, and starts the next one. How long it took until the mount answered again.
    pub async fn replace(&mut self, asked: bool) -> Result<Duration, Failure> {
        let Some(mut child) = self.child.take() else {
            return Err(Failure::Wrong("there is no mount process".to_owned()));
        };
        let failed = || Failure::io("end a mount process");
        if let Some(status) = child.try_wait().map_err(failed())? {
            return Err(Failure::Wrong(format!(
                "the mount process ended by itself: {status}"
            )));
        }
        let mut began = Instant::now();
        if asked {
            if let Some(process) = child
                .id()
                .and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()))
            {
                rustix::process::kill_process(process, rustix::process::Signal::TERM)
                    .map_err(|error| failed()(error.into()))?;
            }
            tokio::time::timeout(PATIENCE, child.wait())
                .await
                .map_err(|_| Failure::Wrong("a mount process does not end when it is asked to".to_owned()))?
                .map_err(failed())?;
            // Until here it served.
            began = Instant::now();
        } else {
            child.kill().await.map_err(failed())?;
        }
        self.spawn().await?;
        let mount_point = self.mount_point.clone();
        // The kernel never answers this for the process, and the process asks the service.
        let asked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&mount_point));
        match tokio::time::timeout(PATIENCE, asked).await {
            Ok(Ok(Ok(_))) => Ok(began.elapsed()),
            Ok(Ok(Err(error))) => Err(Failure::io("ask the mount after its process was replaced")(
                error.into(),
            )),
            Ok(Err(error)) => Err(Failure::Wrong(error.to_string())),
            Err(_) => Err(Failure::Wrong(
                "the mount does not answer after its process was replaced".to_owned(),
            )),
        }
    }

    /// Unmounts; the process ends by itself.
    pub async fn end(mut self) -> Result<(), Failure> {
        rustix::mount::unmount(&self.mount_point, UnmountFlags::empty())
            .map_err(|error| Failure::io("unmount what nobody uses")(error.into()))?;
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let status = tokio::time::timeout(PATIENCE, child.wait()).await;
        match status {
            Ok(Ok(status)) if status.success() => Ok(()),
            other => Err(Failure::Wrong(format!(
                "the process of a mount that is gone does not end as it should: {other:?}"
            ))),
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let _ = &self.logbook;
        drop(self.child.take());
        if let Err(error) = mount_table::detach(&self.mount_point) {
            eprintln!("{} could not be detached: {error}", self.mount_point.display());
        }
    }
}
