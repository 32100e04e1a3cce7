//! How often a request is made that the verdicts can do without: so seldom that it takes the server at most a hundredth of
//! its time. The decisions are pure: times are passed in.
//!
//! In a real limiter `GET /api/nodes` takes 29 µs for each key in Redis, on the node's one core, also after the client has
//! hung up. So a collection stops waiting after its own time, but the request goes on until it is answered, and its cost is
//! known.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::clock::elapsed;
use crate::lock::lock;
use crate::observation::Reason;
use crate::observe::http::client::HttpError;

/// The share of the time that the request may take is one in this many.
const SHARE: u32 = 100;

/// The longest time between two requests.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The longest time that doubling leads to, where requests fail: what they cost is not known then.
const LONGEST_DOUBLED: Duration = Duration::from_secs(600);

/// How long an answer is waited for.
pub(in crate::observe) const ANSWER_WITHIN: Duration = Duration::from_secs(600);

/// A request, from one collection to the next.
#[derive(Debug, Default)]
pub(in crate::observe) struct OptionalRequest {
    pace: Arc<Mutex<Pace>>,
    /// The one that is under way, or the last one.
    task: Option<AbortOnDropHandle<()>>,
}

/// When a request was made last, and how long to wait before the next.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    last: Option<Timestamp>,
    wait: Duration,
    under_way: bool,
}

impl OptionalRequest {
    /// Whether it may be made at `now`.
    pub(in crate::observe) fn is_due(&self, now: Timestamp) -> bool {
        lock(&self.pace).is_due(now)
    }

    /// Makes the request at `now`, and waits for its answer for `patience` at the most. `None`: it is still under way, and what it
    /// brings is thrown away.
    pub(in crate::observe) async fn make<T: Send + 'static>(
        &mut self,
        now: Timestamp,
        patience: Duration,
        request: impl Future<Output = Result<T, HttpError>> + Send + 'static,
    ) -> Option<Result<T, HttpError>> {
        lock(&self.pace).under_way = true;
        let pace = Arc::clone(&self.pace);
        let (tell, told) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let started = Instant::now();
            let outcome = request.await;
            let took = started.elapsed();
            let mut pace = lock(&pace);
            match &outcome {
                Err(error) if !is_answer(error.reason) => pace.failed(now, took),
                _ => pace.answered(now, took),
            }
            // Nobody waits for it any more if it comes late.
            let _ = tell.send(outcome);
        });
        self.task = Some(AbortOnDropHandle::new(task));
        timeout(patience, told).await.ok()?.ok()
    }
}

impl Pace {
    /// Time that ran backwards makes no request come sooner.
    fn is_due(&self, now: Timestamp) -> bool {
        !self.under_way && self.last.is_none_or(|last| elapsed(last, now) >= self.wait)
    }

    /// It was made at `now`, and the answer took `took`.
    fn answered(&mut self, now: Timestamp, took: Duration) {
        *self = Self {
            last: Some(now),
            wait: (took * SHARE).min(LONGEST),
            under_way: false,
        };
    }

    /// It was made at `now`, and failed after `took`.
    fn failed(&mut self, now: Timestamp, took: Duration) {
        let doubled = (self.wait * 2).min(LONGEST_DOUBLED);
        self.answered(now, took);
        self.wait = self.wait.max(doubled);
    }
}

/// Whether a request that failed so was answered: then its time is all that it cost.
fn is_answer(reason: Reason) -> bool {
    matches!(reason, Reason::HttpStatus | Reason::InvalidJson)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + millis).unwrap()
    }

    #[test]
    fn an_answer_that_took_long_is_asked_for_seldom() {
        let mut pace = Pace::default();
        assert!(pace.is_due(at(0)));
        pace.answered(at(0), Duration::from_millis(300));
        assert!(!pace.is_due(at(29_999)) && pace.is_due(at(30_000)));
        pace.answered(at(30_000), Duration::from_millis(2));
        assert!(!pace.is_due(at(30_199)) && pace.is_due(at(30_200)));
        // The clock stood still or ran backwards.
        assert!(!pace.is_due(at(0)));
        pace.answered(at(0), Duration::from_secs(58));
        assert!(!pace.is_due(at(5_799_999)) && pace.is_due(at(5_800_000)));
    }

    #[test]
    fn what_fails_waits_twice_as_long_as_before_and_ten_minutes_at_most() {
        let mut pace = Pace::default();
        let second = Duration::from_secs(1);
        let mut waits = Vec::new();
        for _ in 0..5 {
            pace.failed(at(0), second);
            waits.push(pace.wait.as_secs());
        }
        assert_eq!(waits, [100, 200, 400, 600, 600]);
        // Unless it took long.
        pace.failed(at(0), second * 10);
        assert_eq!(pace.wait.as_secs(), 1000);
        pace.answered(at(0), Duration::from_millis(10));
        assert!(pace.is_due(at(1000)));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_hangs_up_on_a_request_that_takes_long_and_its_whole_time_counts() {
        let second = Duration::from_secs(1);
        let mut request = OptionalRequest::default();
        let slow = async move {
            tokio::time::sleep(second * 30).await;
            Ok(())
        };
        assert!(request.make(at(0), second, slow).await.is_none());
        assert!(!request.is_due(at(86_400_000)));
        tokio::time::sleep(second * 30).await;
        assert!(!request.is_due(at(2_999_999)) && request.is_due(at(3_000_000)));
        // A collection that is cut off does not end it either.
        let slow = async move {
            tokio::time::sleep(second * 10).await;
            Ok(())
        };
        assert!(request.make(at(0), second, slow).now_or_never().is_none());
        tokio::time::sleep(second * 11).await;
        assert!(!request.is_due(at(999_999)) && request.is_due(at(1_000_000)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_an_answer_and_a_broken_connection_is_not() {
        for (reason, wait) in [
            (Reason::Network, Duration::from_secs(200)),
            (Reason::Truncated, Duration::from_secs(200)),
            (Reason::HttpStatus, Duration::ZERO),
            (Reason::InvalidJson, Duration::ZERO),
        ] {
            let mut request = OptionalRequest::default();
            lock(&request.pace).wait = Duration::from_secs(100);
            let fails = std::future::ready(Err::<(), _>(HttpError {
                reason,
                status: None,
                message: String::new(),
            }));
            let outcome = request.make(at(0), Duration::from_secs(1), fails).await;
            assert!(matches!(outcome, Some(Err(_))));
            assert_eq!(lock(&request.pace).wait, wait, "{reason}");
        }
    }
}
