//! The subcommand: opens what is named, replays it, and says how it went.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{
    Candidate, EvaluateError, Mistakes, ReplayInput, Source, Tally, backtest, page, replay, table,
};
use crate::config::Judging;
use crate::files;

/// What is to be replayed, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The file, or `-`.
    pub file: String,
    /// What to do about broken lines.
    pub mistakes: Mistakes,
    /// The configuration to compare with.
    pub compare: Option<String>,
    /// What to print.
    pub form: Form,
    /// Where to write a page about it.
    pub report: Option<PathBuf>,
}

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A line for each observation: what is reported and pending then.
    Lines,
    /// What it comes to, as a table.
    Table,
    /// What it comes to, as JSON.
    Json,
}

/// Replays, prints, and tells whether every line was an observation. `current` is what `candidate` is compared with.
pub fn evaluate(
    task: &Replay,
    candidate: Judging,
    current: Option<Judging>,
) -> anyhow::Result<bool> {
    let source =
        Source::open(&task.file).with_context(|| format!("evaluate: cannot open {}", task.file))?;
    // Lines that run over the screen show well enough how far it is.
    let lines_shown = task.form == Form::Lines && io::stdout().is_terminal();
    let reading = ReplayInput {
        source,
        label: candidate.checker.key_label,
        mistakes: task.mistakes,
        named: &mut io::stderr(),
        progress: !lines_shown,
    };
    let result = if task.form == Form::Lines {
        replay(reading, &candidate.checker, io::stdout().lock())
    } else {
        let named = |name, judging: Judging| Candidate {
            name,
            origin: judging.file.unwrap_or_else(|| "the defaults".to_owned()),
            config: judging.checker,
        };
        let mut candidates = vec![named("candidate", candidate)];
        candidates.extend(current.map(|current| named("current", current)));
        summary(task, reading, &candidates)
    };
    let tally = match result {
        Ok(tally) => tally,
        // That nobody reads any further is no mistake of the recording's.
        Err(EvaluateError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            return Ok(true);
        }
        Err(error) => return Err(anyhow::Error::new(error).context("evaluate")),
    };
    if tally.broken > 0 {
        let (broken, observations) = (tally.broken, tally.observations);
        writeln!(
            io::stderr(),
            "evaluate: {broken} lines passed over, {observations} observations judged"
        )?;
    }
    Ok(tally.broken == 0)
}

fn summary(
    task: &Replay,
    reading: ReplayInput<'_>,
    candidates: &[Candidate],
) -> Result<Tally, EvaluateError> {
    // Before the work, since a page that cannot be written is known at once.
    let unwritable = |error| EvaluateError::Report {
        path: task.report.clone().unwrap_or_default(),
        error,
    };
    let read = Some(Path::new(&task.file));
    let report = task.report.as_deref();
    let report = report.map(|path| files::open_for_later(path, read));
    let report = report.transpose().map_err(unwritable)?;
    let outcome = backtest(reading, candidates, report.is_some())?;
    if let Some(mut file) = report {
        files::cut_off(&file).map_err(unwritable)?;
        file.write_all(page(&outcome).as_bytes())
            .map_err(unwritable)?;
    }
    let text = match task.form {
        Form::Json => serde_json::to_string_pretty(&outcome).map_err(io::Error::from)? + "\n",
        Form::Lines | Form::Table => table(&outcome),
    };
    io::stdout().write_all(text.as_bytes())?;
    Ok(Tally {
        observations: outcome.recording.observations,
        broken: outcome.recording.broken_lines,
    })
}
