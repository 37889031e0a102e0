//! The S3 server of each region: versitygw, in the region's network, with keys of its own and objects on disk.
//!
//! States: running and stopped. Stopping kills it, as a server that died; what it acknowledged is in its directory, and it
//! serves it again, at the same address with the same keys, when it is started. Pods of the region reach it directly, those
//! of the other one through the line between the regions.

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::address::{Region, S3_PORT};
use crate::failure::{Failure, make_directory, write_file};
use crate::hexadecimal;
use crate::network::namespace_file;
use crate::patience::{Look, wait_for};
use crate::place::Place;
use crate::process::{self, Process};

/// For the server to listen.
const PATIENCE: Duration = Duration::from_mins(1);

/// For a connection inside this machine.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);

/// A region's server.
#[derive(Clone, Debug)]
pub struct S3Server {
    region: Region,
    directory: PathBuf,
}

/// Keys of a server's owner.
#[derive(Clone)]
pub struct Keys {
    /// The public half.
    pub access_key: String,
    /// The secret half.
    pub secret_key: String,
}

impl S3Server {
    /// That of a region.
    pub fn of(place: &Place, region: Region) -> Self {
        Self {
            region,
            directory: place.s3(region),
        }
    }

    /// The bucket that is there from the beginning.
    pub fn bucket(&self) -> String {
        format!("twinshore-{}", self.region)
    }

    fn record(&self) -> PathBuf {
        self.directory.join("process")
    }

    fn keys_file(&self) -> PathBuf {
        self.directory.join("keys")
    }

    /// What it says.
    pub fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    /// Its keys.
    pub fn keys(&self) -> Result<Keys, Failure> {
        let path = self.keys_file();
        let text = fs::read_to_string(&path).map_err(Failure::file("read", &path))?;
        let mut lines = text.lines();
        match (lines.next(), lines.next()) {
            (Some(access_key), Some(secret_key)) => Ok(Keys {
                access_key: access_key.to_owned(),
                secret_key: secret_key.to_owned(),
            }),
            _ => Err(Failure::wrong(format!(
                "{} does not hold two keys",
                path.display()
            ))),
        }
    }

    fn ensure_keys(&self) -> Result<Keys, Failure> {
        let path = self.keys_file();
        if !path.exists() {
            let mut random = [0_u8; 24];
            File::open("/dev/urandom")
                .and_then(|mut source| source.read_exact(&mut random))
                .map_err(Failure::io("read random bytes"))?;
            let digits = hexadecimal::text(&random);
            let (public, secret) = digits.split_at(16);
            let partial = path.with_extension("part");
            write_file(&partial, format!("{}-{public}\n{secret}\n", self.region))?;
            fs::set_permissions(&partial, Permissions::from_mode(0o600))
                .and_then(|()| fs::rename(&partial, &path))
                .map_err(Failure::file("protect", &path))?;
        }
        self.keys()
    }

    /// The process, if it runs.
    pub fn process(&self) -> Result<Option<Process>, Failure> {
        Process::alive(&self.record())
    }

    /// Whether it accepts connections.
    pub fn listens(&self) -> bool {
        let address = SocketAddr::from((self.region.s3(), S3_PORT));
        TcpStream::connect_timeout(&address, CONNECT_PATIENCE).is_ok()
    }

    /// Starts it, unless it runs.
    pub fn start(&self, place: &Place) -> Result<(), Failure> {
        let keys = self.ensure_keys()?;
        if self.process()?.is_none() {
            let buckets = self.directory.join("buckets");
            // A bucket is a directory.
            make_directory(&buckets.join(self.bucket()))?;
            let network = namespace_file(&self.region.network_namespace());
            let mut command = Command::new("nsenter");
            command
                .arg(format!("--net={}", network.display()))
                .arg(place.programs()?.join("versitygw"))
                .args(["--port", &format!("{}:{S3_PORT}", self.region.s3())])
                .args(["--quiet", "--keep-alive", "posix"])
                .arg(buckets)
                .env("ROOT_ACCESS_KEY", &keys.access_key)
                .env("ROOT_SECRET_KEY", &keys.secret_key);
            process::start(&self.name(), &command, &self.log(), &self.record())?;
        }
        wait_for(&format!("{} to listen", self.name()), PATIENCE, || {
            Look::at(self.listens(), "it accepts no connection")
        })?;
        Ok(())
    }

    /// Kills it.
    pub fn stop(&self) -> Result<(), Failure> {
        match self.process()? {
            Some(process) => process.kill(&self.name()),
            None => Ok(()),
        }
    }

    fn name(&self) -> String {
        format!("the S3 server of {}", self.region)
    }
}
