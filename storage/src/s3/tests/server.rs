//! An S3 server in the test's process, with a script of faults in front of it.

use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use s3s::Body;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use tokio::net::TcpListener;

pub(super) const ACCESS_KEY: &str = "TESTACCESS";
pub(super) const SECRET_KEY: &str = "test-secret";

/// What happens to a request before the server sees it.
#[derive(Clone, Debug)]
pub(super) enum Script {
    /// The connection is closed without an answer.
    Close,
    /// It is answered with a status, headers and a body.
    Answer(u16, Vec<(&'static str, &'static str)>, &'static str),
    /// It is carried out, and then the connection is closed.
    LoseReply,
}

#[derive(Default)]
pub(super) struct Observed {
    /// What happens to the next requests; when it is empty, they go to the server.
    pub(super) script: Vec<Script>,
    /// Method, path and query, and headers of each request.
    pub(super) requests: Vec<(String, String, hyper::HeaderMap)>,
}

pub(super) struct Server {
    pub(super) address: String,
    pub(super) observed: Arc<Mutex<Observed>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves the directory; its subdirectories are the buckets.
pub(super) async fn serve(directory: &Path) -> Server {
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(directory).unwrap());
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    let service = builder.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let observed = Arc::new(Mutex::new(Observed::default()));
    let seen = Arc::clone(&observed);
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let (service, seen) = (service.clone(), Arc::clone(&seen));
            let handler = service_fn(move |request: Request<Incoming>| {
                let (service, seen) = (service.clone(), Arc::clone(&seen));
                async move {
                    let scripted = {
                        let mut seen = seen.lock().unwrap();
                        let uri = request.uri().to_string();
                        seen.requests
                            .push((request.method().to_string(), uri, request.headers().clone()));
                        if seen.script.is_empty() {
                            None
                        } else {
                            Some(seen.script.remove(0))
                        }
                    };
                    let lost = match scripted {
                        Some(Script::Close) => return Err("closed".to_owned()),
                        Some(Script::Answer(status, headers, body)) => {
                            let mut answer = Response::new(Body::from(body.to_owned()));
                            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
                            for (name, value) in headers {
                                answer.headers_mut().insert(name, value.parse().unwrap());
                            }
                            return Ok(answer);
                        }
                        Some(Script::LoseReply) => true,
                        None => false,
                    };
                    let answer = service
                        .call(request.map(Body::from))
                        .await
                        .map_err(|error| format!("{error:?}"))?;
                    if lost {
                        Err("the reply is lost".to_owned())
                    } else {
                        Ok(answer)
                    }
                }
            });
            connections.spawn(async move {
                // Errors are the script's.
                drop(
                    http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), handler)
                        .await,
                );
                Ok::<(), Infallible>(())
            });
        }
    });
    Server {
        address,
        observed,
        task,
    }
}
