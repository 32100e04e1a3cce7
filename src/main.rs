//! Parses, dispatches, returns an exit code: nothing else.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;

use ratelimiter_exporter::cli::{self, Stop, Task};
use ratelimiter_exporter::config::{Config, LogConfig};
use ratelimiter_exporter::subject::ACTIONS;
use ratelimiter_exporter::{check, observe, serve};

const MISTAKE: u8 = 2;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start threads: {error}")),
    };
    let status = runtime.block_on(run());
    // Not waiting for threads that wait for a disk or a name server: the end must come when it was asked for.
    runtime.shutdown_background();
    status
}

async fn run() -> ExitCode {
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(Stop::Info(text)) => return print(&text, 0),
        Err(Stop::Mistake(line)) => return fail(&line),
    };
    let values = invocation.values;
    let load = move || Config::load(values.clone(), |name| std::env::var(name).ok());
    let config = match load() {
        Ok(config) => config,
        Err(error) => return fail(&error.to_string()),
    };
    let config = match invocation.target {
        None => config,
        Some(name) => match config.select(&name) {
            Ok(config) => config,
            Err(line) => return fail(&line),
        },
    };
    if config.check_only {
        return print("the configuration is valid\n", 0);
    }
    log_to_stderr(config.log);
    // The one TLS implementation; it can only be installed once, which is here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match invocation.task {
        Task::Serve => match serve::serve(config, Arc::new(load)).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&format!("{error:#}")),
        },
        Task::Check { json, watch } => match serve::check(&config, watch).await {
            Ok(snapshot) => {
                let text = if json {
                    check::json(&snapshot).map(|text| text + "\n")
                } else {
                    Ok(check::table(&snapshot))
                };
                match text {
                    Ok(text) => print(&text, check::Verdict::of(&snapshot).exit_status()),
                    Err(error) => fail(&error.to_string()),
                }
            }
            Err(error) => fail(&format!("{error:#}")),
        },
        Task::Actions => match serde_json::to_string_pretty(&*ACTIONS) {
            Ok(text) => print(&(text + "\n"), 0),
            Err(error) => fail(&error.to_string()),
        },
        Task::ResetCounter { key } => {
            let (urls, timeout) = (
                &config.observe.ratelimiter_urls,
                config.observe.ratelimiter_timeout,
            );
            match observe::reset_counter(urls, timeout, &key).await {
                Ok(()) => print("accepted\n", 0),
                Err(error) => fail(&error.to_string()),
            }
        }
    }
}

/// Prints `text` and returns `status`. That nobody reads it (a closed pipe) changes neither.
fn print(text: &str, status: u8) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(status)
}

fn fail(line: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "ratelimiter-exporter: {line}");
    ExitCode::from(MISTAKE)
}

fn log_to_stderr(config: LogConfig) {
    use tracing_subscriber::filter::LevelFilter;
    use tracing_subscriber::prelude::*;
    let level = LevelFilter::from_level(config.level);
    let ours = tracing_subscriber::filter::Targets::new()
        .with_default(LevelFilter::WARN.min(level))
        .with_target("ratelimiter_exporter", level);
    let registry = tracing_subscriber::registry().with(ours);
    if config.json {
        registry
            .with(
                tracing_subscriber::fmt::layer()
                    .json()
                    .with_writer(std::io::stderr),
            )
            .init();
    } else {
        registry
            .with(
                tracing_logfmt::builder()
                    .layer()
                    .with_writer(std::io::stderr),
            )
            .init();
    }
}
