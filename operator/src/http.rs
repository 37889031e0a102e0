//! `/metrics`, `/healthz` and `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use crate::metrics::Metrics;

/// Serves until it is dropped.
pub async fn serve(listen: SocketAddr, metrics: Arc<Metrics>) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        // An instance that waits for its turn is as ready as it can be.
        .route("/readyz", get(async || "ok\n"))
        .route("/metrics", get(scrape))
        .with_state(metrics);
    axum::serve(TcpListener::bind(listen).await?, router).await
}

async fn scrape(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.render() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// How long an operator may take to say that it is well.
const CHECK_DEADLINE: Duration = Duration::from_secs(10);
/// Its answer is two words.
const ANSWER_MAX_BYTES: u64 = 4096;

/// An operator is not well.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// It cannot be reached.
    #[error("cannot reach the operator at {address}")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// It takes too long.
    #[error("the operator at {address} does not answer within {CHECK_DEADLINE:?}")]
    Silent {
        /// Where.
        address: String,
    },
    /// It says something else.
    #[error("the operator at {address} answers: {answer}")]
    Unwell {
        /// Where.
        address: String,
        /// What.
        answer: String,
    },
}

/// Asks an operator whether it is well.
pub async fn check(address: &str) -> Result<(), CheckError> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.take(ANSWER_MAX_BYTES).read_to_string(&mut answer).await?;
        Ok::<String, std::io::Error>(answer)
    };
    let answer = timeout(CHECK_DEADLINE, ask)
        .await
        .map_err(|_| CheckError::Silent {
            address: address.to_owned(),
        })?
        .map_err(|source| CheckError::Unreachable {
            address: address.to_owned(),
            source,
        })?;
    let first = answer.lines().next().unwrap_or_default();
    if first.split(' ').nth(1) == Some("200") {
        return Ok(());
    }
    Err(CheckError::Unwell {
        address: address.to_owned(),
        answer: first.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[tokio::test]
    async fn an_operator_that_serves_is_well_and_nobody_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(matches!(
            check(&address.to_string()).await,
            Err(CheckError::Unreachable { .. })
        ));
        let server = tokio::spawn(serve(address, Arc::new(Metrics::default())));
        while check(&address.to_string()).await.is_err() {
            assert!(!server.is_finished(), "it does not serve");
            tokio::task::yield_now().await;
        }
        server.abort();
    }
}
