//! The subcommand: opens the recording, replays it, prints the result, and reports broken lines.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Candidate, EvaluateError, ReplayInput, Source, Tally, backtest, page, replay, table};
use crate::config::Judging;
use crate::files;

/// What to replay, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The file, or `-` for standard input.
    pub file: String,
    /// Whether broken lines are skipped.
    pub keep_going: bool,
    /// The configuration to compare with.
    pub compare: Option<String>,
    /// What to print.
    pub form: Form,
    /// Where to write the backtest as a page.
    pub report: Option<PathBuf>,
}

/// What to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A line for each observation: what is reported and pending at that time.
    Lines,
    /// The backtest as a table.
    Table,
    /// The backtest as JSON.
    Json,
}

/// Replays and prints. Returns whether every line was an observation. `current` is the configuration that `candidate` is
/// compared with.
pub fn evaluate(
    task: &Replay,
    candidate: Judging,
    current: Option<Judging>,
) -> anyhow::Result<bool> {
    let source =
        Source::open(&task.file).with_context(|| format!("evaluate: cannot open {}", task.file))?;
    // Lines on a terminal show the progress themselves.
    let lines_shown = task.form == Form::Lines && io::stdout().is_terminal();
    let input = ReplayInput {
        source,
        label: candidate.checker.key_label,
        keep_going: task.keep_going,
        named: &mut io::stderr(),
        progress: !lines_shown,
    };
    let result = if task.form == Form::Lines {
        replay(input, &candidate.checker, io::stdout().lock()).map_err(anyhow::Error::new)
    } else {
        let named = |name, judging: Judging| Candidate {
            name,
            origin: judging.file.unwrap_or_else(|| "the defaults".to_owned()),
            config: judging.checker,
        };
        let mut candidates = vec![named("candidate", candidate)];
        candidates.extend(current.map(|current| named("current", current)));
        summary(task, input, &candidates)
    };
    let tally = match result {
        Ok(tally) => tally,
        Err(error) => {
            return match error.downcast_ref() {
                // A reader that stops early is no mistake in the recording.
                Some(EvaluateError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                    Ok(true)
                }
                _ => Err(error.context("evaluate")),
            };
        }
    };
    let (broken, observations) = (tally.broken_lines, tally.observations);
    if broken > 0 {
        writeln!(
            io::stderr(),
            "evaluate: lines skipped: {broken}, observations judged: {observations}"
        )?;
    }
    Ok(broken == 0)
}

fn summary(
    task: &Replay,
    input: ReplayInput<'_>,
    candidates: &[Candidate],
) -> anyhow::Result<Tally> {
    let unwritable = |path: &Path| format!("--report: cannot write {}", path.display());
    let open = |path| {
        let file = files::open_for_later(path, Some(Path::new(&task.file)));
        Ok::<_, anyhow::Error>((path, file.with_context(|| unwritable(path))?))
    };
    // Opened before the replay, so that a page that cannot be written ends it at once.
    let report = task.report.as_deref().map(open).transpose()?;
    let outcome = backtest(input, candidates, report.is_some())?;
    if let Some((path, mut file)) = report {
        files::cut_off(&file)
            .and_then(|()| file.write_all(page(&outcome).as_bytes()))
            .with_context(|| unwritable(path))?;
    }
    let text = match task.form {
        Form::Json => serde_json::to_string_pretty(&outcome)? + "\n",
        Form::Lines | Form::Table => table(&outcome),
    };
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(EvaluateError::Write)?;
    Ok(outcome.recording.tally)
}
