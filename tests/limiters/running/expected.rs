//! The traffic, and the expected answers and counts. Pure.

use std::fmt;
use std::time::Duration;

use anyhow::ensure;

use crate::app::Outcome;
use crate::applications::{Counts, Strategy};

/// The limit of every endpoint.
pub(crate) const LIMIT: u32 = 10;

/// The window: long compared to a burst and its scrape, short enough for several in a test.
pub(crate) const WINDOW: Duration = Duration::from_secs(20);

/// The clients of a burst and the number of their requests: below the limit, at it, far above it.
pub(crate) const BURST: [(&str, u32); 3] = [
    ("a key: with spaces", 4),
    ("2001:db8::1", LIMIT),
    ("user:1", 25),
];

/// The outcomes of some requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Answers {
    pub(crate) allowed: u32,
    pub(crate) refused: u32,
    pub(crate) failed: u32,
}

impl Answers {
    /// Adds one outcome.
    pub(crate) fn count(&mut self, outcome: Outcome) {
        *match outcome {
            Outcome::Allowed => &mut self.allowed,
            Outcome::Refused => &mut self.refused,
            Outcome::Failed => &mut self.failed,
        } += 1;
    }

    /// The number of requests.
    pub(crate) fn asked(self) -> u32 {
        self.allowed + self.refused + self.failed
    }
}

impl std::ops::AddAssign for Answers {
    fn add_assign(&mut self, more: Self) {
        self.allowed += more.allowed;
        self.refused += more.refused;
        self.failed += more.failed;
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            allowed,
            refused,
            failed,
        } = self;
        write!(f, "{allowed} allowed, {refused} refused, {failed} failed")
    }
}

/// Checks the answers to a client that the limiter did not remember, whose requests took `took`.
pub(crate) fn fresh(strategy: &Strategy, answers: Answers, took: Duration) -> anyhow::Result<()> {
    let least = answers.asked().min(LIMIT);
    let most = match strategy.counts {
        Counts::Level => (LIMIT + drained(took)).min(answers.asked()),
        Counts::Asked | Counts::Allowed => least,
    };
    ensure!(
        answers.failed == 0 && (least..=most).contains(&answers.allowed),
        "{answers}; expected {least} to {most} allowed, and none that failed"
    );
    Ok(())
}

/// Checks the answers to a client that was far above the limit for several windows and that the limiter did not remember.
pub(crate) fn steady(strategy: &Strategy, answers: Answers, took: Duration) -> anyhow::Result<()> {
    // Windows may begin at any moment, so there may be two more than the whole ones.
    let windows = u32::try_from(took.as_secs() / WINDOW.as_secs()).unwrap_or(u32::MAX);
    let most = LIMIT.saturating_mul(windows.saturating_add(2));
    let least = if strategy.forgives { LIMIT + 1 } else { LIMIT };
    ensure!(
        answers.failed == 0 && answers.refused > 0 && (least..=most).contains(&answers.allowed),
        "{answers} in {took:.1?}; expected {least} to {most} allowed, some refused, and none that failed"
    );
    Ok(())
}

/// The lowest and highest count that may be exported for a client with these answers, whose first request was `since` ago.
pub(crate) fn exported(strategy: &Strategy, answers: Answers, since: Duration) -> (u32, u32) {
    match strategy.counts {
        Counts::Asked => (answers.asked(), answers.asked()),
        Counts::Allowed => (answers.allowed, answers.allowed),
        Counts::Level => (
            answers.allowed.saturating_sub(drained(since)),
            answers.allowed,
        ),
    }
}

/// The most requests that a bucket drains in this time.
fn drained(time: Duration) -> u32 {
    let share = time.as_secs_f64() / WINDOW.as_secs_f64();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few requests; one is added for whole seconds and whole requests"
    )]
    let requests = (share * f64::from(LIMIT)).ceil() as u32 + 1;
    requests
}
