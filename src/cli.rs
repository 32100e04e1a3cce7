//! What was typed: flags and subcommands. Values are not looked at here; `config` validates them.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::{SETTINGS, Setting, Values, env_name};

/// What is to be done.
#[derive(Debug)]
pub enum Task {
    /// Serve.
    Serve,
    /// One collection, shown.
    Check {
        /// JSON instead of a table.
        json: bool,
        /// How long to watch the nodes' latency histograms.
        watch: Duration,
    },
    /// The action definitions.
    Actions,
    /// Reset a counter.
    ResetCounter {
        /// The key.
        key: String,
    },
}

/// A parsed command line.
#[derive(Debug)]
pub struct Invocation {
    /// What is to be done.
    pub task: Task,
    /// The settings that were given as flags.
    pub values: Values,
    /// The target that is meant, instead of the default one.
    pub target: Option<String>,
}

/// What to print instead of doing anything, and where.
#[derive(Debug)]
pub enum Stop {
    /// Help or version: standard output, exit status 0.
    Info(String),
    /// A mistake, in one line: standard error, exit status 2.
    Mistake(String),
}

/// Parses `arguments`, the program's name first.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, Stop> {
    let mut command = command();
    let matches = command
        .try_get_matches_from_mut(arguments)
        .map_err(|error| {
            use clap::error::ErrorKind;
            let text = error.to_string();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Info(text),
                _ => Stop::Mistake(one_line(&text)),
            }
        })?;
    let mut values = Values::default();
    for setting in SETTINGS {
        // Settings are global flags, so the innermost command has them.
        let innermost = matches.subcommand().map_or(&matches, |(_, inner)| inner);
        if let Some(given) = innermost.get_many::<String>(setting.flag) {
            let given = given.cloned().collect();
            values.add(setting, format!("--{}", setting.flag), given);
        }
    }
    let task = task(&matches)?;
    let target = matches.subcommand().and_then(|(_, inner)| {
        let given = inner.try_get_one::<String>("target").ok();
        given.flatten().cloned()
    });
    Ok(Invocation {
        task,
        values,
        target,
    })
}

fn task(matches: &ArgMatches) -> Result<Task, Stop> {
    Ok(match matches.subcommand() {
        Some(("check", matches)) => Task::Check {
            json: matches
                .get_one::<String>("output")
                .is_some_and(|output| output == "json"),
            watch: matches
                .get_one::<String>("latency-sample")
                .map_or(Ok(Duration::ZERO), |text| watch(text))?,
        },
        Some(("actions", _)) => Task::Actions,
        Some(("reset-counter", matches)) => Task::ResetCounter {
            key: matches
                .get_one::<String>("KEY")
                .cloned()
                .unwrap_or_default(),
        },
        _ => Task::Serve,
    })
}

fn watch(text: &str) -> Result<Duration, Stop> {
    let parsed: Option<jiff::SignedDuration> = text.parse().ok();
    parsed
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| *duration <= Duration::from_secs(300))
        .ok_or_else(|| {
            Stop::Mistake(format!(
                "--latency-sample: invalid value {text:?}: expected a duration from 0s to 5m"
            ))
        })
}

/// The message without usage and hints, in one line.
fn one_line(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let message = text.split("\n\n").next().unwrap_or(text);
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn command() -> Command {
    Command::new("ratelimiter-exporter")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Prometheus exporter and invariant checker for a distributed, Redis-backed rate limiter")
        .after_help("Every flag has an environment variable: RATELIMITER_EXPORTER_ and its name in capitals, with _ for . and -")
        .args(SETTINGS.iter().map(flag))
        .subcommand(
            Command::new("check")
                .about("One collection as a table; exit status 0 all hold, 1 a violation, 2 something could not be evaluated")
                .arg(Arg::new("output").long("output").value_name("table|json").value_parser(["table", "json"]).default_value("table").help("How to show it"))
                .arg(target())
                .arg(Arg::new("latency-sample").long("latency-sample").value_name("DURATION").default_value("2s").help("How long to watch the nodes' latency histograms; 0s leaves high_latency unknown")),
        )
        .subcommand(Command::new("actions").about("The action definitions as JSON"))
        .subcommand(
            Command::new("reset-counter")
                .about("Reset the counter of KEY, fire and forget; exit status 0 accepted, 2 not")
                .arg(target())
                .arg(Arg::new("KEY").required(true).help("The rate limit key, as the limiter's callers name it")),
        )
}

fn target() -> Arg {
    Arg::new("target")
        .long("target")
        .value_name("NAME")
        .help("The limiter of this name under targets in the file, instead of the default one")
}

fn flag(setting: &'static Setting) -> Arg {
    let default = match setting.default {
        Some(default) => format!(" [default: {default}]"),
        None => String::new(),
    };
    let arg = Arg::new(setting.flag)
        .long(setting.flag)
        .global(true)
        .action(ArgAction::Append)
        .help(format!(
            "{}{default} [env: {}]",
            setting.help,
            env_name(setting.flag)
        ));
    if setting.value.is_empty() {
        arg.num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .value_name("BOOL")
    } else {
        arg.value_name(setting.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Invocation, Stop> {
        let program = std::iter::once("ratelimiter-exporter");
        parse(program.chain(words.iter().copied()).map(OsString::from))
    }

    #[test]
    fn the_command_is_well_formed() {
        command().debug_assert();
    }

    #[test]
    fn flags_stand_before_and_after_the_subcommand() {
        for words in [
            ["--redis.timeout=2s", "check"],
            ["check", "--redis.timeout=2s"],
        ] {
            let invocation = parse_words(&words).unwrap();
            assert!(matches!(invocation.task, Task::Check { json: false, .. }));
            assert_eq!(
                invocation.values.get("redis.timeout").unwrap().values,
                ["2s"]
            );
        }
    }

    #[test]
    fn switches_need_no_value() {
        for (word, expected) in [
            ("--web.enable-admin-api", "true"),
            ("--web.enable-admin-api=false", "false"),
        ] {
            let invocation = parse_words(&[word]).unwrap();
            let typed = invocation.values.get("web.enable-admin-api").unwrap();
            assert_eq!(typed.values, [expected]);
        }
    }

    #[test]
    fn mistakes_are_one_line() {
        for words in [
            &["--redis.tiemout", "1s"][..],
            &["--redis.timeout"],
            &["chekc"],
            &["check", "--output", "xml"],
            &["reset-counter"],
            &["check", "--latency-sample", "soon"],
        ] {
            match parse_words(words) {
                Err(Stop::Mistake(line)) => {
                    assert_eq!(line.lines().count(), 1, "{line}");
                    assert!(
                        line.contains(words[0].trim_end_matches('k'))
                            || words.len() > 1
                            || line.contains("KEY"),
                        "{line}"
                    );
                }
                other => panic!("{words:?}: {other:?}"),
            }
        }
    }
}
