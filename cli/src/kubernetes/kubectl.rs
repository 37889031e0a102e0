//! Runs `kubectl`, within a time and a size.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;

use crate::error::CommandError;

/// A cluster that does not answer is given up after this long.
const LIMIT: Duration = Duration::from_mins(1);

/// What `kubectl` itself gives the API server.
const REQUEST_TIMEOUT: &str = "--request-timeout=30s";

/// No answer is longer: a list of ten thousand large pods is half of it.
const ANSWER_BYTES_MAX: u64 = 256 << 20;

/// The program, with the flags that choose a cluster.
#[derive(Debug)]
pub struct Kubectl {
    context: Option<String>,
    kubeconfig: Option<PathBuf>,
}

impl fmt::Display for Kubectl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.context.as_deref().unwrap_or("current"))
    }
}

impl Kubectl {
    /// For one cluster.
    pub fn new(context: Option<String>, kubeconfig: Option<PathBuf>) -> Self {
        Self { context, kubeconfig }
    }

    /// What it answers. Arguments are never secret.
    pub async fn run(&self, arguments: &[&str]) -> Result<Vec<u8>, CommandError> {
        let shown = arguments.join(" ");
        let what = format!("ask cluster {self}: kubectl {shown}");
        let answered = tokio::time::timeout(LIMIT, self.output(arguments)).await;
        match answered {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(CommandError::failed(what)(error)),
            Err(_) => Err(CommandError::failed(what)(format!(
                "no answer within {} s",
                LIMIT.as_secs()
            ))),
        }
    }

    async fn output(&self, arguments: &[&str]) -> Result<Vec<u8>, KubectlError> {
        let mut command = Command::new("kubectl");
        command.arg(REQUEST_TIMEOUT);
        if let Some(context) = &self.context {
            command.arg("--context").arg(context);
        }
        if let Some(kubeconfig) = &self.kubeconfig {
            command.arg("--kubeconfig").arg(kubeconfig);
        }
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().map_err(KubectlError::Start)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // Both at once: who does not read one of them may stop the program that writes to it.
        let (answer, complaint) = tokio::try_join!(read(stdout), read(stderr)).map_err(KubectlError::Read)?;
        let status = child.wait().await.map_err(KubectlError::Read)?;
        if !status.success() {
            let complaint = String::from_utf8_lossy(&complaint).trim().to_owned();
            return Err(KubectlError::Refused(complaint));
        }
        if answer.len() as u64 > ANSWER_BYTES_MAX {
            return Err(KubectlError::TooLong);
        }
        Ok(answer)
    }
}

/// Reads all, but not more than tells that it is too much.
async fn read(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum KubectlError {
    #[error("cannot run kubectl, which this command needs on the PATH")]
    Start(#[source] std::io::Error),
    #[error("cannot read what kubectl says")]
    Read(#[source] std::io::Error),
    #[error("{0}")]
    Refused(String),
    #[error("the answer has more than {} MiB: choose a namespace or a volume", ANSWER_BYTES_MAX >> 20)]
    TooLong,
}
