//! The canary: the exporter sends a real request to a node, as the description of the kind says. Off by default. Each costs
//! a node one check and Redis two small keys, which the sweep skips.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::{Method, Url};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock::elapsed;
use crate::limiters::{Canary, Template};
use crate::observation::{LatencyWindow, Reason};
use crate::observe::http::client::{Http, HttpError};
use crate::observe::http::management_api::place_on;
use crate::observe::nodes::probes::gather;
use crate::text::percent_encoded;

/// The mark in the names of the canary's counters. It is found even if a limiter escapes the colon of [`CANARY_PREFIX`].
const CANARY_MARK: &str = "ratelimiter-exporter-canary";

/// The prefix of every canary key. Such keys do not belong to any client.
const CANARY_PREFIX: &str = "ratelimiter-exporter-canary:";

/// Whether a counter of this name counts canary requests of an exporter.
pub(in crate::observe) fn is_canary(name: &[u8]) -> bool {
    let mark = CANARY_MARK.as_bytes();
    name.windows(mark.len()).any(|part| part == mark)
}

/// A limit that one check per collection never reaches.
const UNREACHED: u64 = 1_000_000;

/// The window of the canary keys: short, so that they expire soon.
const WINDOW: Duration = Duration::from_secs(10);

/// How many requests under a limit of 1 a node must admit before it counts as failing open. Between two requests, the count
/// may be lost: Redis was flushed, restarted or failed over, a fixed window ended, or a clock jumped. That does not happen
/// twice within a moment.
const ADMITTED: u32 = 3;

/// How often a node is sent a request that it must refuse. After it failed to refuse, at every collection.
const REFUSAL_EVERY: Duration = Duration::from_secs(30);

/// The result of one node's canary.
#[derive(Debug)]
pub(in crate::observe) struct CanaryReading {
    /// How long the check took, or how it failed.
    pub(in crate::observe) check: Result<Duration, HttpError>,
    /// Whether one of the checks under a limit of 1 was refused. `None` if none was due, or not all were answered in time.
    pub(in crate::observe) refused: Option<bool>,
}

impl CanaryReading {
    /// Whether the node does not reach Redis: it answered 5xx, or timed out. Other failures concern the API, not Redis.
    pub(in crate::observe) fn is_cut_off(&self) -> bool {
        let Err(error) = &self.check else {
            return false;
        };
        let server_error = error.status.is_some_and(|status| status.is_server_error());
        server_error || error.reason == Reason::Timeout
    }
}

/// The history of one node's canaries.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct CanaryHistory {
    latencies: VecDeque<(Timestamp, Duration)>,
    refused: Option<bool>,
    /// When `refused` was last answered.
    refusal_asked: Option<Timestamp>,
    last: Option<Timestamp>,
    /// When the last canary before the node lost Redis was sent.
    cut_off: Option<Timestamp>,
}

impl CanaryHistory {
    /// Whether a request that must be refused is due.
    pub(in crate::observe) fn refusal_due(&self, now: Timestamp) -> bool {
        self.refused == Some(false)
            || self
                .refusal_asked
                .is_none_or(|asked| elapsed(asked, now) >= REFUSAL_EVERY)
    }

    /// Adds a reading. If this canary succeeded after canaries that did not reach Redis, returns when the last one before
    /// those was sent.
    pub(in crate::observe) fn add(
        &mut self,
        now: Timestamp,
        reading: &CanaryReading,
        timeout: Duration,
        window: LatencyWindow,
    ) -> Option<Timestamp> {
        let took = match &reading.check {
            Ok(took) => Some(*took),
            // The check took at least that long.
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

    /// Whether the node refuses what it must. `None` once the next request was due and had no answer.
    pub(in crate::observe) fn refused(&self, now: Timestamp) -> Option<bool> {
        let asked = self.refusal_asked?;
        self.refused.filter(|_| elapsed(asked, now) < REFUSAL_EVERY)
    }

    /// The slowest of the newest canaries: those within [`LatencyWindow::newest`], or the last one.
    pub(in crate::observe) fn newest(&self, window: LatencyWindow) -> Option<Duration> {
        let (last, _) = *self.latencies.back()?;
        let newest = self.latencies.iter();
        let newest = newest.filter(|(at, _)| elapsed(*at, last) <= window.newest());
        newest.map(|(_, took)| *took).max()
    }

    /// The p99 of the window: the slowest canary, because there are only few.
    pub(in crate::observe) fn p99(&self) -> Option<Duration> {
        self.latencies.iter().map(|(_, took)| *took).max()
    }
}

/// Asks each node (id, base URL, whether a refusal is due). Nodes that have not answered when `cut` resolves are missing.
pub(in crate::observe) async fn ask_canaries(
    http: &Http,
    canary: &Arc<Canary>,
    nodes: Vec<(String, Url, bool)>,
    cut: impl Future<Output = ()>,
) -> BTreeMap<String, CanaryReading> {
    let mut tasks = JoinSet::new();
    for (id, url, refusal) in nodes {
        let (http, canary) = (http.clone(), Arc::clone(canary));
        tasks.spawn(async move {
            let reading = ask_one(&http, &canary, &url, &id, refusal).await;
            (id, reading)
        });
    }
    gather(tasks, cut).await
}

async fn ask_one(
    http: &Http,
    canary: &Canary,
    url: &Url,
    id: &str,
    refusal: bool,
) -> CanaryReading {
    let started = Instant::now();
    let key = format!("{CANARY_PREFIX}{id}");
    let check = match check(http, canary, url, &key, UNREACHED).await {
        // If the canary cannot set its limit, other clients may have used up the limit, and a refusal is right.
        Ok(false) if canary.sets_limit() => {
            let message = format!("canary check on {id}: refused under a limit of {UNREACHED}");
            Err(HttpError::new(Reason::Unexpected, message))
        }
        Ok(_) => Ok(started.elapsed()),
        Err(error) => Err(error),
    };
    let mut refused = None;
    if refusal && canary.sets_limit() && check.is_ok() {
        let key = format!("{CANARY_PREFIX}refusal:{id}");
        refused = refuses(|| self::check(http, canary, url, &key, 1)).await;
    }
    CanaryReading { check, refused }
}

/// Whether one of [`ADMITTED`] checks under a limit of 1 is refused. `ask` sends a check and returns whether it was
/// admitted. The first may be refused because an earlier check still counts, such as that of a second exporter.
async fn refuses<Answered>(mut ask: impl FnMut() -> Answered) -> Option<bool>
where
    Answered: Future<Output = Result<bool, HttpError>>,
{
    let started = Instant::now();
    for _ in 0..ADMITTED {
        if !ask().await.ok()? {
            return Some(true);
        }
    }
    // If the checks took longer than the window, the first no longer counts.
    (started.elapsed() < WINDOW).then_some(false)
}

/// Sends the canary's request. Returns whether it was admitted.
async fn check(
    http: &Http,
    canary: &Canary,
    base: &Url,
    key: &str,
    limit: u64,
) -> Result<bool, HttpError> {
    let (limit, window) = (limit.to_string(), WINDOW.as_millis().to_string());
    // The key as the content of a JSON string.
    let quoted = Value::from(key).to_string();
    let escaped = &quoted[1..quoted.len() - 1];
    let filled = |template: &Template, key: &str| {
        template.fill(|group| {
            let text = match group {
                "key" => key,
                "limit" => &limit,
                _ => &window,
            };
            Some(text.as_bytes())
        })
    };
    let headers = canary.headers.iter();
    let mut headers: Vec<(String, Vec<u8>)> = headers
        .map(|(name, value)| (name.0.to_ascii_lowercase(), filled(value, key)))
        .collect();
    let body = canary.body.as_ref().map(|body| filled(body, escaped));
    if body.is_some() && !headers.iter().any(|(name, _)| name == "content-type") {
        headers.push(("content-type".to_owned(), b"application/json".to_vec()));
    }
    let path = filled(&canary.path, &percent_encoded(key.as_bytes()).to_string());
    let place = place_on(base, canary.port, &String::from_utf8_lossy(&path));
    let place = place.unwrap_or_else(|| base.clone());
    let method = match canary.method.as_str() {
        "GET" => Method::GET,
        "PUT" => Method::PUT,
        _ => Method::POST,
    };
    let asked = http.request(base, (method, place), headers, body.unwrap_or_default());
    let mut answer = asked.await?;
    answer.what.insert_str(0, "canary ");
    if answer.status.as_u16() == canary.refused {
        return Ok(false);
    }
    let answer = answer.ok()?;
    let Some(pointer) = &canary.allowed else {
        return Ok(true);
    };
    let value: Value = answer.json()?;
    let allowed = value.pointer(&pointer.0).and_then(Value::as_bool);
    allowed.ok_or_else(|| {
        let message = format!("{}: {}: expected true or false", answer.what, pointer.0);
        HttpError::new(Reason::InvalidJson, message)
    })
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;

    const SPAN: LatencyWindow = LatencyWindow::new(Duration::from_secs(60));

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    #[test]
    fn counters_of_canaries_have_the_mark_anywhere_in_their_names() {
        for name in [
            "ratelimiter-exporter-canary:a",
            "probe/ratelimiter-exporter-canary%3Aa",
        ] {
            assert!(is_canary(name.as_bytes()), "{name}");
        }
        assert!(!is_canary(b"user:1") && !is_canary(b""));
    }

    fn took(millis: u64, refused: Option<bool>) -> CanaryReading {
        CanaryReading {
            check: Ok(Duration::from_millis(millis)),
            refused,
        }
    }

    #[test]
    fn a_single_slow_canary_leaves_the_window_before_the_grace_period_ends() {
        let mut history = CanaryHistory::default();
        let timeout = Duration::from_secs(1);
        history.add(at(0), &took(500, None), timeout, SPAN);
        for step in 1..4 {
            history.add(at(step * 15), &took(2, None), timeout, SPAN);
            assert_eq!(history.p99(), Some(Duration::from_millis(500)));
        }
        history.add(at(60), &took(2, None), timeout, SPAN);
        assert_eq!(history.p99(), Some(Duration::from_millis(2)));
    }

    #[test]
    fn the_newest_canaries_are_those_of_the_last_20_s_or_the_last_one() {
        let mut history = CanaryHistory::default();
        let timeout = Duration::from_secs(1);
        let mut after = |second, millis| {
            history.add(at(second), &took(millis, None), timeout, SPAN);
            history.newest(SPAN).map(|newest| newest.as_millis())
        };
        assert_eq!(after(0, 500), Some(500));
        assert_eq!(after(15, 2), Some(500));
        assert_eq!(after(30, 3), Some(3));
        assert_eq!(after(59, 2), Some(2));
    }

    #[test]
    fn canaries_before_the_window_do_not_count() {
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
    fn refusals_are_tested_now_and_then_and_at_every_collection_after_a_failure() {
        let mut history = CanaryHistory::default();
        let timeout = Duration::from_secs(1);
        assert!(history.refusal_due(at(0)));
        history.add(at(0), &took(1, Some(true)), timeout, SPAN);
        assert!(!history.refusal_due(at(15)));
        assert!(history.refusal_due(at(30)));
        history.add(at(30), &took(1, Some(false)), timeout, SPAN);
        assert!(history.refusal_due(at(31)));
        history.add(at(31), &took(1, None), timeout, SPAN);
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
    fn a_refusal_that_is_no_longer_answered_becomes_unknown() {
        let timeout = Duration::from_secs(1);
        for refused in [true, false] {
            let mut history = CanaryHistory::default();
            history.add(at(0), &took(1, Some(refused)), timeout, SPAN);
            history.add(at(15), &failed(500), timeout, SPAN);
            assert_eq!(history.refused(at(15)), Some(refused));
            history.add(at(30), &failed(500), timeout, SPAN);
            assert_eq!(history.refused(at(30)), None);
            history.add(at(45), &took(1, Some(true)), timeout, SPAN);
            assert_eq!(history.refused(at(45)), Some(true));
        }
    }

    #[test]
    fn the_first_success_after_failures_returns_since_when_canaries_failed() {
        let timeout = Duration::from_secs(1);
        let mut history = CanaryHistory::default();
        assert_eq!(history.add(at(0), &took(1, None), timeout, SPAN), None);
        assert_eq!(history.add(at(15), &failed(500), timeout, SPAN), None);
        assert_eq!(history.add(at(30), &failed(500), timeout, SPAN), None);
        // A 404 says nothing about Redis.
        assert_eq!(history.add(at(45), &failed(404), timeout, SPAN), None);
        assert_eq!(
            history.add(at(60), &took(1, None), timeout, SPAN),
            Some(at(0))
        );
        assert_eq!(history.add(at(75), &took(1, None), timeout, SPAN), None);
    }

    /// The verdict on a limiter that counts or not, loses its counts after the given number of checks, and takes `takes`
    /// for each check.
    async fn found(forgets_after: Option<u32>, counts: bool, takes: Duration) -> Option<bool> {
        let (mut asked, mut count) = (0, 0);
        refuses(|| {
            if forgets_after == Some(asked) {
                count = 0;
            }
            asked += 1;
            count += u32::from(counts);
            let admitted = count <= 1;
            async move {
                tokio::time::sleep(takes).await;
                Ok(admitted)
            }
        })
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn a_counter_lost_between_two_checks_does_not_count_as_failing_open() {
        let takes = Duration::from_millis(400);
        assert_eq!(found(None, true, takes).await, Some(true));
        for lost in 0..ADMITTED {
            assert_eq!(found(Some(lost), true, takes).await, Some(true), "{lost}");
        }
        assert_eq!(found(None, false, takes).await, Some(false));
    }

    #[tokio::test(start_paused = true)]
    async fn checks_that_take_longer_than_the_window_prove_nothing() {
        assert_eq!(found(None, false, WINDOW / 2).await, None);
    }

    #[tokio::test]
    async fn a_check_that_fails_proves_nothing() {
        let late = || Err(HttpError::late("POST /check", WINDOW));
        let mut answers = vec![late(), Ok(true)];
        let mut answer = || answers.pop().unwrap_or_else(late);
        assert_eq!(refuses(|| std::future::ready(answer())).await, None);
        // An earlier check still counts.
        let refused = || std::future::ready(Ok(false));
        assert_eq!(refuses(refused).await, Some(true));
    }
}
