//! How far a replay is, on one line of a terminal. Elsewhere nothing is said.

use std::io::{IsTerminal as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use super::blocks::Source;
use crate::clock::Clock;

/// How often it is told: often enough to see it move.
const EVERY: Duration = Duration::from_millis(200);

/// Tells how far it is.
#[derive(Debug)]
pub struct Progress {
    clock: Clock,
    started: Timestamp,
    told: Option<Timestamp>,
    read: Arc<AtomicU64>,
    size: Option<u64>,
    on: bool,
}

impl Progress {
    /// On standard error, or nowhere.
    pub fn new(clock: Clock, on: bool) -> Self {
        Self {
            started: clock.now().steady,
            clock,
            told: None,
            read: Arc::default(),
            size: None,
            on,
        }
    }

    /// Whether standard error is a terminal, where somebody sees it move.
    pub fn has_a_terminal() -> bool {
        std::io::stderr().is_terminal()
    }

    /// Begins to watch how much of `source` is read.
    pub(super) fn watch(&mut self, source: &Source) {
        self.read = source.read();
        self.size = source.size();
        self.started = self.clock.now().steady;
    }

    /// So many observations were judged.
    pub(super) fn tell(&mut self, observations: u64) {
        if !self.on {
            return;
        }
        let now = self.clock.now();
        if self.told.is_some_and(|told| now.since(told) < EVERY) {
            return;
        }
        self.told = Some(now.steady);
        let line = line(
            observations,
            self.read.load(Ordering::Relaxed),
            self.size,
            now.since(self.started),
        );
        // If the terminal is gone there is nobody to tell.
        let _ = write!(std::io::stderr(), "\r{line}\x1b[K");
    }

    /// Gives the line back, to whatever is to stand there instead.
    pub(super) fn clear(&mut self) {
        if self.told.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn line(observations: u64, read: u64, size: Option<u64>, took: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "figures for the eye")]
    let [observations_f, read_f] = [observations, read].map(|figure| figure as f64);
    let seconds = took.as_secs_f64().max(0.001);
    let pace = format!(
        "{observations} observations, {:.0} a second",
        observations_f / seconds
    );
    match size.filter(|size| *size > 0) {
        None => format!("{pace}, {:.1} MB read", read_f / 1e6),
        Some(size) => {
            #[expect(clippy::cast_precision_loss, reason = "figures for the eye")]
            let share = (read_f / size as f64).clamp(1e-9, 1.0);
            let left = seconds * (1.0 - share) / share;
            format!("{:3.0} %  {pace}, {left:.0} s left", share * 100.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_told_where_the_end_is_known() {
        let took = Duration::from_secs(10);
        let known = line(1000, 25, Some(100), took);
        assert_eq!(known, " 25 %  1000 observations, 100 a second, 30 s left");
        let unknown = line(1000, 2_500_000, None, took);
        assert_eq!(unknown, "1000 observations, 100 a second, 2.5 MB read");
        assert!(line(0, 0, Some(0), took).contains("0 observations"));
    }
}
