//! The canary: checks of the exporter's own, through the whole path of a request. Off unless asked for. Each costs a
//! node one check and Redis two small keys, which the sweep passes over.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::{StatusCode, Url};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock::elapsed;
use crate::observation::{LatencyWindow, Reason};
use crate::observe::http::client::{Http, HttpError};
use crate::observe::http::management_api::join;
use crate::observe::nodes::probes::gather;

/// What every canary's key starts with: such keys are nobody's counters.
pub(in crate::observe) const CANARY_PREFIX: &str = "ratelimiter-exporter-canary:";

/// A limit that one check a collection never reaches.
const UNREACHED: u64 = 1_000_000;

/// The window of the canary keys: short, so that they leave Redis soon.
const WINDOW_MS: u64 = 10_000;

/// How often a node is asked to refuse something; after it failed to, at every collection.
const REFUSAL_EVERY: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct CheckAnswer {
    allowed: bool,
}

/// What a canary brought from one node.
#[derive(Debug)]
pub(in crate::observe) struct CanaryReading {
    /// How long the check took, or how it failed.
    pub(in crate::observe) check: Result<Duration, HttpError>,
    /// Whether one of two checks under a limit of 1 was refused; `None` if that was not asked or not answered.
    pub(in crate::observe) refused: Option<bool>,
}

impl CanaryReading {
    /// Whether the node does not reach Redis. Anything else than a 5xx or silence is the API's shape, not its Redis.
    pub(in crate::observe) fn is_cut_off(&self) -> bool {
        let Err(error) = &self.check else {
            return false;
        };
        let server_error = error.status.is_some_and(|status| status.is_server_error());
        server_error || error.reason == Reason::Timeout
    }
}

/// What is remembered of one node's canaries.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct CanaryHistory {
    latencies: VecDeque<(Timestamp, Duration)>,
    refused: Option<bool>,
    /// When it last answered that.
    refusal_asked: Option<Timestamp>,
    last: Option<Timestamp>,
    /// The last canary before the node was cut off from Redis.
    cut_off: Option<Timestamp>,
}

impl CanaryHistory {
    /// Whether it is time to ask for a refusal.
    pub(in crate::observe) fn refusal_due(&self, now: Timestamp) -> bool {
        self.refused == Some(false)
            || self
                .refusal_asked
                .is_none_or(|asked| elapsed(asked, now) >= REFUSAL_EVERY)
    }

    /// Takes a reading in. If the canaries before failed for want of Redis and this one did not, returns when the last one
    /// before them was.
    pub(in crate::observe) fn add(
        &mut self,
        now: Timestamp,
        reading: &CanaryReading,
        timeout: Duration,
        window: LatencyWindow,
    ) -> Option<Timestamp> {
        let took = match &reading.check {
            Ok(took) => Some(*took),
            // It took at least that long.
            Err(error) => (error.reason == Reason::Timeout).then_some(timeout),
        };
        if let Some(took) = took {
            self.latencies.push_back((now, took));
        }
        self.latencies
            .retain(|(at, _)| elapsed(*at, now) < window.span());
        if reading.refused.is_some() {
            self.refused = reading.refused;
            self.refusal_asked = Some(now);
        }
        let before = self.last.replace(now).unwrap_or(now);
        if reading.is_cut_off() {
            self.cut_off.get_or_insert(before);
        }
        self.cut_off.take_if(|_| reading.check.is_ok())
    }

    /// Whether it refuses what it must refuse; `None` once it was due to be asked again and did not answer that.
    pub(in crate::observe) fn refused(&self, now: Timestamp) -> Option<bool> {
        let asked = self.refusal_asked?;
        self.refused.filter(|_| elapsed(asked, now) < REFUSAL_EVERY)
    }

    /// The slowest of the newest canaries: of those that count as now, or the last one.
    pub(in crate::observe) fn newest(&self, window: LatencyWindow) -> Option<Duration> {
        let (last, _) = *self.latencies.back()?;
        let newest = self.latencies.iter();
        let newest = newest.filter(|(at, _)| elapsed(*at, last) <= window.newest());
        newest.map(|(_, took)| *took).max()
    }

    /// The p99 of the window: of the few canaries there are, the slowest.
    pub(in crate::observe) fn p99(&self) -> Option<Duration> {
        self.latencies.iter().map(|(_, took)| *took).max()
    }
}

/// Asks each node (id, base URL, whether a refusal is due); nodes that did not answer by `cut` are missing.
pub(in crate::observe) async fn ask_canaries(
    http: &Http,
    nodes: Vec<(String, Url, bool)>,
    cut: impl Future<Output = ()>,
) -> BTreeMap<String, CanaryReading> {
    let mut tasks = JoinSet::new();
    for (id, url, refusal) in nodes {
        let http = http.clone();
        tasks.spawn(async move {
            let reading = ask_one(&http, &url, &id, refusal).await;
            (id, reading)
        });
    }
    gather(tasks, cut).await
}

async fn ask_one(http: &Http, url: &Url, id: &str, refusal: bool) -> CanaryReading {
    let started = Instant::now();
    let key = format!("{CANARY_PREFIX}{id}");
    let check = check(http, url, &key, UNREACHED).await.and_then(|allowed| {
        if allowed {
            Ok(started.elapsed())
        } else {
            Err(HttpError {
                status: None,
                reason: Reason::Unexpected,
                message: format!("canary check on {id}: refused under a limit of {UNREACHED}"),
            })
        }
    });
    let mut refused = None;
    if refusal && check.is_ok() {
        let key = format!("{CANARY_PREFIX}refusal:{id}");
        let first = self::check(http, url, &key, 1).await;
        let second = self::check(http, url, &key, 1).await;
        if let (Ok(first), Ok(second)) = (first, second) {
            refused = Some(refuses(first, second));
        }
    }
    CanaryReading { check, refused }
}

/// Whether the node refuses, by which of two checks under a limit of 1 it admitted. The first is refused while an earlier
/// one counts, such as that of a second exporter; when that one leaves the window between the two, the second is
/// admitted, and rightly.
fn refuses(first: bool, second: bool) -> bool {
    !(first && second)
}

async fn check(http: &Http, base: &Url, key: &str, limit: u64) -> Result<bool, HttpError> {
    let body = serde_json::json!({"key": key, "limit": limit, "window_ms": WINDOW_MS});
    let url = join(base, "check");
    let what = format!("canary POST {}", crate::observe::http::client::shown(&url));
    let answer = http.post_json(url, body.to_string()).await?;
    if answer.status == StatusCode::TOO_MANY_REQUESTS {
        return Ok(false);
    }
    Ok(answer.ok(&what)?.json::<CheckAnswer>(&what)?.allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: LatencyWindow = LatencyWindow::new(Duration::from_secs(60));

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn took(millis: u64, refused: Option<bool>) -> CanaryReading {
        CanaryReading {
            check: Ok(Duration::from_millis(millis)),
            refused,
        }
    }

    #[test]
    fn a_single_slow_canary_leaves_before_the_grace_period_ends() {
        let mut history = CanaryHistory::default();
        let timeout = Duration::from_secs(1);
        history.add(at(0), &took(500, None), timeout, WINDOW);
        for step in 1..4 {
            history.add(at(step * 15), &took(2, None), timeout, WINDOW);
            assert_eq!(history.p99(), Some(Duration::from_millis(500)));
        }
        history.add(at(60), &took(2, None), timeout, WINDOW);
        assert_eq!(history.p99(), Some(Duration::from_millis(2)));
    }

    #[test]
    fn the_newest_canaries_are_those_of_the_last_20_s_or_the_last_one() {
        let mut history = CanaryHistory::default();
        let timeout = Duration::from_secs(1);
        let mut after = |second, millis| {
            history.add(at(second), &took(millis, None), timeout, WINDOW);
            history.newest(WINDOW).map(|newest| newest.as_millis())
        };
        assert_eq!(after(0, 500), Some(500));
        assert_eq!(after(15, 2), Some(500));
        assert_eq!(after(30, 3), Some(3));
        assert_eq!(after(59, 2), Some(2));
    }

    #[test]
    fn canaries_leave_with_the_window() {
        let window = LatencyWindow::new(Duration::from_secs(12));
        let mut history = CanaryHistory::default();
        let timeout = Duration::from_secs(1);
        for (second, millis) in [(0, 500), (3, 200), (8, 2)] {
            history.add(at(second), &took(millis, None), timeout, window);
        }
        assert_eq!(history.p99(), Some(Duration::from_millis(500)));
        assert_eq!(history.newest(window), Some(Duration::from_millis(2)));
        history.add(at(12), &took(2, None), timeout, window);
        assert_eq!(history.p99(), Some(Duration::from_millis(200)));
    }

    #[test]
    fn refusals_are_asked_now_and_then_and_always_after_a_failure() {
        let mut history = CanaryHistory::default();
        let timeout = Duration::from_secs(1);
        assert!(history.refusal_due(at(0)));
        history.add(at(0), &took(1, Some(true)), timeout, WINDOW);
        assert!(!history.refusal_due(at(15)));
        assert!(history.refusal_due(at(30)));
        history.add(at(30), &took(1, Some(false)), timeout, WINDOW);
        assert!(history.refusal_due(at(31)));
        history.add(at(31), &took(1, None), timeout, WINDOW);
        assert_eq!(history.refused(at(31)), Some(false));
    }

    fn failed(status: u16) -> CanaryReading {
        let error = HttpError {
            status: StatusCode::from_u16(status).ok(),
            reason: Reason::HttpStatus,
            message: String::new(),
        };
        CanaryReading {
            check: Err(error),
            refused: None,
        }
    }

    #[test]
    fn a_refusal_that_is_not_answered_any_more_is_not_ok_for_ever() {
        let timeout = Duration::from_secs(1);
        for refused in [true, false] {
            let mut history = CanaryHistory::default();
            history.add(at(0), &took(1, Some(refused)), timeout, WINDOW);
            history.add(at(15), &failed(500), timeout, WINDOW);
            assert_eq!(history.refused(at(15)), Some(refused));
            history.add(at(30), &failed(500), timeout, WINDOW);
            assert_eq!(history.refused(at(30)), None);
            history.add(at(45), &took(1, Some(true)), timeout, WINDOW);
            assert_eq!(history.refused(at(45)), Some(true));
        }
    }

    #[test]
    fn the_first_canary_that_works_after_failures_says_since_when_they_failed() {
        let timeout = Duration::from_secs(1);
        let mut history = CanaryHistory::default();
        assert_eq!(history.add(at(0), &took(1, None), timeout, WINDOW), None);
        assert_eq!(history.add(at(15), &failed(500), timeout, WINDOW), None);
        assert_eq!(history.add(at(30), &failed(500), timeout, WINDOW), None);
        // The API's shape says nothing about Redis.
        assert_eq!(history.add(at(45), &failed(404), timeout, WINDOW), None);
        assert_eq!(
            history.add(at(60), &took(1, None), timeout, WINDOW),
            Some(at(0))
        );
        assert_eq!(history.add(at(75), &took(1, None), timeout, WINDOW), None);
    }

    #[test]
    fn a_node_that_refuses_one_of_two_does_not_fail_open() {
        assert!(!refuses(true, true));
        assert!(refuses(true, false));
        assert!(refuses(false, false));
        // The window of another exporter's canary turned over between the two.
        assert!(refuses(false, true));
    }
}
