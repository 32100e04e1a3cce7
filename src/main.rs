//! Parses, dispatches, returns an exit code: nothing else.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use ratelimiter_exporter::cli::{self, Stop, Task};
use ratelimiter_exporter::config::{Config, Judging, LogConfig, Values, check_variables};
use ratelimiter_exporter::evaluate::{self, Replay};
use ratelimiter_exporter::observe::{KEY, RESET_COUNTER};
use ratelimiter_exporter::subject::{ActionDefinition, Actor as _, Parameters};
use ratelimiter_exporter::{check, limiters, serve};
use tokio::signal::unix::{SignalKind, signal};

/// Something that another try may do, such as listening where another process still does.
const UNAVAILABLE: u8 = 1;

/// Something that stays wrong until somebody mends it, and for the commands: nothing can be said.
const MISTAKE: u8 = 2;

/// The answer to `--config.check`.
const VALID: &str = "the configuration is valid\n";

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
    if let Err(error) = check_variables(std::env::vars_os()) {
        return fail(&error.to_string());
    }
    if let Task::Evaluate(task) = &invocation.task {
        return replay(task, invocation.values);
    }
    if let Task::Limiters { name } = &invocation.task {
        return kinds(name.as_deref());
    }
    let values = invocation.values;
    let load = move || Config::load(values.clone());
    let serving = matches!(invocation.task, Task::Serve);
    // First of all: a reload that is asked for while the exporter starts must not end it instead.
    let hangup = match serving.then(|| signal(SignalKind::hangup())).transpose() {
        Ok(hangup) => hangup,
        Err(error) => return fail(&format!("cannot wait for signals: {error}")),
    };
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
    let mut guard = None;
    if config.check_only || serving {
        match serve::can_keep_state(&config).and_then(|()| serve::guard(&config)) {
            Ok(made) => guard = Some(made),
            Err(error) => return fail(&error.to_string()),
        }
    }
    if config.check_only {
        return print(VALID, 0);
    }
    // Log lines would run over the picture.
    let watched = matches!(&invocation.task, Task::Check(task) if task.is_watched());
    if !(watched && std::io::stderr().is_terminal()) {
        log_to_stderr(config.log);
    }
    // The one TLS implementation; it can only be installed once, which is here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match invocation.task {
        Task::Serve => {
            // Both are there for this task.
            let (Some(guard), Some(hangup)) = (guard, hangup) else {
                return ExitCode::SUCCESS;
            };
            match serve::serve(config, guard, Arc::new(load), hangup).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail_with(UNAVAILABLE, &format!("{error:#}")),
            }
        }
        // Dealt with above, without a limiter.
        Task::Evaluate(_) | Task::Limiters { .. } => ExitCode::SUCCESS,
        Task::Check(task) => match check::check(&task, &config).await {
            Ok(status) => ExitCode::from(status),
            Err(error) => fail(&format!("{error:#}")),
        },
        Task::Actions => {
            let actions = config.observe.actor().actions().into_iter();
            let actions: Vec<_> = actions.map(ActionDefinition::with_target).collect();
            match serde_json::to_string_pretty(&actions) {
                Ok(text) => print(&(text + "\n"), 0),
                Err(error) => fail(&error.to_string()),
            }
        }
        Task::ResetCounter { key } => {
            let parameters = Parameters::from_iter([(KEY.to_owned(), key.into())]);
            let actor = config.observe.actor();
            match actor.act(RESET_COUNTER, &parameters).await {
                Ok(()) => print("accepted\n", 0),
                Err(error) => fail(&error.to_string()),
            }
        }
    }
}

fn kinds(name: Option<&str>) -> ExitCode {
    match name {
        None => print(&limiters::list(), 0),
        Some(name) => match limiters::built_in(name) {
            Ok(file) => print(file, 0),
            Err(line) => fail(&line),
        },
    }
}

fn replay(task: &Replay, values: Values) -> ExitCode {
    let current = task.compare.as_ref().map(|file| {
        let values = values.clone().with_file("--compare", file);
        Judging::load(values)
    });
    let candidate = Judging::load(values);
    let (candidate, current) = match (candidate, current.transpose()) {
        (Ok(candidate), Ok(current)) => (candidate, current),
        (Err(error), _) | (_, Err(error)) => return fail(&error.to_string()),
    };
    if candidate.check_only {
        return print(VALID, 0);
    }
    log_to_stderr(candidate.log);
    match evaluate::evaluate(task, candidate, current) {
        Ok(true) => ExitCode::SUCCESS,
        // What was broken was told.
        Ok(false) => ExitCode::from(MISTAKE),
        Err(error) => fail(&format!("{error:#}")),
    }
}

/// Prints `text` and returns `status`. That nobody reads it (a closed pipe) changes neither.
fn print(text: &str, status: u8) -> ExitCode {
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(status)
}

fn fail(line: &str) -> ExitCode {
    fail_with(MISTAKE, line)
}

fn fail_with(status: u8, line: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "ratelimiter-exporter: {line}");
    ExitCode::from(status)
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
