//! The subcommand: opens what is named, replays it, and says how it went.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;

use super::{EvaluateError, Mistakes, Progress, Reading, Source, replay};
use crate::clock::Clock;
use crate::config::Judging;

/// What is to be replayed, and how.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The file, or `-`.
    pub file: String,
    /// What to do about broken lines.
    pub mistakes: Mistakes,
}

/// Replays, prints, and tells whether every line was an observation.
pub fn evaluate(task: &Replay, judging: &Judging) -> anyhow::Result<bool> {
    let source =
        Source::open(&task.file).with_context(|| format!("evaluate: cannot open {}", task.file))?;
    let stdout = io::stdout();
    // Lines that run over the screen show well enough how far it is.
    let shown = Progress::has_a_terminal() && !stdout.is_terminal();
    let reading = Reading {
        source,
        label: judging.key_label,
        mistakes: task.mistakes,
        named: &mut io::stderr(),
        progress: Progress::new(Clock::start(), shown),
    };
    let tally = match replay(reading, &judging.checker, stdout.lock()) {
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
