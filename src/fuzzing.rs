//! What hostile input is thrown at: one function for each way in, which reads any bytes and asserts what must hold for
//! them all. `fuzz/` calls these with a fuzzer; the test below replays what the fuzzer found worth keeping, so that a
//! regression shows without one. Only built for tests and with the feature `fuzzing`: nothing here is API.
//!
//! Where only private items can be called, the function is beside them, in a module `fuzzing` of their own.

use crate::clock::Moment;
use crate::export::{Exporter, Reload, Unauthorized, render};
use crate::invariants::{Checker, CheckerConfig};
use crate::observation::{CounterView, KeyLabel, Observation, decode_key, encode_key};
use crate::snapshot::{OwnCounters, Snapshot};
use crate::subject::InvariantChecker as _;

pub use crate::config::fuzzing::config;
pub use crate::observe::fuzzing::{management_api, node_metrics};
pub use crate::server::fuzzing::request;

/// A function that must survive any bytes.
pub type Target = fn(&[u8]);

/// Every target by the name of its folder in `fuzz/corpus`.
pub const TARGETS: [(&str, Target); 5] = [
    ("config", config),
    ("management_api", management_api),
    ("node_metrics", node_metrics),
    ("observation", observation),
    ("request", request),
];

/// The JSON form of an observation, and keys of any bytes: both survive being written and read again, and whatever is
/// observed is checked and rendered as valid text format.
pub fn observation(data: &[u8]) {
    assert_eq!(decode_key(&encode_key(data)), data, "a key is not itself");
    let Ok(observation) = serde_json::from_slice::<Observation>(data) else {
        return;
    };
    survives_json(&observation);
    rendered(observation);
}

/// What is observed can be written as JSON and read again: replays and `/api/v1/observation` depend on it.
pub(crate) fn survives_json(observation: &Observation) {
    let written = serde_json::to_string(observation).expect("an observation is not JSON");
    let read: Observation = serde_json::from_str(&written).expect("an observation is not read");
    let again = serde_json::to_string(&read).expect("an observation is not JSON");
    assert_eq!(written, again, "an observation is not itself");
}

/// What is observed renders as text that Prometheus takes.
pub(crate) fn rendered(observation: Observation) {
    let now = Moment::from_wall(jiff::Timestamp::UNIX_EPOCH);
    let mut checker = Checker::new(CheckerConfig::default(), KeyLabel::Plain);
    for counter in &observation.counters {
        let view = CounterView {
            key: &decode_key(&counter.key),
            count: counter.count,
            limit: counter.limit,
            remaining: counter.remaining,
            window_ms: counter.window_ms,
            fell_from: counter.fell_from,
        };
        checker.counters(now, &[view]);
    }
    let snapshot = Snapshot {
        report: checker.check(now, &observation),
        observation,
        seconds: 0.0,
        own: OwnCounters::default(),
    };
    let exporter = Exporter {
        reload: Reload {
            ok: true,
            at: now.wall,
        },
        unauthorized: Unauthorized::default(),
    };
    let text = render(&snapshot, exporter).expect("the metrics are not rendered");
    valid_exposition(&text);
}

/// Panics unless Prometheus would take all of `text`. It does not share the exporter's own reader of this format, which
/// is lenient with nodes.
fn valid_exposition(text: &[u8]) {
    let text = std::str::from_utf8(text).expect("the metrics are not UTF-8");
    assert!(!text.contains('\0'), "Prometheus's lexer ends at a NUL");
    let mut families = std::collections::HashSet::new();
    let mut series = std::collections::HashSet::new();
    let mut family = "";
    for line in text.split('\n').filter(|line| !line.is_empty()) {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (kind, name) = (words.next(), words.next().unwrap_or_default());
            if kind == Some("TYPE") {
                assert!(families.insert(name), "two families {name}");
                family = name;
            }
            continue;
        }
        let (labelled, value) = line.rsplit_once(' ').expect("a sample without a value");
        assert!(value.parse::<f64>().is_ok(), "not a value: {line:?}");
        let name = labelled.split('{').next().unwrap_or_default();
        assert!(name.starts_with(family), "{name} among {family}");
        if let Some(labels) = labelled[name.len()..].strip_prefix('{') {
            valid_labels(labels);
        }
        assert!(series.insert(labelled), "two series {labelled}");
    }
}

/// Panics unless this is `name="value",…}` with every value escaped.
fn valid_labels(mut rest: &str) {
    loop {
        let (name, value) = rest.split_once("=\"").expect("a label without a value");
        let plain = name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
        assert!(plain && !name.is_empty(), "not a label: {rest:?}");
        let mut escaped = false;
        let end = value.find(|c| {
            let ends = c == '"' && !escaped;
            assert!(!escaped || matches!(c, '"' | '\\' | 'n'), "\\{c}");
            escaped = c == '\\' && !escaped;
            ends
        });
        rest = &value[end.expect("a label value without an end") + 1..];
        if rest == "}" {
            return;
        }
        rest = rest.strip_prefix(',').expect("labels without a comma");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fuzzing_found_worth_keeping_still_holds() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let mut inputs = 0;
            for entry in std::fs::read_dir(corpus.join(name)).unwrap() {
                let path = entry.unwrap().path();
                // Shown only when it fails: which input it was.
                println!("{}", path.display());
                target(&std::fs::read(path).unwrap());
                inputs += 1;
            }
            assert!(inputs > 0, "no corpus of {name}");
        }
    }

    #[test]
    #[should_panic(expected = "two series")]
    fn a_series_that_is_there_twice_is_noticed() {
        valid_exposition(b"# TYPE m gauge\nm{a=\"x\\\\\"} 1\nm{a=\"x\\\\\"} 2\n");
    }

    #[test]
    #[should_panic(expected = "a label value without an end")]
    fn a_label_that_breaks_out_is_noticed() {
        valid_exposition(b"# TYPE m gauge\nm{a=\"x\\\"} 1\n");
    }
}
