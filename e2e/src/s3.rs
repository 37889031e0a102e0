//! The S3 server of each region: versitygw, in the region's network, with keys of its own and objects on disk.
//!
//! States: running and stopped. Stopping kills it, as a server that died; what it acknowledged is in its directory, and it
//! serves it again, at the same address with the same keys, when it is started. Pods of the region reach it directly, those
//! of the other one through the line between the regions.
//!
//! Beside its owner it has users that are made and removed while it runs, as a store has them whose keys are rotated.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::address::{Region, S3_PORT};
use crate::command::Run;
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

/// Keys of a server's owner, or of a user.
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
            let keys = new_keys(self.region.name())?;
            let partial = path.with_extension("part");
            write_file(&partial, format!("{}\n{}\n", keys.access_key, keys.secret_key))?;
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
            self.make_bucket(&self.bucket())?;
            let users = self.directory.join("users");
            make_directory(&users)?;
            let network = namespace_file(&self.region.network_namespace());
            let mut command = Command::new("nsenter");
            command
                .arg(format!("--net={}", network.display()))
                .arg(place.programs()?.join("versitygw"))
                .args(["--port", &format!("{}:{S3_PORT}", self.region.s3())])
                .args(["--quiet", "--keep-alive", "--iam-dir"])
                .arg(users)
                .arg("posix")
                .arg(self.buckets())
                .env("ROOT_ACCESS_KEY", &keys.access_key)
                .env("ROOT_SECRET_KEY", &keys.secret_key);
            process::start(&self.name(), &command, &self.log(), &self.record())?;
        }
        wait_for(&format!("{} to listen", self.name()), PATIENCE, || {
            Look::at(self.listens(), "it accepts no connection")
        })?;
        Ok(())
    }

    fn buckets(&self) -> PathBuf {
        self.directory.join("buckets")
    }

    /// Makes a bucket, which is a directory, unless it is there.
    pub fn make_bucket(&self, name: &str) -> Result<(), Failure> {
        make_directory(&self.buckets().join(name))
    }

    /// Removes a bucket with everything in it.
    pub fn remove_bucket(&self, name: &str) -> Result<(), Failure> {
        let path = self.buckets().join(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Failure::file("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Makes a user who may do everything with every bucket.
    pub fn make_user(&self, place: &Place, name: &str) -> Result<Keys, Failure> {
        let keys = new_keys(name)?;
        self.administer(
            place,
            &[
                "create-user",
                "--access",
                &keys.access_key,
                "--secret",
                &keys.secret_key,
                "--role",
                "admin",
            ],
        )?;
        Ok(keys)
    }

    /// Removes a user: requests that are signed with its keys are refused from now on.
    pub fn remove_user(&self, place: &Place, user: &Keys) -> Result<(), Failure> {
        self.administer(place, &["delete-user", "--access", &user.access_key])
    }

    fn administer(&self, place: &Place, arguments: &[&str]) -> Result<(), Failure> {
        let keys = self.keys()?;
        let all = ["admin"].iter().chain(arguments);
        Ok(Run::new(place.programs()?.join("versitygw"), all)
            .environment("ADMIN_ACCESS_KEY", &keys.access_key)
            .environment("ADMIN_SECRET_KEY", &keys.secret_key)
            .environment("ADMIN_ENDPOINT_URL", self.region.s3_endpoint())
            .done()?)
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

/// Keys that nobody has, whose public half begins with a name.
fn new_keys(name: &str) -> Result<Keys, Failure> {
    let mut random = [0_u8; 24];
    File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut random))
        .map_err(Failure::io("read random bytes"))?;
    let digits = hexadecimal::text(&random);
    let (public, secret) = digits.split_at(16);
    Ok(Keys {
        access_key: format!("{name}-{public}"),
        secret_key: secret.to_owned(),
    })
}
