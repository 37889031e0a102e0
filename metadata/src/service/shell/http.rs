//! `/healthz` and `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use super::executor::{Command, Report};
use super::metrics::Metrics;

/// An executor that does not answer for so long is not healthy.
const REPORT_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Shared {
    commands: mpsc::Sender<Command>,
    metrics: Arc<Metrics>,
}

/// Serves until `stopped`.
pub(super) async fn serve(
    listener: TcpListener,
    commands: mpsc::Sender<Command>,
    metrics: Arc<Metrics>,
    mut stopped: watch::Receiver<bool>,
) {
    let router = Router::new()
        .route("/healthz", get(health))
        .route("/metrics", get(scrape))
        .with_state(Shared { commands, metrics });
    let stop = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
        tracing::error!(%error, "the HTTP server failed");
    }
}

/// Asks the executor, which answers only if it is alive.
async fn report(commands: &mpsc::Sender<Command>) -> Option<Report> {
    let (sender, receiver) = oneshot::channel();
    let ask = async {
        commands.send(Command::Report(sender)).await.ok()?;
        receiver.await.ok()
    };
    tokio::time::timeout(REPORT_DEADLINE, ask).await.ok().flatten()
}

async fn health(State(shared): State<Shared>) -> Response {
    match report(&shared.commands).await {
        Some(report) if report.numbers.full => {
            // Reads go on, so a restart would help nobody.
            (StatusCode::OK, "degraded: the journal's disk is full\n").into_response()
        }
        Some(_) => (StatusCode::OK, "ok\n").into_response(),
        None => (
            StatusCode::SERVICE_UNAVAILABLE,
            "the metadata service does not answer\n",
        )
            .into_response(),
    }
}

async fn scrape(State(shared): State<Shared>) -> Response {
    let Some(report) = report(&shared.commands).await else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            "the metadata service does not answer\n",
        )
            .into_response();
    };
    match shared.metrics.render(&report) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
