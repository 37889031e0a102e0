//! Structured logs on standard error.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

/// Starts logging. `TWINSHORE_LOG` filters, for example `info,twinshore_metadata=debug`.
pub fn start(json: bool) {
    let filter = EnvFilter::try_from_env("TWINSHORE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    if json {
        builder.json().init();
    } else {
        builder
            .with_target(false)
            .with_ansi(io::stderr().is_terminal())
            .init();
    }
}
