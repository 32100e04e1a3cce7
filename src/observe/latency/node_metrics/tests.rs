//! Latency over time: what a node's histogram and the checker say together, scrape by scrape, with the time passed in.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::*;
use crate::clock::Moment;
use crate::invariants::{Checker, CheckerConfig};
use crate::observation::{Node, Observation};
use crate::report::{InvariantName, Report};
use crate::subject::InvariantChecker as _;

#[test]
fn results_without_end_do_not_become_series() {
    let one = |n| format!("ratelimiter_requests_checked_total{{result=\"{n}\"}} 1\n");
    let text: String = (0..=MOST_RESULTS).map(one).collect();
    let error = ScrapedMetrics::parse(&text, &WantedSeries::of_reference()).unwrap_err();
    assert!(error.contains("101 results"), "{error}");
}

#[test]
fn one_sum_that_is_no_number_costs_the_sum_alone() {
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
    // What a verdict rests on is there as a whole or not at all.
    let text = text.replace("status=\"200\"} 3", "status=\"200\"} NaN");
    let error = ScrapedMetrics::parse(&text, &WantedSeries::of_reference()).unwrap_err();
    assert!(
        error.starts_with("line 7: http_requests_total is NaN"),
        "{error}"
    );
}

#[test]
fn a_histogram_of_no_numbers_is_named_and_the_next_one_is_used() {
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

/// The edges of the limiter's own histogram, in ms.
const FINE: [i64; 9] = [1, 5, 10, 25, 50, 100, 250, 500, 1000];

/// Those of the web framework: the threshold of 50 ms lies inside the first bucket.
const COARSE: [i64; 3] = [100, 1000, 10_000];

/// One check: when it ended, and how long it took, in ms.
type Check = (i64, i64);

/// Checks that begin evenly, `a_second` of them, and take `took(begin)`.
fn checks(seconds: i64, a_second: i64, took: impl Fn(i64) -> i64) -> Vec<Check> {
    let begins = (0..seconds * a_second).map(|n| n * 1000 / a_second + 137);
    begins
        .map(|begin| (begin + took(begin), took(begin)))
        .collect()
}

/// How long a check takes that begins at `begin`, when everything stands still in `stalls`, from and to.
fn stalled(begin: i64, stalls: &[(i64, i64)]) -> i64 {
    let stall = stalls
        .iter()
        .find(|(from, to)| (*from..*to).contains(&begin));
    stall.map_or(2, |(_, to)| to - begin + 2)
}

/// Every `period` ms.
fn every(period: i64, until: i64) -> Vec<i64> {
    (0..=until / period).map(|n| n * period).collect()
}

/// Two servers, each every `period` ms.
fn two_servers(period: i64, apart: i64, until: i64) -> Vec<i64> {
    let mut times = every(period, until);
    times.extend(every(period, until - apart).iter().map(|at| at + apart));
    times.sort_unstable();
    times
}

/// What is usual: scrapes from every second to every five minutes, and two servers.
fn rhythms(until: i64) -> Vec<Vec<i64>> {
    let mut rhythms: Vec<Vec<i64>> = [1, 2, 5, 10, 15, 20, 30, 60, 120, 300]
        .map(|seconds| every(seconds * 1000, until))
        .to_vec();
    for (period, apart) in [(15, 1), (15, 7), (30, 2), (60, 1), (60, 25)] {
        rhythms.push(two_servers(period * 1000, apart * 1000, until));
    }
    rhythms
}

/// What one scrape said of `high_latency`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Said {
    Reported,
    Pending,
    Unknown,
    Inconclusive,
    Holds,
}

fn said(report: &Report) -> Said {
    let status = report.invariants.iter();
    let status = status
        .filter(|status| status.config.name == InvariantName::HighLatency)
        .collect::<Vec<_>>()[0];
    if status.violations > 0 {
        Said::Reported
    } else if status.pending > 0 {
        Said::Pending
    } else if !status.unknown.is_empty() {
        Said::Unknown
    } else if !status.inconclusive.is_empty() {
        Said::Inconclusive
    } else {
        Said::Holds
    }
}

/// A node's histogram.
struct Counts<'a> {
    edges: &'a [i64],
    /// How many checks took no longer than each edge.
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

/// What is said at each scrape.
fn replay(edges: &[i64], checks: &[Check], scrapes: &[i64]) -> Vec<(i64, Said)> {
    replay_over(LatencyWindow::default(), edges, checks, scrapes)
}

/// The same with the p99 of another window.
fn replay_over(
    window: LatencyWindow,
    edges: &[i64],
    checks: &[Check],
    scrapes: &[i64],
) -> Vec<(i64, Said)> {
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
            said(&checker.check(Moment::from_wall(now), &observation)),
        )
    };
    scrapes.iter().map(look).collect()
}

fn never_reported(what: &str, edges: &[i64], checks: &[Check], until: i64) {
    for scrapes in rhythms(until) {
        let said = replay(edges, checks, &scrapes);
        let reported = said.iter().find(|(_, said)| *said == Said::Reported);
        assert_eq!(
            reported,
            None,
            "{what}, edges {edges:?}, scraped at {:?}: {said:?}",
            &scrapes[..4]
        );
    }
}

#[test]
fn two_short_stalls_100_s_apart_are_not_reported() {
    for edges in [&FINE[..], &COARSE[..]] {
        for from in [60_000, 65_100, 89_100] {
            let stalls = [(from, from + 800), (from + 100_000, from + 100_800)];
            for a_second in [1, 3] {
                let checks = checks(400, a_second, |begin| stalled(begin, &stalls));
                never_reported("two stalls", edges, &checks, 400_000);
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
            // With other traffic after it, as before, or none.
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
fn what_was_slow_and_is_repaired_is_soon_no_longer_reported() {
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
                let said = replay(edges, &checks, &scrapes);
                let last = said.iter().rfind(|(_, said)| *said == Said::Reported);
                let last = last.map(|(at, _)| *at);
                let period = scrapes[1] - scrapes[0];
                let latest = 135_300 + lasts.max(period);
                assert!(
                    last.is_some_and(|at| (120_000..=latest).contains(&at)),
                    "{a_second} a second, every {period} ms: last reported {last:?}: {said:?}"
                );
            }
        }
    }
}

#[test]
fn what_is_repaired_is_reported_for_a_third_of_the_window_at_most() {
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
        let said = replay_over(window, &FINE, &checks, &every(1000, 1_000_000));
        let reported = |(at, said): &(i64, Said)| (*said == Said::Reported).then_some(*at);
        let (first, last) = (
            said.iter().find_map(reported),
            said.iter().rev().find_map(reported),
        );
        let window = i64::try_from(seconds).unwrap() * 1000;
        let third = window / 3;
        // A hundredth of the window must be slow first.
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
fn what_stays_slow_is_reported_however_often_it_is_scraped() {
    for edges in [&FINE[..], &COARSE[..]] {
        // All of them, one in five, and few of few.
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
        // Between slow checks that are 30 s apart, up to half of the time does not count: none came.
        for (checks, uncounted) in [
            (checks(1500, 1, all), 0),
            (checks(1500, 10, all), 0),
            (checks(1500, 1, fifth), 0),
            (checks(1500, 1, thirtieth), 60_000),
        ] {
            for scrapes in rhythms(1_380_000) {
                let said = replay(edges, &checks, &scrapes);
                let first = said.iter().find(|(_, said)| *said == Said::Reported);
                let period = scrapes[2] - scrapes[0];
                // Seen at the second scrape after it began, at the latest, and proved for a minute from then on.
                if uncounted > 0 && period > 20_000 {
                    // Few slow checks and few scrapes may prove it for moments only: it is pending at the least.
                    let from = 60_000 + 30_000 + 2 * period;
                    let mut late = said.iter().filter(|(at, _)| *at > from);
                    assert!(
                        late.all(|(_, said)| matches!(said, Said::Pending | Said::Reported)),
                        "every {period} ms: {said:?}"
                    );
                    continue;
                }
                let proved = 60_000 + uncounted + period;
                let latest = 60_000 + 30_000 + 2 * period + proved.max(2 * period);
                assert!(
                    first.is_some_and(|(at, _)| *at >= 120_000 && *at <= latest),
                    "every {period} ms: {first:?}, at the latest {latest}: {said:?}"
                );
                let rest = said
                    .iter()
                    .skip_while(|(at, _)| Some(*at) < first.map(|it| it.0));
                assert!(
                    rest.clone().all(|(_, said)| *said == Said::Reported),
                    "every {period} ms: {said:?}"
                );
            }
        }
    }
}
