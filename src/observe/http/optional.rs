//! Optional requests, which no verdict needs, and when each is due: so seldom that it takes at most a hundredth of the
//! server's time. The decisions are pure: times are passed in.
//!
//! In a real limiter `GET /api/nodes` takes 29 µs for each key in Redis, on the node's one core, even after the client has
//! hung up. So a collection stops waiting at its timeout, but the request goes on until it is answered. So its whole cost
//! is known.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::clock::elapsed;
use crate::lock::lock;
use crate::observation::Reason;
use crate::observe::http::client::HttpError;

/// The request may take this part of the server's time: one in so many.
const SHARE: u32 = 100;

/// The longest time between two requests.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The longest wait that doubling leads to, after requests whose cost is unknown because they failed.
const LONGEST_DOUBLED: Duration = Duration::from_secs(600);

/// The timeout of an optional request.
pub(in crate::observe) const ANSWER_WITHIN: Duration = Duration::from_secs(600);

/// A request, and its state between collections.
#[derive(Debug, Default)]
pub(in crate::observe) struct OptionalRequest {
    pace: Arc<Mutex<Pace>>,
    /// The request under way, or the last one.
    task: Option<AbortOnDropHandle<()>>,
}

/// When the last request was made, and how long to wait before the next.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    last: Option<Timestamp>,
    wait: Duration,
    under_way: bool,
}

impl OptionalRequest {
    /// Whether the request may be made at `now`.
    pub(in crate::observe) fn is_due(&self, now: Timestamp) -> bool {
        lock(&self.pace).is_due(now)
    }

    /// Makes the request at `now`, and waits at most `patience` for its answer. `None` means that the request is still
    /// under way. Its answer will be discarded.
    pub(in crate::observe) async fn make<T: Send + 'static>(
        &mut self,
        now: Timestamp,
        patience: Duration,
        request: impl Future<Output = Result<T, HttpError>> + Send + 'static,
    ) -> Option<Result<T, HttpError>> {
        lock(&self.pace).under_way = true;
        let pace = Arc::clone(&self.pace);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let started = Instant::now();
            let outcome = request.await;
            let took = started.elapsed();
            let mut pace = lock(&pace);
            match &outcome {
                Err(error) if !is_answer(error.reason) => pace.failed(now, took),
                _ => pace.answered(now, took),
            }
            // After a late answer, the receiver is gone.
            let _ = sender.send(outcome);
        });
        self.task = Some(AbortOnDropHandle::new(task));
        timeout(patience, receiver).await.ok()?.ok()
    }
}

impl Pace {
    /// Whether a request may be made. A clock that runs backwards makes none come sooner.
    fn is_due(&self, now: Timestamp) -> bool {
        !self.under_way && self.last.is_none_or(|last| elapsed(last, now) >= self.wait)
    }

    /// Notes a request that was made at `now` and answered after `took`.
    fn answered(&mut self, now: Timestamp, took: Duration) {
        *self = Self {
            last: Some(now),
            wait: (took * SHARE).min(LONGEST),
            under_way: false,
        };
    }

    /// Notes a request that was made at `now` and failed after `took`.
    fn failed(&mut self, now: Timestamp, took: Duration) {
        let doubled = (self.wait * 2).min(LONGEST_DOUBLED);
        self.answered(now, took);
        self.wait = self.wait.max(doubled);
    }
}

/// Whether a request with this failure was answered. Then its cost is its duration.
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
    fn a_slow_request_is_made_seldom() {
        let mut pace = Pace::default();
        assert!(pace.is_due(at(0)));
        pace.answered(at(0), Duration::from_millis(300));
        assert!(!pace.is_due(at(29_999)) && pace.is_due(at(30_000)));
        pace.answered(at(30_000), Duration::from_millis(2));
        assert!(!pace.is_due(at(30_199)) && pace.is_due(at(30_200)));
        // The clock stopped or ran backwards.
        assert!(!pace.is_due(at(0)));
        pace.answered(at(0), Duration::from_secs(58));
        assert!(!pace.is_due(at(5_799_999)) && pace.is_due(at(5_800_000)));
    }

    #[test]
    fn a_failing_request_waits_twice_as_long_each_time_up_to_ten_minutes() {
        let mut pace = Pace::default();
        let second = Duration::from_secs(1);
        let mut waits = Vec::new();
        for _ in 0..5 {
            pace.failed(at(0), second);
            waits.push(pace.wait.as_secs());
        }
        assert_eq!(waits, [100, 200, 400, 600, 600]);
        // A failure that took long is waited for longer.
        pace.failed(at(0), second * 10);
        assert_eq!(pace.wait.as_secs(), 1000);
        pace.answered(at(0), Duration::from_millis(10));
        assert!(pace.is_due(at(1000)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_request_goes_on_after_its_collection_and_its_whole_time_counts() {
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
        // A collection that is cut off does not end the request, either.
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
            let error = HttpError::new(reason, String::new());
            let fails = std::future::ready(Err::<(), _>(error));
            let outcome = request.make(at(0), Duration::from_secs(1), fails).await;
            assert!(matches!(outcome, Some(Err(_))));
            assert_eq!(lock(&request.pace).wait, wait, "{reason}");
        }
    }
}
