//! Parses, dispatches, returns an exit status: nothing else.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Error, anyhow, bail};
use ratelimiter_exporter::cli::{self, LimiterTask, Stop, Task};
use ratelimiter_exporter::config::{Config, Judging, LogConfig, Values, check_variables};
use ratelimiter_exporter::evaluate::{self, Replay};
use ratelimiter_exporter::observe::{KEY, RESET_COUNTER};
use ratelimiter_exporter::subject::{ActionDefinition, Actor as _, Parameters};
use ratelimiter_exporter::{check, limiters, serve};
use tokio::signal::unix::{SignalKind, signal};

/// A second attempt may succeed: another process still listens on the address, for example.
const UNAVAILABLE: u8 = 1;

/// A second attempt does not help, or for `check`: something could not be evaluated.
const MISTAKE: u8 = 2;

/// The answer to `--config.check`.
const VALID: &str = "the configuration is valid\n";

fn main() -> ExitCode {
    // The only TLS implementation; it can be installed once.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(MISTAKE, &Error::new(error).context("cannot start threads")),
    };
    let status = match runtime.block_on(run()) {
        Ok(status) => ExitCode::from(status),
        Err(error) => fail(MISTAKE, &error),
    };
    // Threads that wait for a disk or a name server do not delay the end.
    runtime.shutdown_background();
    status
}

/// Runs the command line. Returns the exit status; an error is a [`MISTAKE`].
async fn run() -> anyhow::Result<u8> {
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(Stop::Info(text)) => return Ok(print(&text)),
        Err(Stop::Mistake(line)) => bail!(line),
    };
    check_variables(std::env::vars_os())?;
    let values = invocation.values;
    match invocation.task {
        Task::Serve => serve(values).await,
        Task::Evaluate(task) => replay(&task, values),
        Task::Limiters { name: None } => Ok(print(&limiters::list())),
        Task::Limiters { name: Some(name) } => {
            let file = limiters::built_in(&name)
                .map_err(|expected| anyhow!("limiters {name:?}: expected {expected}"))?;
            Ok(print(file))
        }
        Task::OfLimiter { target, task } => of_limiter(task, target, values).await,
    }
}

async fn serve(values: Values) -> anyhow::Result<u8> {
    // Before the configuration is read, so that a SIGHUP during the start does not end the exporter.
    let hangup = signal(SignalKind::hangup()).context("cannot wait for signals")?;
    let load = move || Config::load(values.clone());
    let config = load()?;
    serve::can_keep_state(&config)?;
    let guard = serve::guard(&config)?;
    if config.check_only {
        return Ok(print(VALID));
    }
    log_to_stderr(config.log);
    match serve::serve(config, guard, Arc::new(load), hangup).await {
        Ok(()) => Ok(0),
        Err(error) => {
            complain(&error);
            Ok(UNAVAILABLE)
        }
    }
}

/// Runs a subcommand that is about one limiter.
async fn of_limiter(
    task: LimiterTask,
    target: Option<String>,
    values: Values,
) -> anyhow::Result<u8> {
    let mut config = Config::load(values)?;
    if let Some(name) = target {
        config = config.select(&name).map_err(Error::msg)?;
    }
    if config.check_only {
        serve::can_keep_state(&config)?;
        serve::guard(&config)?;
        return Ok(print(VALID));
    }
    // On a terminal, log lines would overwrite the table of `--watch`.
    let watched = matches!(&task, LimiterTask::Check(task) if task.is_watched());
    if !(watched && std::io::stderr().is_terminal()) {
        log_to_stderr(config.log);
    }
    match task {
        LimiterTask::Check(task) => check::check(&task, &config).await,
        LimiterTask::CheckDescription { description } => {
            Ok(print(&check::limiter(&description, &config).await?))
        }
        LimiterTask::Actions => {
            let actions = config.observe.actor().actions().into_iter();
            let actions: Vec<_> = actions.map(ActionDefinition::with_target).collect();
            Ok(print(&(serde_json::to_string_pretty(&actions)? + "\n")))
        }
        LimiterTask::ResetCounter { key } => {
            let parameters = Parameters::from_iter([(KEY.to_owned(), key.into())]);
            let actor = config.observe.actor();
            actor.act(RESET_COUNTER, &parameters).await?;
            Ok(print("accepted\n"))
        }
    }
}

fn replay(task: &Replay, values: Values) -> anyhow::Result<u8> {
    let current = task
        .compare
        .as_ref()
        .map(|file| values.clone().with_file("--compare", file));
    let candidate = Judging::load(values)?;
    let current = current.map(Judging::load).transpose()?;
    if candidate.check_only {
        return Ok(print(VALID));
    }
    log_to_stderr(candidate.log);
    // A broken line was reported when it was read.
    let whole = evaluate::evaluate(task, candidate, current)?;
    Ok(if whole { 0 } else { MISTAKE })
}

/// Prints `text` and returns exit status 0, even if the reader has closed the pipe.
fn print(text: &str) -> u8 {
    let _ = std::io::stdout().write_all(text.as_bytes());
    0
}

fn fail(status: u8, error: &Error) -> ExitCode {
    complain(error);
    ExitCode::from(status)
}

fn complain(error: &Error) {
    let _ = writeln!(std::io::stderr(), "ratelimiter-exporter: {error:#}");
}

fn log_to_stderr(config: LogConfig) {
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::prelude::*;
    let level = LevelFilter::from_level(config.level);
    let ours = Targets::new()
        .with_default(LevelFilter::WARN.min(level))
        .with_target("ratelimiter_exporter", level);
    let lines = if config.json {
        let layer = tracing_subscriber::fmt::layer().json();
        layer.with_writer(std::io::stderr).boxed()
    } else {
        let layer = tracing_logfmt::builder().layer();
        layer.with_writer(std::io::stderr).boxed()
    };
    tracing_subscriber::registry().with(ours).with(lines).init();
}
