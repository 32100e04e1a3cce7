//! The command line: flags, with their variables, and subcommands. `config` validates the values of settings.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::check::{Check, Destination, Output, Schedule};
use crate::config::{SETTINGS, Setting, Values, env_name, find, may_repeat, parse_duration};
use crate::evaluate::{Form, Replay};
use crate::text::{joined, without_login};

/// The longest time for which the latency histograms are watched.
const MOST_SAMPLE: Duration = Duration::from_secs(5 * 60);

/// The default of `--every` with `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(5);

const WATCH_ALONE: &str =
    "--watch works with --every and --for, and with no output except the table";
const ONLY_RECORDED: &str = "--output-file and --gzip need --output jsonl; --every and --for need --output jsonl or --watch";
const NOT_EXPLAINED: &str = "--explain needs --output table or json";

/// More frequent collections would keep the limiter busy.
const LEAST_PACE: Duration = Duration::from_millis(100);

/// Collections that are further apart have little in common: latencies cover a minute.
const MOST_PACE: Duration = Duration::from_secs(60 * 60);

/// What to do.
#[derive(Debug)]
pub enum Task {
    /// Serve.
    Serve,
    /// Replay a recording.
    Evaluate(Replay),
    /// List the kinds of limiters that are built in, or print the file of one.
    Limiters {
        /// The kind.
        name: Option<String>,
    },
    /// Do something with one target.
    OfTarget {
        /// Its name; `None` for the default one.
        target: Option<String>,
        /// What to do.
        task: TargetTask,
    },
}

/// What to do with one target.
#[derive(Debug)]
pub enum TargetTask {
    /// Collect and show.
    Check(Check),
    /// Show what a description finds in Redis.
    CheckDescription {
        /// The file of a description, or a kind that is built in.
        description: String,
    },
    /// Print the action definitions.
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
    /// What to do.
    pub task: Task,
    /// The settings that were given by flags or variables.
    pub values: Values,
}

/// What to print instead.
#[derive(Debug)]
pub enum Stop {
    /// Help or version: standard output, exit status 0.
    Info(String),
    /// A mistake, in one line: standard error, exit status 2.
    Mistake(String),
}

fn mistake<T>(line: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Mistake(line.into()))
}

/// Parses `arguments`, the program's name first.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Invocation, Stop> {
    let arguments = with_negative_values(arguments);
    given_once(&arguments)?;
    let matches = command().try_get_matches_from(arguments).map_err(|error| {
        use clap::error::ErrorKind;
        let text = error.to_string();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Info(text),
            _ => Stop::Mistake(without_login(&message(&text))),
        }
    })?;
    // Settings are global flags, so the innermost command has them.
    let innermost = matches.subcommand().map_or(&matches, |(_, inner)| inner);
    let mut values = Values::default();
    for setting in SETTINGS {
        let flag = setting.flag;
        if let Some(given) = innermost.get_many::<String>(flag) {
            let origin = match innermost.value_source(flag) {
                Some(ValueSource::EnvVariable) => env_name(flag),
                _ => format!("--{flag}"),
            };
            values.add(setting, origin, given.cloned().collect());
        }
    }
    let task = task(&matches)?;
    Ok(Invocation { task, values })
}

/// Joins each flag with the negative number after it, which clap would take for another flag. So the value is refused by name.
fn with_negative_values(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let is_negative = |word: &OsString| {
        let word = word.as_encoded_bytes().strip_prefix(b"-");
        word.is_some_and(|word| {
            word.first()
                .is_some_and(|c| c.is_ascii_digit() || *c == b'.')
        })
    };
    let is_flag = |word: &OsString| {
        let word = word.as_encoded_bytes();
        word.len() > 2 && word.starts_with(b"--") && !word.contains(&b'=')
    };
    let mut joined: Vec<OsString> = Vec::new();
    for word in arguments {
        let is_after_all = joined.iter().any(|it| it == "--");
        match joined.last_mut() {
            Some(flag) if !is_after_all && is_flag(flag) && is_negative(&word) => {
                flag.push("=");
                flag.push(word);
            }
            _ => joined.push(word),
        }
    }
    joined
}

/// Refuses a setting that is given twice, also before and after the subcommand: one of the two would be ignored.
fn given_once(arguments: &[OsString]) -> Result<(), Stop> {
    let words = arguments.iter().take_while(|word| *word != "--");
    let names = words.filter_map(|word| word.to_str()?.strip_prefix("--")?.split('=').next());
    let mut seen = BTreeSet::new();
    for name in names.filter(|name| find(name).is_some() && !may_repeat(name)) {
        if !seen.insert(name) {
            return mistake(format!("--{name}: given twice; expected once"));
        }
    }
    Ok(())
}

fn task(matches: &ArgMatches) -> Result<Task, Stop> {
    let Some((subcommand, matches)) = matches.subcommand() else {
        return Ok(Task::Serve);
    };
    let given = |name: &str| text(matches, name);
    let task = match subcommand {
        "evaluate" => return Ok(Task::Evaluate(replay(matches)?)),
        "check" => TargetTask::Check(check(matches)?),
        "limiters" => match given("check") {
            Some(description) => TargetTask::CheckDescription { description },
            None => {
                return Ok(Task::Limiters {
                    name: given("NAME"),
                });
            }
        },
        "reset-counter" => TargetTask::ResetCounter {
            key: given("KEY").unwrap_or_default(),
        },
        _ => TargetTask::Actions,
    };
    let target = given("target");
    Ok(Task::OfTarget { target, task })
}

/// The value of an argument, if the subcommand has such an argument and it was given.
fn text(matches: &ArgMatches, name: &str) -> Option<String> {
    matches.try_get_one(name).ok().flatten().cloned()
}

fn replay(matches: &ArgMatches) -> Result<Replay, Stop> {
    let given = |name: &str| text(matches, name);
    let (compare, report) = (given("compare"), given("report").map(PathBuf::from));
    let sums_up = compare.is_some() || report.is_some();
    let form = match given("output").as_deref() {
        Some("jsonl") if sums_up => {
            return mistake("--compare and --report need --output table or json");
        }
        Some("json") => Form::Json,
        Some("table") => Form::Table,
        _ if sums_up => Form::Table,
        _ => Form::Lines,
    };
    Ok(Replay {
        file: given("FILE").unwrap_or_default(),
        keep_going: matches.get_flag("keep-going"),
        compare,
        form,
        report,
    })
}

fn check(matches: &ArgMatches) -> Result<Check, Stop> {
    let given = |name: &str| text(matches, name);
    let within = |flag, range| {
        given(flag)
            .map(|text| duration(flag, &text, range))
            .transpose()
    };
    let every = within("every", LEAST_PACE..=MOST_PACE)?;
    let length = within("for", LEAST_PACE..=Duration::MAX)?;
    let sample = within("latency-sample", Duration::ZERO..=MOST_SAMPLE)?;
    let watched = matches.get_flag("watch");
    let pace = every.or(watched.then_some(WATCH_EVERY));
    let pace = pace.map(|every| Schedule { every, length });
    let file = given("output-file").map(PathBuf::from);
    let packed = file.as_ref().and_then(|file| file.extension()) == Some("gz".as_ref());
    let gzip = packed || matches.get_flag("gzip");
    let into_file = file.is_some() || gzip;
    let output = match (given("output").as_deref(), given("explain"), pace) {
        (Some("jsonl"), None, _) if !watched => Output::Lines(pace, Destination { file, gzip }),
        (Some("table"), None, Some(pace)) if watched && !into_file => Output::Watch(pace),
        _ if watched => return mistake(WATCH_ALONE),
        _ if into_file || every.is_some() || length.is_some() => return mistake(ONLY_RECORDED),
        (Some("jsonl"), Some(_), _) => return mistake(NOT_EXPLAINED),
        (form, Some(subject), _) => Output::Explained {
            subject,
            json: form == Some("json"),
        },
        (Some("json"), None, _) => Output::Json,
        (_, None, _) => Output::Table,
    };
    if length.is_some() && pace.is_none() {
        return mistake("--for needs --every");
    }
    Ok(Check {
        output,
        sample: sample.unwrap_or_default(),
    })
}

fn duration(flag: &str, text: &str, range: RangeInclusive<Duration>) -> Result<Duration, Stop> {
    parse_duration(text)
        .filter(|duration| range.contains(duration))
        .ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            let most = match *most {
                Duration::MAX => " on".to_owned(),
                most => format!(" to {most:?}"),
            };
            let text = without_login(text);
            Stop::Mistake(format!(
                "--{flag}: invalid value {text:?}: expected a duration such as 1.5s or 2m, from {least:?}{most}"
            ))
        })
}

/// The message without usage and hints, in one line.
fn message(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let message = text.split("\n\n").next().unwrap_or(text);
    joined(message)
}

/// The command line, as it is parsed and as the reference in `docs/` shows it.
pub fn command() -> Command {
    Command::new("ratelimiter-exporter")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Prometheus exporter and invariant checker for Redis-backed rate limiters")
        .after_help("Every flag has an environment variable: RATELIMITER_EXPORTER_ and its name in capitals, with _ for . and -")
        .args(SETTINGS.iter().map(flag))
        .subcommand(
            Command::new("check")
                .about("One collection as a table; exit status 0 all hold, 1 a violation, 2 something could not be evaluated")
                .arg(Arg::new("output").long("output").value_name("table|json|jsonl").value_parser(["table", "json", "jsonl"]).default_value("table").help("Output format; jsonl is a line of a recording, which evaluate replays"))
                .arg(Arg::new("explain").long("explain").value_name("SUBJECT").help("Explain why a node, redis or a key is reported, or is not"))
                .arg(Arg::new("watch").long("watch").action(ArgAction::SetTrue).help("Repeat the table in place, until SIGINT or SIGTERM"))
                .arg(Arg::new("every").long("every").value_name("DURATION").help("Time from one collection to the next; with --watch, or with --output jsonl until SIGINT or SIGTERM"))
                .arg(Arg::new("for").long("for").value_name("DURATION").help("End after this time"))
                .arg(Arg::new("output-file").long("output-file").value_name("FILE").help("Append the recording to this file instead of writing to standard output; .gz at its end means --gzip"))
                .arg(Arg::new("gzip").long("gzip").action(ArgAction::SetTrue).help("Compress the recording as gzip does"))
                .arg(target())
                .arg(Arg::new("latency-sample").long("latency-sample").value_name("DURATION").default_value("2s").help("How long to watch the nodes' latency histograms; with 0s, high_latency is unknown")),
        )
        .subcommand(
            Command::new("evaluate")
                .about("Replay recorded observations, one JSON object a line, and print what would have been reported at each")
                .arg(Arg::new("FILE").required(true).help("The recording, also compressed by gzip; - for standard input"))
                .arg(Arg::new("output").long("output").value_name("jsonl|table|json").value_parser(["jsonl", "table", "json"]).help("A line for each observation (jsonl), or the totals; the default is a table with --compare or --report, else jsonl"))
                .arg(Arg::new("compare").long("compare").value_name("FILE").help("Compare what --config.file would have reported with this configuration"))
                .arg(Arg::new("report").long("report").value_name("FILE.html").help("Write a page with figures and time lines"))
                .arg(Arg::new("keep-going").long("keep-going").action(ArgAction::SetTrue).help("Skip and count lines that are not observations; the exit status is still 2")),
        )
        .subcommand(Command::new("actions").about("The action definitions as JSON"))
        .subcommand(
            Command::new("limiters")
                .about("The kinds of limiters that are built in, or one of them as a file, to copy and change")
                .arg(Arg::new("NAME").help("The kind whose file to print"))
                .arg(Arg::new("check").long("check").value_name("FILE|NAME").conflicts_with("NAME").help("Print what the description in FILE, or a kind that is built in, finds in --redis.url"))
                .arg(target()),
        )
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
    let variable = env_name(setting.flag);
    let mut arg = Arg::new(setting.flag)
        .long(setting.flag)
        .global(true)
        .action(ArgAction::Append)
        .hide_env(true)
        .help(format!("{}{default} [env: {variable}]", setting.help));
    // An empty variable counts as not set. `check_variables` refuses one that is not UTF-8.
    if std::env::var(&variable).is_ok_and(|value| !value.is_empty()) {
        arg = arg.env(variable);
    }
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
    fn flags_are_taken_before_and_after_the_subcommand() {
        for words in [
            ["--redis.timeout=2s", "check"],
            ["check", "--redis.timeout=2s"],
        ] {
            let invocation = parse_words(&words).unwrap();
            let Task::OfTarget { task, .. } = invocation.task else {
                panic!("{:?}", invocation.task);
            };
            assert!(matches!(task, TargetTask::Check(_)));
            assert_eq!(
                invocation.values.given("redis.timeout").unwrap().values,
                ["2s"]
            );
        }
    }

    #[test]
    fn switches_need_no_value() {
        for (word, expected) in [
            ("--web.enable-admin-api", "true"),
            ("--web.enable-admin-api=false", "false"),
            ("--probe.canary", "true"),
        ] {
            let invocation = parse_words(&[word]).unwrap();
            let name = word.trim_start_matches("--").split('=').next().unwrap();
            let typed = invocation.values.given(name).unwrap();
            assert_eq!(typed.values, [expected]);
        }
    }

    #[test]
    fn a_setting_is_given_once_unless_it_may_repeat() {
        for words in [
            &["--redis.timeout=1s", "--redis.timeout", "2s"][..],
            &["--redis.timeout=1s", "check", "--redis.timeout=2s"],
            &["--probe.canary", "--probe.canary=false"],
        ] {
            let Err(Stop::Mistake(line)) = parse_words(words) else {
                panic!("{words:?}");
            };
            assert!(line.ends_with("given twice; expected once"), "{line}");
        }
        let words = ["--ratelimiter.url=http://a", "--ratelimiter.url=http://b"];
        let invocation = parse_words(&words).unwrap();
        assert_eq!(
            invocation
                .values
                .given("ratelimiter.url")
                .unwrap()
                .values
                .len(),
            2
        );
        parse_words(&[
            "--redis.timeout=1s",
            "reset-counter",
            "--",
            "--redis.timeout",
        ])
        .unwrap();
    }

    #[test]
    fn a_negative_value_reaches_its_flag() {
        let invocation = parse_words(&["--keys.max-series", "-1", "check"]).unwrap();
        let given = invocation.values.given("keys.max-series").unwrap();
        assert_eq!(given.values, ["-1"]);
        let Err(Stop::Mistake(line)) = parse_words(&["check", "--every", "-1s"]) else {
            panic!("-1s was taken");
        };
        assert!(line.starts_with("--every: invalid value \"-1s\""), "{line}");
        // A key may look like a number.
        match parse_words(&["reset-counter", "--", "-1"]).unwrap().task {
            Task::OfTarget {
                task: TargetTask::ResetCounter { key },
                ..
            } => assert_eq!(key, "-1"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn limiters_takes_a_name_or_none() {
        for (words, expected) in [
            (&["limiters"][..], None),
            (&["limiters", "kong"], Some("kong")),
        ] {
            match parse_words(words).unwrap().task {
                Task::Limiters { name } => assert_eq!(name.as_deref(), expected),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn limiters_checks_a_description_instead_of_printing_one() {
        let words = ["limiters", "--check", "own.yml", "--target", "eu"];
        match parse_words(&words).unwrap().task {
            Task::OfTarget {
                target,
                task: TargetTask::CheckDescription { description },
            } => assert_eq!((target.as_deref(), &*description), (Some("eu"), "own.yml")),
            other => panic!("{other:?}"),
        }
        let both = parse_words(&["limiters", "kong", "--check", "own.yml"]);
        assert!(matches!(both, Err(Stop::Mistake(_))), "{both:?}");
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
            &[
                "check",
                "--output=jsonl",
                "--every=1s",
                "--for=2562047788015215h",
            ],
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
