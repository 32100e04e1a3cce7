//! How often a request is made that the verdicts can do without: so seldom that it costs whoever answers at most a
//! hundredth of the time. The decisions are pure: times are passed in.
//!
//! In a real limiter `GET /api/nodes` takes 29 µs for each key in Redis, on the node's one core, also after the client has
//! hung up: a request that was given up on may have cost any time, so the next one waits twice as long as it did.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::clock::elapsed;
use crate::observation::Reason;
use crate::observe::http::client::HttpError;

/// The share of the time that the request may take is one in this many.
const SHARE: u32 = 100;

/// The longest time between two requests.
const LONGEST: Duration = Duration::from_secs(600);

/// When a request was made last, and how long to wait before the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::observe) struct OptionalRequest {
    last: Option<Timestamp>,
    wait: Duration,
}

impl OptionalRequest {
    /// Whether it may be made at `now`. Time that ran backwards makes no request come sooner.
    pub(in crate::observe) fn is_due(&self, now: Timestamp) -> bool {
        self.last.is_none_or(|last| elapsed(last, now) >= self.wait)
    }

    /// Makes the request at `now`. Where the caller drops this before the end, it was given up on after `longest`, which
    /// is the longest that it may take.
    pub(in crate::observe) async fn make<T>(
        &mut self,
        now: Timestamp,
        longest: Duration,
        request: impl Future<Output = Result<T, HttpError>>,
    ) -> Result<T, HttpError> {
        let before = *self;
        self.given_up(now, longest);
        let started = Instant::now();
        let outcome = request.await;
        let took = started.elapsed();
        *self = before;
        match &outcome {
            Err(error) if !is_answer(error.reason) => self.given_up(now, took),
            _ => self.answered(now, took),
        }
        outcome
    }

    /// It was made at `now`, and the answer took `took`.
    fn answered(&mut self, now: Timestamp, took: Duration) {
        self.last = Some(now);
        self.wait = (took * SHARE).min(LONGEST);
    }

    /// It was made at `now`, and given up on after `took`.
    fn given_up(&mut self, now: Timestamp, took: Duration) {
        self.last = Some(now);
        self.wait = (took * SHARE).max(self.wait * 2).min(LONGEST);
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
        let mut request = OptionalRequest::default();
        assert!(request.is_due(at(0)));
        request.answered(at(0), Duration::from_millis(300));
        assert!(!request.is_due(at(29_999)) && request.is_due(at(30_000)));
        request.answered(at(30_000), Duration::from_millis(2));
        assert!(!request.is_due(at(30_199)) && request.is_due(at(30_200)));
        // The clock stood still or ran backwards.
        assert!(!request.is_due(at(0)));
    }

    #[test]
    fn what_was_given_up_on_waits_twice_as_long_as_before_and_ten_minutes_at_most() {
        let mut request = OptionalRequest::default();
        let second = Duration::from_secs(1);
        let mut now = 0;
        let mut waits = Vec::new();
        for _ in 0..5 {
            request.given_up(at(now), second);
            let wait = (0..)
                .step_by(1000)
                .find(|wait| request.is_due(at(now + wait)));
            let wait = wait.unwrap();
            waits.push(wait / 1000);
            now += wait;
        }
        assert_eq!(waits, [100, 200, 400, 600, 600]);
        request.answered(at(now), Duration::from_millis(10));
        assert!(request.is_due(at(now + 1000)));
    }

    #[tokio::test]
    async fn a_request_that_is_cut_off_was_given_up_on_and_an_error_is_an_answer() {
        let second = Duration::from_secs(1);
        let mut request = OptionalRequest::default();
        let hanging = request.make(
            at(0),
            second,
            std::future::pending::<Result<(), HttpError>>(),
        );
        assert!(hanging.now_or_never().is_none());
        assert_eq!(request.wait, second * 100);
        for (reason, wait) in [
            (Reason::Timeout, second * 200),
            (Reason::Truncated, second * 400),
            (Reason::HttpStatus, second),
        ] {
            let fails = std::future::ready(Err::<(), _>(HttpError {
                reason,
                status: None,
                message: String::new(),
            }));
            assert!(request.make(at(0), second, fails).await.is_err());
            // What is answered at once is asked for soon.
            let is = request.wait;
            let right = if wait == second {
                is < wait
            } else {
                is == wait
            };
            assert!(right, "{reason}: {is:?}");
        }
    }
}
