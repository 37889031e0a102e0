//! The web console: pages in `console/`, and the few questions that they ask.
//!
//! # Who may do what
//!
//! The console has no rights of its own. A person signs in with a token of the cluster; every question goes to the API server with that
//! token, so a person sees and changes what the token may. There are no cookies and no sessions: another page in the same browser has nothing
//! to ride on. What is not asked of the API server (how lag developed) is told only to who may read the volume.
//!
//! # Flow
//!
//! `GET /` and the files beside it; `GET api/about`, the region of this cluster, to anybody; with a token `GET api/self`, `api/volumes`,
//! `api/volumes/NAMESPACE/NAME`, `.../history`, and `PATCH api/volumes/NAMESPACE/NAME` with a [`Change`].
//!
//! # Limits
//!
//! A body has at most [`BODY_BYTES_MAX`], at most [`REQUESTS_MAX`] questions are under way, each for at most [`DEADLINE`]; beyond, they are
//! refused. By default it listens on the pod's own address only: whoever reaches it was let in by `kubectl port-forward`.

mod assets;
mod change;
mod history;
mod user;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use change::Change;
pub use history::History;
pub use user::{Refusal, User};

/// The largest body.
const BODY_BYTES_MAX: usize = 64 << 10;
/// Questions under way.
const REQUESTS_MAX: usize = 64;
/// How long a question may take: the pages give up a little later.
const DEADLINE: Duration = Duration::from_secs(25);

/// The pages load nothing from elsewhere and are shown in no other page.
const SECURITY_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'",
);

/// What the console is made of.
pub struct Console {
    /// The API server, without anybody's credentials.
    anonymous: Config,
    region: String,
    history: History,
    permits: Semaphore,
}

impl Console {
    /// A console of this cluster. `config` is how the operator reaches the API server; its credentials are not used.
    pub fn new(config: Config, region: String, history: History) -> Self {
        Self {
            anonymous: user::anonymous(config),
            region,
            history,
            permits: Semaphore::new(REQUESTS_MAX),
        }
    }

    fn user(&self, request: &axum::http::HeaderMap) -> Result<User, Refusal> {
        User::of(&self.anonymous, request)
    }
}

/// Serves the console until it is dropped.
pub async fn serve(listen: SocketAddr, console: Console) -> std::io::Result<()> {
    axum::serve(TcpListener::bind(listen).await?, router(console)).await
}

/// All paths.
pub fn router(console: Console) -> Router {
    let console = Arc::new(console);
    Router::new()
        .route("/api/about", get(about))
        .route("/api/self", get(who))
        .route("/api/volumes", get(volumes))
        .route("/api/volumes/{namespace}/{name}", get(volume).patch(change))
        .route("/api/volumes/{namespace}/{name}/history", get(history))
        .fallback(assets::serve)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(from_fn_with_state(Arc::clone(&console), within_limits))
        .layer(from_fn(with_headers))
        .with_state(console)
}

async fn within_limits(State(console): State<Arc<Console>>, request: Request, next: Next) -> Response {
    let Ok(_permit) = console.permits.try_acquire() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many questions at once").into_response();
    };
    timeout(DEADLINE, next.run(request)).await.unwrap_or_else(|_| {
        (
            StatusCode::GATEWAY_TIMEOUT,
            "the API server does not answer in time",
        )
            .into_response()
    })
}

async fn with_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, SECURITY_POLICY);
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn about(State(console): State<Arc<Console>>) -> Json<Value> {
    Json(json!({"region": console.region}))
}

async fn who(
    State(console): State<Arc<Console>>,
    headers: axum::http::HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let name = console.user(&headers)?.name().await?;
    Ok(Json(json!({"name": name})))
}

async fn volumes(
    State(console): State<Arc<Console>>,
    headers: axum::http::HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let namespaces = console.history.namespaces();
    let items = console.user(&headers)?.volumes(&namespaces).await?;
    Ok(Json(json!({"items": items})))
}

async fn volume(
    State(console): State<Arc<Console>>,
    Path((namespace, name)): Path<(String, String)>,
    headers: axum::http::HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let volume = console.user(&headers)?.volume(&namespace, &name).await?;
    Ok(Json(json!(volume)))
}

async fn change(
    State(console): State<Arc<Console>>,
    Path((namespace, name)): Path<(String, String)>,
    headers: axum::http::HeaderMap,
    Json(change): Json<Change>,
) -> Result<Json<Value>, Refusal> {
    let volume = console.user(&headers)?.change(&namespace, &name, &change).await?;
    Ok(Json(json!(volume)))
}

async fn history(
    State(console): State<Arc<Console>>,
    Path((namespace, name)): Path<(String, String)>,
    headers: axum::http::HeaderMap,
) -> Result<Json<Value>, Refusal> {
    // Whoever may read the volume may know how it was.
    console.user(&headers)?.volume(&namespace, &name).await?;
    Ok(Json(json!(console.history.of(&(namespace, name)))))
}

/// The configuration and client of the process.
pub async fn connect() -> Result<(Config, Client), kube::Error> {
    let config = Config::infer().await.map_err(kube::Error::InferConfig)?;
    let client = Client::try_from(config.clone())?;
    Ok((config, client))
}
