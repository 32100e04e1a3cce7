//! The deadline of a collection, which can move closer while it runs.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::observation::{Collector, Failure, Reason};

#[derive(Clone, Debug)]
pub(in crate::observe) struct Deadline(watch::Receiver<Instant>);

impl Deadline {
    pub(in crate::observe) fn new(at: watch::Receiver<Instant>) -> Self {
        Self(at)
    }

    /// Resolves once the deadline has passed.
    pub(in crate::observe) async fn passed(&self) {
        let mut moved = self.0.clone();
        loop {
            let at = *moved.borrow_and_update();
            tokio::select! {
                () = tokio::time::sleep_until(at) => return,
                changed = moved.changed() => if changed.is_err() {
                    return tokio::time::sleep_until(at).await;
                },
            }
        }
    }

    /// The result of `work`, or `None` if the deadline passes first.
    pub(in crate::observe) async fn cut<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.passed() => None,
        }
    }

    pub(in crate::observe) fn left(&self) -> Duration {
        self.0.borrow().saturating_duration_since(Instant::now())
    }
}

/// The failure of a collector that the deadline cut off.
pub(in crate::observe) fn cut_off(collector: Collector) -> Failure {
    Failure::new(
        collector,
        "",
        Reason::Deadline,
        format!(
            "{}: no answer before the collection's deadline",
            collector.name()
        ),
    )
}
