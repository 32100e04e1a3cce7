//! Every command that a document shows in a block of the console runs against a limiter with an exporter, or is listed here
//! with the reason why it cannot. `deploy/alerts/commands.rs` runs the commands of the runbooks.

use lab::temp::TempDir;

use super::markdown::{Document, documents};
use crate::harness::{Cluster, base_flags, said, shell};
use crate::repository::{path, run_tool, text};

/// How a command is tested.
enum How {
    /// It runs as it is, in a folder of its own, and prints this.
    Run(&'static str),
    /// `make --dry-run` knows the target.
    Make,
    /// It is not run, for this reason.
    Not(&'static str),
}

const CARGO: &str = "cargo runs this test: a build inside of it would wait for it, or take minutes";
const IMAGES: &str =
    "it needs an engine for containers; make image-test builds the same image without one";
const KUBERNETES: &str = "it needs a cluster; deploy/shipped/kubernetes.rs checks the manifests";
const ROOT: &str = "it needs root and systemd; deploy/shipped/systemd.rs checks the unit";
const SCHEMAS: &str = "it needs a program from PyPI that make test does not";
const ALERTS: &str = "deploy/alerts/tools.rs runs it";

/// By the beginning of the command; the first that fits.
const COMMANDS: &[(&str, How)] = &[
    ("make ", How::Make),
    ("cargo ", How::Not(CARGO)),
    ("RUSTC_BOOTSTRAP=1 cargo ", How::Not(CARGO)),
    (
        "target/release/ratelimiter-exporter ",
        How::Not(
            "the tests run the debug build; docs/limiters.rs starts it with each of these files",
        ),
    ),
    ("docker ", How::Not(IMAGES)),
    ("kubectl ", How::Not(KUBERNETES)),
    ("install ", How::Not(ROOT)),
    ("systemctl ", How::Not(ROOT)),
    ("check-jsonschema ", How::Not(SCHEMAS)),
    ("promtool ", How::Not(ALERTS)),
    ("amtool ", How::Not(ALERTS)),
    ("sed ", How::Not(ALERTS)),
    (
        "curl localhost:9972/metrics",
        How::Run("\ninvariant_violation{"),
    ),
    (
        "curl -u ann ",
        How::Not("curl asks for the password; serving/actions.rs sends the same"),
    ),
    (
        "curl -s localhost:9972/api/v1/violations",
        How::Run("\"ghost_allowing\""),
    ),
    (
        "curl -sG localhost:9972/api/v1/violations",
        How::Run("user:42"),
    ),
    (
        "curl -s localhost:9972/api/v1/observation",
        How::Run("node-1\t127.0.0.1:"),
    ),
    ("ratelimiter-exporter reset-counter ", How::Run("accepted")),
    ("ratelimiter-exporter check --explain ", How::Run("user:42")),
    ("ratelimiter-exporter check ", How::Run("")),
    ("ratelimiter-exporter evaluate ", How::Run("observ")),
    ("printf ", How::Run("abc3a47b8ad18b85")),
    (
        "echo $?",
        How::Not("the command before it is run; its status depends on what is violated"),
    ),
];

fn how(command: &str) -> Option<&'static How> {
    let mut entries = COMMANDS.iter();
    let found = entries.find(|(start, _)| command.starts_with(start));
    found.map(|(_, how)| how)
}

/// The commands in the document's blocks of the console, each on one line and without its comment.
fn commands(document: &Document) -> Vec<String> {
    let blocks = document.blocks().into_iter();
    let mut commands = Vec::new();
    for block in blocks.filter(|block| block.language == "console") {
        let text = block.text.replace("\\\n", " ");
        let lines = text.lines().filter_map(|line| {
            let line = line.trim_start();
            line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "))
        });
        let lines = lines.map(|line| line.split("  # ").next().unwrap_or_default().trim());
        commands.extend(lines.map(str::to_owned));
    }
    commands
}

/// A limiter with traffic, its exporter, and a folder in which commands run.
struct Place {
    cluster: Cluster,
    folder: TempDir,
    flags: Vec<String>,
}

impl Place {
    async fn start() -> anyhow::Result<Self> {
        let cluster = Cluster::start(3, &[]).await?;
        let folder = TempDir::new("commands")?;
        for file in ["candidate.yml", "current.yml"] {
            std::fs::write(folder.path().join(file), "checker.unknown_hold: 5m\n")?;
        }
        lab::seed::fill_to(&mut cluster.redis.connection().await?, b"user:42", 4).await?;
        cluster.exporter.scrape().await?;
        let flags = base_flags(&cluster.redis.url(), &cluster.nodes);
        Ok(Self {
            cluster,
            folder,
            flags,
        })
    }

    /// The command with the addresses of this place. A command that would run until a signal gets an end.
    fn here(&self, command: &str) -> String {
        let mut words: Vec<String> = Vec::new();
        let mut taken = command.split_whitespace();
        while let Some(word) = taken.next() {
            let mut value = || taken.next().unwrap_or_default();
            match word {
                "--redis.url" => {
                    value();
                    words.push(self.flags[0].clone());
                }
                "--ratelimiter.url" => {
                    value();
                    words.push(self.flags[1].clone());
                }
                "--every" => {
                    value();
                    words.extend(["--every", "200ms"].map(str::to_owned));
                    if !command.contains(" --for ") {
                        words.extend(["--for", "1s"].map(str::to_owned));
                    }
                }
                "--for" => {
                    value();
                    words.extend(["--for", "1s"].map(str::to_owned));
                }
                _ => words.push(word.replace("localhost:9972", &self.cluster.exporter.address)),
            }
        }
        let asks = words.first().is_some_and(|it| it == "ratelimiter-exporter");
        let of_a_limiter = words
            .get(1)
            .is_some_and(|it| it == "check" || it == "reset-counter");
        if asks && of_a_limiter && !command.contains("--redis.url") {
            words.extend(self.flags.clone());
        }
        words.join(" ")
    }

    /// What the command prints; an error where it fails otherwise than by a violation that it found.
    async fn run(&self, command: &str) -> anyhow::Result<String> {
        let script = self.here(command);
        let output = shell(&script, self.folder.path()).await?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = said(&output);
        let status = output.status.code().unwrap_or(-1);
        // `check` ends with 1 or 2 where something is violated or unknown, such as a latency on a busy machine. A mistake in its
        // command line is on standard error.
        let looked = command.starts_with("ratelimiter-exporter check") && (1..=2).contains(&status);
        anyhow::ensure!(
            status == 0 || looked && !errors.contains("ratelimiter-exporter: "),
            "{script}\n{}\n{printed}{errors}",
            output.status
        );
        Ok(printed)
    }
}

#[tokio::test]
async fn every_command_in_a_document_runs_or_says_why_not() -> anyhow::Result<()> {
    let place = Place::start().await?;
    let mut wrong = Vec::new();
    let mut run = 0;
    for document in documents()? {
        for command in commands(&document) {
            let failed = match how(&command) {
                None => Some("it is not listed in docs/commands.rs".to_owned()),
                Some(How::Not(reason)) => reason.is_empty().then(|| "no reason".to_owned()),
                Some(How::Make) => {
                    let mut words = vec!["--dry-run", "--directory"];
                    let root = path("");
                    let root = root.to_string_lossy();
                    words.push(&root);
                    words.extend(command.split_whitespace().skip(1));
                    run_tool("make", &words).err().map(|it| format!("{it:#}"))
                }
                Some(How::Run(shows)) => {
                    run += 1;
                    match place.run(&command).await {
                        Ok(printed) if printed.contains(shows) => None,
                        Ok(printed) => Some(format!("no {shows:?} in {printed}")),
                        Err(error) => Some(format!("{error:#}")),
                    }
                }
            };
            wrong.extend(failed.map(|why| format!("{}: {command}: {why}", document.path)));
        }
    }
    assert!(run > 10, "{run}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn targets_and_subcommands_between_backticks_exist() -> anyhow::Result<()> {
    let makefile = text("Makefile")?;
    let command = ratelimiter_exporter::cli::command();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for document in documents()? {
        for span in document.spans() {
            let mut words = span.split_whitespace();
            let exists = match (words.next(), words.next()) {
                (Some("make"), Some(target)) => makefile.contains(&format!("\n{target}:")),
                (Some("ratelimiter-exporter"), Some(word)) if !word.starts_with('-') => {
                    command.find_subcommand(word).is_some()
                }
                _ => continue,
            };
            seen += 1;
            if !exists {
                wrong.push(format!("{}: {span}", document.path));
            }
        }
    }
    assert!(seen > 50, "{seen}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn the_list_of_commands_names_none_that_is_gone() -> anyhow::Result<()> {
    let documents = documents()?;
    let commands: Vec<String> = documents.iter().flat_map(commands).collect();
    let mut idle = COMMANDS.iter().map(|(start, _)| *start);
    let idle = idle.find(|start| !commands.iter().any(|it| it.starts_with(start)));
    assert_eq!(idle, None);
    Ok(())
}
