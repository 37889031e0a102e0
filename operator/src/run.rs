//! The life of the operator's process.

use std::sync::Arc;

use futures::future::join_all;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::arguments::RunArguments;
use crate::console::{self, Console, History};
use crate::context::Settings;
use crate::controller::{self, Scope};
use crate::http;
use crate::leader::Election;
use crate::metrics::Metrics;

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no API server.
    #[error("cannot find the API server: run it in a pod, or set KUBECONFIG")]
    Client(#[source] kube::Error),
    /// Signals cannot be listened for.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    /// The port is taken.
    #[error("cannot serve metrics")]
    Http(#[source] std::io::Error),
    /// The port of the console is taken.
    #[error("cannot serve the console")]
    Console(#[source] std::io::Error),
    /// Another instance leads. The process has to start anew: what it knows may be old.
    #[error("this instance leads no longer")]
    LostLease,
}

/// Runs until it is asked to stop.
pub async fn run(arguments: RunArguments) -> Result<(), RunError> {
    // Taken apart completely: every flag is used.
    let RunArguments {
        region,
        image,
        image_pull_policy,
        watch_namespaces,
        node_account,
        controller_account,
        http,
        console: console_address,
        namespace,
        instance,
        no_leader_election,
        concurrency,
        log_json: _,
    } = arguments;
    let (config, client) = console::connect().await.map_err(RunError::Client)?;
    let metrics = Arc::new(Metrics::default());
    let settings = Settings {
        region: region.clone(),
        image,
        image_pull_policy,
        node_account,
        controller_account,
    };
    let me = instance.unwrap_or_else(|| format!("{}-{}", settings.region, uuid::Uuid::new_v4()));
    let mut election = Election::new(client.clone(), &namespace, me);
    let work = async {
        if !no_leader_election {
            election.win().await;
        }
        metrics.leads(true);
        tracing::info!(region = settings.region, "this instance looks after the volumes");
        let (stop, stopped) = watch::channel(false);
        let controllers = Scope::of(&watch_namespaces).into_iter().map(|scope| {
            controller::run(
                client.clone(),
                settings.clone(),
                scope,
                concurrency,
                Arc::clone(&metrics),
                stopped.clone(),
            )
        });
        let hold = async {
            if no_leader_election {
                std::future::pending::<()>().await;
            }
            election.hold().await;
        };
        let mut controllers = std::pin::pin!(join_all(controllers));
        tokio::select! {
            () = hold => return Err(RunError::LostLease),
            result = asked_to_stop() => result?,
            _ = &mut controllers => return Ok(()),
        }
        // What is under way is finished.
        stop.send_replace(true);
        controllers.await;
        Ok(())
    };
    let show = async {
        let Some(address) = console_address else {
            return std::future::pending().await;
        };
        let history = History::default();
        let console = Console::new(config.clone(), region.clone(), history.clone());
        let scopes = Scope::of(&watch_namespaces).into_iter();
        let follow = join_all(scopes.map(|scope| history.follow(client.clone(), scope)));
        tokio::select! {
            result = console::serve(address, console) => result.map_err(RunError::Console),
            _ = follow => Ok(()),
        }
    };
    let result = tokio::select! {
        result = work => result,
        result = show => result,
        result = http::serve(http, Arc::clone(&metrics)) => result.map_err(RunError::Http),
    };
    if result.is_ok() && !no_leader_election {
        election.release().await;
    }
    result
}

async fn asked_to_stop() -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
