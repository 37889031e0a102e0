//! `/healthz` and `/metrics`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::engine::{Engine, Report};
use super::metrics::Metrics;

/// An engine that cannot be looked at for so long is not healthy.
const REPORT_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Shared {
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
}

/// Serves until `stopped`.
pub(super) async fn serve(
    listener: TcpListener,
    engine: Arc<Engine>,
    metrics: Arc<Metrics>,
    mut stopped: watch::Receiver<bool>,
) {
    let router = Router::new()
        .route("/healthz", get(health))
        .route("/metrics", get(scrape))
        .with_state(Shared { engine, metrics });
    let stop = async move {
        let _ = stopped.wait_for(|stopped| *stopped).await;
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop).await {
        tracing::error!(%error, "the HTTP server failed");
    }
}

/// Looks at the engine, which can be looked at only if it is alive: on a thread of its own, as it may hang.
async fn report(engine: &Arc<Engine>) -> Option<Report> {
    let engine = Arc::clone(engine);
    let look = tokio::task::spawn_blocking(move || engine.report());
    tokio::time::timeout(REPORT_DEADLINE, look).await.ok()?.ok()
}

async fn health(State(shared): State<Shared>) -> Response {
    match report(&shared.engine).await {
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
    let Some(report) = report(&shared.engine).await else {
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
