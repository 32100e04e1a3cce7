//! A collection as tables for people, below one line that sums it up.

use std::fmt::Write as _;

use crate::overall_status::headline;
use crate::snapshot::Snapshot;
use crate::text_table::{shown, write_table};

/// Keys that the table shows.
const MOST_KEYS: usize = 10;

/// Characters of the bar of a key that has used up its limit.
const BAR: usize = 10;

/// The collection as tables: invariants, nodes, the fullest keys, and what was not read.
pub fn table(snapshot: &Snapshot) -> String {
    let mut out = headline(&snapshot.report) + "\n\n";
    write_table(&mut out, &invariant_rows(snapshot));
    out.push('\n');
    write_table(&mut out, &node_rows(snapshot));
    out.push('\n');
    write_table(&mut out, &key_rows(snapshot));
    let totals = snapshot.observation.totals.as_ref();
    let listed = snapshot.observation.counters.len().min(MOST_KEYS) as u64;
    let more = totals.map_or(0, |totals| totals.keys.saturating_sub(listed));
    if more > 0 {
        // Writing into a String cannot fail.
        let _ = writeln!(out, "… and {more} keys more");
    }
    if !snapshot.observation.failures.is_empty() {
        out.push_str("\nNOT READ\n");
    }
    for failure in &snapshot.observation.failures {
        let (source, reason) = (failure.collector.name(), failure.reason);
        let _ = writeln!(out, "{source} ({reason}): {}", shown(&failure.message));
    }
    out
}

fn invariant_rows(snapshot: &Snapshot) -> Vec<[String; 4]> {
    let mut rows = vec![["INVARIANT", "STATE", "SUBJECT", "WHAT"].map(str::to_owned)];
    let report = &snapshot.report;
    for status in &report.invariants {
        let name = status.config.name;
        let before = rows.len();
        let mut add = |state: &str, subject: &str, what: &str| {
            let (subject, what) = (shown(subject), shown(what));
            rows.push([name.to_string(), state.to_owned(), subject, what]);
        };
        for violation in report.violations.iter().filter(|it| it.name == name) {
            add("VIOLATED", &violation.subject, &violation.message);
        }
        for pending in report.pending.iter().filter(|it| it.name == name) {
            let grace = status.config.grace_period;
            let left = pending.grace_left.as_secs_f64().ceil();
            let what = format!("{left} s left of {grace:?}: {}", pending.message);
            add("PENDING", &pending.subject, &what);
        }
        if status.dropped > 0 {
            let what = format!("and {} subjects more", status.dropped);
            add("VIOLATED", "", &what);
        }
        for (state, list) in [
            ("unknown", &status.unknown),
            ("inconclusive", &status.inconclusive),
        ] {
            for it in list {
                add(state, &it.subject, &it.reason);
            }
        }
        if rows.len() == before {
            rows.push([name.name(), "ok", "", ""].map(str::to_owned));
        }
    }
    rows
}

fn node_rows(snapshot: &Snapshot) -> Vec<[String; 5]> {
    let mut rows = vec![["NODE", "ADDRESS", "STATE", "REDIS", "P99"].map(str::to_owned)];
    for node in &snapshot.observation.nodes {
        let metrics = snapshot.observation.node_metrics.get(&node.id);
        let p99 = metrics.and_then(|metrics| match metrics.latency_p99_ms {
            Some(ms) => Some(format!("{ms:.1} ms")),
            None => metrics.latency_p99_bucket.map(|bucket| bucket.in_millis()),
        });
        let redis = match node.redis_connected {
            Some(true) => "connected",
            Some(false) => "DISCONNECTED",
            None => "unknown",
        };
        rows.push([
            shown(&node.id),
            shown(node.address.as_deref().unwrap_or("-")),
            shown(node.state.as_deref().unwrap_or("unknown")),
            redis.to_owned(),
            p99.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    rows
}

fn key_rows(snapshot: &Snapshot) -> Vec<[String; 6]> {
    let mut rows = vec![["KEY", "COUNT", "LIMIT", "LEFT", "USED", ""].map(str::to_owned)];
    let fullest = snapshot.observation.counters.iter().take(MOST_KEYS);
    rows.extend(fullest.map(|counter| {
        [
            shown(&counter.key),
            counter.count.to_string(),
            counter.limit.to_string(),
            counter.remaining.to_string(),
            share(counter.utilization()),
            bar(counter.utilization()),
        ]
    }));
    rows
}

fn share(used: f64) -> String {
    if used.is_finite() {
        format!("{:.0} %", used * 100.0)
    } else {
        "∞".to_owned()
    }
}

/// A bar beside the figure. An arrow means above the limit.
fn bar(used: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between nothing and the whole bar"
    )]
    #[expect(clippy::cast_precision_loss, reason = "a bar's length")]
    let full = (used.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    let over = if used > 1.0 { "▶" } else { "" };
    "█".repeat(full) + &"░".repeat(BAR - full) + over
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_p99_of_which_only_the_bucket_is_known_is_shown_as_the_bucket() {
        let bucket = |lower, upper| crate::observation::Bucket { lower, upper };
        assert_eq!(bucket(0.0, Some(0.1)).in_millis(), "0 to 100 ms");
        assert_eq!(bucket(0.07, Some(0.25)).in_millis(), "70 to 250 ms");
        assert_eq!(bucket(0.0125, None).in_millis(), "above 12.5 ms");
    }

    #[test]
    fn bars_are_as_long_as_the_share_that_is_used() {
        assert_eq!(bar(0.0), "░░░░░░░░░░");
        assert_eq!(bar(0.52), "█████░░░░░");
        assert_eq!(bar(1.0), "██████████");
        assert_eq!(bar(1.2), "██████████▶");
        assert_eq!(
            (bar(f64::INFINITY), share(f64::INFINITY)),
            ("██████████▶".to_owned(), "∞".to_owned())
        );
    }
}
