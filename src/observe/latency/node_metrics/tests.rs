//! Latency over time: a node's histogram and the checker together, scrape by scrape, with the time passed in.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::*;
use crate::clock::Moment;
use crate::invariants::{Checker, CheckerConfig};
use crate::observation::{Node, Observation};
use crate::report::{InvariantName, Report};
use crate::subject::InvariantChecker as _;

#[test]
fn too_many_results_do_not_become_series() {
    let one = |n| format!("ratelimiter_requests_checked_total{{result=\"{n}\"}} 1\n");
    let text: String = (0..=MOST_RESULTS).map(one).collect();
    let error = ScrapedMetrics::parse(&text, &WantedSeries::of_reference()).unwrap_err();
    assert!(error.contains("101 results"), "{error}");
}

#[test]
fn an_invalid_sum_loses_only_the_sum() {
    let text = "ratelimiter_check_duration_seconds_bucket{le=\"0.1\"} 3\n\
                ratelimiter_check_duration_seconds_bucket{le=\"+Inf\"} 3\n\
                ratelimiter_check_duration_seconds_sum NaN\n\
                ratelimiter_requests_checked_total{result=\"allowed\"} 3\n\
                ratelimiter_requests_checked_total{result=\"odd\"} NaN\n\
                http_requests_total{handler=\"/x\",status=\"200\"} NaN\n\
                http_requests_total{handler=\"/check\",status=\"200\"} 3\n";
    let reading = ScrapedMetrics::parse(text, &WantedSeries::of_reference()).unwrap();
    let results: Vec<_> = reading.requests_checked.iter().collect();
    assert_eq!(results, [(&"allowed".to_owned(), &3.0)]);
    assert_eq!(reading.check_errors, Some(0.0));
    let mut history = LatencyHistory::default();
    let metrics = history.add(
        Timestamp::UNIX_EPOCH,
        &reading,
        &WantedSeries::of_reference(),
        LatencyWindow::default(),
        false,
    );
    let histogram = metrics.check_duration.unwrap();
    assert_eq!((histogram.count, histogram.sum), (3.0, None));
    // A count that a verdict depends on is an error if it is invalid.
    let text = text.replace("status=\"200\"} 3", "status=\"200\"} NaN");
    let error = ScrapedMetrics::parse(&text, &WantedSeries::of_reference()).unwrap_err();
    assert!(
        error.starts_with("line 7: http_requests_total is NaN"),
        "{error}"
    );
}

#[test]
fn an_invalid_histogram_is_reported_and_the_next_one_is_used() {
    let broken = "ratelimiter_check_duration_seconds_bucket{le=\"0.1\"} NaN\n";
    let reading = |text: &str| ScrapedMetrics::parse(text, &WantedSeries::of_reference()).unwrap();
    let mut history = LatencyHistory::default();
    let metrics = history.add(
        Timestamp::UNIX_EPOCH,
        &reading(broken),
        &WantedSeries::of_reference(),
        LatencyWindow::default(),
        false,
    );
    assert_eq!(
        metrics.latency_unknown.as_deref(),
        Some("invalid_histogram")
    );
    let other = broken.to_owned() + "http_request_duration_seconds_count{handler=\"/check\"} 1\n";
    let metrics = history.add(
        Timestamp::UNIX_EPOCH,
        &reading(&other),
        &WantedSeries::of_reference(),
        LatencyWindow::default(),
        false,
    );
    assert_eq!(metrics.latency_unknown.as_deref(), Some("first_sample"));
}

/// The bucket bounds of the limiter's own histogram, in ms.
const FINE: [i64; 9] = [1, 5, 10, 25, 50, 100, 250, 500, 1000];

/// The bucket bounds of the web framework's histogram. The threshold of 50 ms lies inside the first bucket.
const COARSE: [i64; 3] = [100, 1000, 10_000];

/// One check: its end and its duration, in ms.
type Check = (i64, i64);

/// Checks that begin at even intervals, `a_second` of them, and take `took(begin)`.
fn checks(seconds: i64, a_second: i64, took: impl Fn(i64) -> i64) -> Vec<Check> {
    let begins = (0..seconds * a_second).map(|n| n * 1000 / a_second + 137);
    begins
        .map(|begin| (begin + took(begin), took(begin)))
        .collect()
}

/// The duration of a check that begins at `begin`. Checks that begin in one of `stalls` (from, to) wait for its end.
fn stalled(begin: i64, stalls: &[(i64, i64)]) -> i64 {
    let stall = stalls
        .iter()
        .find(|(from, to)| (*from..*to).contains(&begin));
    stall.map_or(2, |(_, to)| to - begin + 2)
}

/// Scrapes every `period` ms.
fn every(period: i64, until: i64) -> Vec<i64> {
    (0..=until / period).map(|n| n * period).collect()
}

/// The scrapes of two servers, each every `period` ms.
fn two_servers(period: i64, apart: i64, until: i64) -> Vec<i64> {
    let mut times = every(period, until);
    times.extend(every(period, until - apart).iter().map(|at| at + apart));
    times.sort_unstable();
    times
}

/// Usual scrape times: from every second to every five minutes, and by two servers.
fn rhythms(until: i64) -> Vec<Vec<i64>> {
    let mut rhythms: Vec<Vec<i64>> = [1, 2, 5, 10, 15, 20, 30, 60, 120, 300]
        .map(|seconds| every(seconds * 1000, until))
        .to_vec();
    for (period, apart) in [(15, 1), (15, 7), (30, 2), (60, 1), (60, 25)] {
        rhythms.push(two_servers(period * 1000, apart * 1000, until));
    }
    rhythms
}

/// The status of `high_latency` at one scrape.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Status {
    Reported,
    Pending,
    Unknown,
    Inconclusive,
    Holds,
}

fn status_of(report: &Report) -> Status {
    let status = report.invariants.iter();
    let status = status
        .filter(|status| status.config.name == InvariantName::HighLatency)
        .collect::<Vec<_>>()[0];
    if status.violations > 0 {
        Status::Reported
    } else if status.pending > 0 {
        Status::Pending
    } else if !status.unknown.is_empty() {
        Status::Unknown
    } else if !status.inconclusive.is_empty() {
        Status::Inconclusive
    } else {
        Status::Holds
    }
}

/// A node's histogram.
struct Counts<'a> {
    edges: &'a [i64],
    /// How many checks took no longer than each bound.
    up_to: Vec<u64>,
    all: u64,
}

impl Counts<'_> {
    fn count(&mut self, took: i64) {
        self.all += 1;
        for (edge, count) in self.edges.iter().zip(&mut self.up_to) {
            *count += u64::from(took <= *edge);
        }
    }

    fn text(&self) -> String {
        let name = "ratelimiter_check_duration_seconds";
        let mut text = String::new();
        for (edge, count) in self.edges.iter().zip(&self.up_to) {
            let (seconds, millis) = (edge / 1000, edge % 1000);
            let _ = writeln!(
                text,
                "{name}_bucket{{le=\"{seconds}.{millis:03}\"}} {count}"
            );
        }
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {}", self.all);
        text
    }
}

/// The status at each scrape.
fn replay(edges: &[i64], checks: &[Check], scrapes: &[i64]) -> Vec<(i64, Status)> {
    replay_over(LatencyWindow::default(), edges, checks, scrapes)
}

/// The status at each scrape, with the p99 of another window.
fn replay_over(
    window: LatencyWindow,
    edges: &[i64],
    checks: &[Check],
    scrapes: &[i64],
) -> Vec<(i64, Status)> {
    let mut checks = checks.to_vec();
    checks.sort_unstable();
    let selectors = WantedSeries::of_reference();
    let mut history = LatencyHistory::default();
    let mut checker = Checker::new(CheckerConfig::default());
    let node: Node = serde_json::from_str("{\"id\":\"n\",\"state\":\"Up\"}").unwrap();
    let mut counts = Counts {
        edges,
        up_to: vec![0; edges.len()],
        all: 0,
    };
    let mut ended = checks.iter().peekable();
    let look = |at: &i64| {
        while let Some((_, took)) = ended.next_if(|(ended, _)| ended <= at) {
            counts.count(*took);
        }
        let reading = ScrapedMetrics::parse(&counts.text(), &selectors).unwrap();
        let now = Timestamp::from_millisecond(1_700_000_000_000 + at).unwrap();
        let metrics = history.add(now, &reading, &selectors, window, false);
        let observation = Observation {
            nodes: vec![node.clone()],
            node_metrics: BTreeMap::from([("n".to_owned(), metrics)]),
            latency_window_seconds: window,
            redis_connected: Some(true),
            ..Observation::default()
        };
        (
            *at,
            status_of(&checker.check(Moment::from_wall(now), &observation)),
        )
    };
    scrapes.iter().map(look).collect()
}

fn never_reported(what: &str, edges: &[i64], checks: &[Check], until: i64) {
    for scrapes in rhythms(until) {
        let statuses = replay(edges, checks, &scrapes);
        let reported = statuses
            .iter()
            .find(|(_, status)| *status == Status::Reported);
        assert_eq!(
            reported,
            None,
            "{what}, edges {edges:?}, scraped at {:?}: {statuses:?}",
            &scrapes[..4]
        );
    }
}

#[test]
fn two_short_stalls_are_not_reported() {
    for edges in [&FINE[..], &COARSE[..]] {
        for from in [60_000, 65_100, 89_100] {
            for (apart, lasts) in [(100_000, 800), (40_000, 2_000)] {
                let again = from + apart;
                let stalls = [(from, from + lasts), (again, again + lasts)];
                for a_second in [1, 3] {
                    let checks = checks(400, a_second, |begin| stalled(begin, &stalls));
                    never_reported("two stalls", edges, &checks, 400_000);
                }
            }
        }
    }
}

#[test]
fn an_outage_that_is_over_is_not_reported_later() {
    for edges in [&FINE[..], &COARSE[..]] {
        for from in [60_000, 71_100] {
            let stall = [(from, from + 20_000)];
            // The checks wait for Redis, or give up after a second.
            let waits = |begin| stalled(begin, &stall);
            let gives_up = |begin| stalled(begin, &stall).min(1000);
            // After the outage, traffic goes on or ends.
            for a_second in [1, 10] {
                never_reported("waits", edges, &checks(380, a_second, waits), 380_000);
                never_reported("gives up", edges, &checks(380, a_second, gives_up), 380_000);
                let until = from / 1000 + 20;
                never_reported(
                    "idle after",
                    edges,
                    &checks(until, a_second, waits),
                    380_000,
                );
            }
        }
    }
}

#[test]
fn a_repaired_node_is_soon_no_longer_reported() {
    for edges in [&FINE[..], &COARSE[..]] {
        for (a_second, lasts) in [(1, 20_000), (10, 20_000), (100, 20_000)] {
            let slow = |begin| {
                if (60_000..135_000).contains(&begin) {
                    300
                } else {
                    2
                }
            };
            let checks = checks(400, a_second, slow);
            for scrapes in rhythms(400_000).into_iter().take(5) {
                let statuses = replay(edges, &checks, &scrapes);
                let last = statuses
                    .iter()
                    .rfind(|(_, status)| *status == Status::Reported);
                let last = last.map(|(at, _)| *at);
                let period = scrapes[1] - scrapes[0];
                let latest = 135_300 + lasts.max(period);
                assert!(
                    last.is_some_and(|at| (120_000..=latest).contains(&at)),
                    "{a_second} a second, every {period} ms: last reported {last:?}: {statuses:?}"
                );
            }
        }
    }
}

#[test]
fn a_repaired_node_is_reported_for_a_third_of_the_window_at_most() {
    let slow = |begin| {
        if (600_000..735_000).contains(&begin) {
            300
        } else {
            2
        }
    };
    let checks = checks(1000, 100, slow);
    let mut ends = Vec::new();
    for seconds in [10, 60, 600] {
        let window = LatencyWindow::new(std::time::Duration::from_secs(seconds));
        let statuses = replay_over(window, &FINE, &checks, &every(1000, 1_000_000));
        let reported = |(at, status): &(i64, Status)| (*status == Status::Reported).then_some(*at);
        let (first, last) = (
            statuses.iter().find_map(reported),
            statuses.iter().rev().find_map(reported),
        );
        let window = i64::try_from(seconds).unwrap() * 1000;
        let third = window / 3;
        // The p99 is slow only after a hundredth of the window.
        let latest = 662_000 + window / 100;
        assert!(
            first.is_some_and(|at| (660_000..=latest).contains(&at)),
            "{seconds} s: {first:?}"
        );
        assert!(
            last.is_some_and(|at| (735_000..=736_000 + third).contains(&at)),
            "{seconds} s: {last:?}"
        );
        ends.extend(last);
    }
    assert!(ends.is_sorted() && ends[0] < ends[2], "{ends:?}");
}

#[test]
fn a_slow_node_is_reported_at_any_scrape_interval() {
    for edges in [&FINE[..], &COARSE[..]] {
        // All checks are slow, one in five, or one in thirty.
        let all = |begin| if begin >= 60_000 { 300 } else { 2 };
        let fifth = |begin| {
            if begin >= 60_000 && begin / 1000 % 5 == 0 {
                300
            } else {
                2
            }
        };
        let thirtieth = |begin| {
            if begin >= 60_000 && begin / 1000 % 30 == 0 {
                300
            } else {
                2
            }
        };
        for (checks, apart) in [
            (checks(1500, 1, all), 0),
            (checks(1500, 10, all), 0),
            (checks(1500, 1, fifth), 0),
            (checks(1500, 1, thirtieth), 30_000),
        ] {
            for scrapes in rhythms(1_380_000) {
                let statuses = replay(edges, &checks, &scrapes);
                let first = statuses
                    .iter()
                    .find(|(_, status)| *status == Status::Reported);
                let period = scrapes[2] - scrapes[0];
                // Noticed at the second scrape at the latest, and proved by the first slow check that comes a minute later,
                // and is newer than all that are read together.
                let together = if apart > 0 { period.max(10_000) } else { 0 };
                let proved = 60_000 + period + apart + together;
                let latest = 60_000 + 30_000 + 2 * period + proved.max(2 * period);
                assert!(
                    first.is_some_and(|(at, _)| *at >= 120_000 && *at <= latest),
                    "every {period} ms: {first:?}, at the latest {latest}: {statuses:?}"
                );
                let rest = statuses
                    .iter()
                    .skip_while(|(at, _)| Some(*at) < first.map(|it| it.0));
                assert!(
                    rest.clone().all(|(_, status)| *status == Status::Reported),
                    "every {period} ms: {statuses:?}"
                );
            }
        }
    }
}
