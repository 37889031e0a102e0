//! `/healthz` and `/readyz`.

use std::net::SocketAddr;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::identity::Readiness;

/// Serves until it is dropped.
pub async fn serve(listen: SocketAddr, readiness: Readiness) -> std::io::Result<()> {
    let ready = move || {
        let readiness = readiness.clone();
        async move {
            if readiness.get() {
                (StatusCode::OK, "ok\n")
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, "not yet\n")
            }
        }
    };
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready));
    axum::serve(TcpListener::bind(listen).await?, router).await
}
