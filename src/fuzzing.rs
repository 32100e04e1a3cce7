//! The fuzz targets: one function for each kind of input, which reads any bytes and asserts what must hold for them all.
//! `fuzz/` calls them with a fuzzer. The test below replays the corpora, so that a regression shows without a fuzzer. They
//! are built only for tests and with the feature `fuzzing`, and are no API.
//!
//! A function that calls private items is beside them, in a module `fuzzing`.

use crate::assertions::{harmless_text, valid_exposition};
use crate::check;
use crate::clock::Moment;
use crate::export::{Exporter, Reload, render};
use crate::invariants::{Checker, CheckerConfig};
use crate::observation::{Observation, decode_key, encode_key};
use crate::snapshot::{OwnCounters, Snapshot};
use crate::subject::InvariantChecker as _;

pub use crate::limiters::fuzzing::{limiter_description, limiter_values};
pub use crate::observe::fuzzing::management_api;
pub use crate::server::fuzzing::request;

/// A function that must not panic, whatever the bytes.
pub type FuzzTarget = fn(&[u8]);

/// Every target by the name of its folder in `fuzz/corpus`.
pub const TARGETS: [(&str, FuzzTarget); 7] = [
    ("config", config),
    ("limiter_description", limiter_description),
    ("limiter_values", limiter_values),
    ("management_api", management_api),
    ("node_metrics", node_metrics),
    ("observation", observation),
    ("request", request),
];

/// Reads the text as a configuration file and as a web configuration file.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    crate::server::fuzzing::web_config(text);
    crate::config::fuzzing::config(text);
}

/// Several readings of a node's `/metrics`: the observation can be written, read and rendered.
pub fn node_metrics(data: &[u8]) {
    let observation = crate::observe::fuzzing::node_metrics(data);
    survives_json(&observation);
    rendered(observation);
}

/// The JSON form of an observation, and keys of any bytes: both are the same after they are written and read again. The
/// observation is checked, replayed, and rendered in every form of output.
pub fn observation(data: &[u8]) {
    assert_eq!(decode_key(&encode_key(data)), data, "a key is not itself");
    crate::evaluate::fuzzing::recording(data);
    let Ok(observation) = serde_json::from_slice::<Observation>(data) else {
        return;
    };
    survives_json(&observation);
    rendered(observation);
}

/// An observation is the same after it is written as JSON and read again: replays and `/api/v1/observation` need that.
fn survives_json(observation: &Observation) {
    let written = serde_json::to_string(observation).expect("an observation is not JSON");
    let read: Observation = serde_json::from_str(&written).expect("an observation is not read");
    let again = serde_json::to_string(&read).expect("an observation is not JSON");
    assert_eq!(written, again, "an observation is not itself");
}

/// The observation renders as text that Prometheus accepts, is harmless on a page and on a terminal, and is an observation
/// again after it was recorded.
fn rendered(observation: Observation) {
    let now = Moment::from_wall(jiff::Timestamp::UNIX_EPOCH);
    let mut checker = Checker::new(CheckerConfig::default());
    for counter in &observation.counters {
        checker.counters(now, &[counter.view(&decode_key(&counter.key))]);
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
        unauthorized: [("missing", 0), ("wrong", 0)],
    };
    let text = render(&snapshot, exporter).expect("the metrics are not rendered");
    valid_exposition(&text);
    crate::server::fuzzing::shown(&snapshot);
    harmless_text(&check::table(&snapshot));
    let subjects = snapshot.observation.nodes.iter().map(|node| &node.id);
    let subjects = subjects.chain(snapshot.observation.counters.iter().map(|it| &it.key));
    for subject in subjects.take(2) {
        let explained = snapshot
            .report
            .explain(&snapshot.observation, std::slice::from_ref(subject));
        harmless_text(&check::explanation(&explained));
    }
    let line = check::line(&snapshot).expect("a collection is not JSON");
    assert!(!line.contains('\n'), "more than one line");
    serde_json::from_str::<Observation>(&line).expect("a recording is not read");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_of_the_corpora_still_holds() {
        let corpus = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let mut inputs = 0;
            for entry in std::fs::read_dir(corpus.join(name)).unwrap() {
                let path = entry.unwrap().path();
                // Shown if the test fails: the last one is the input that failed.
                println!("{}", path.display());
                target(&std::fs::read(path).unwrap());
                inputs += 1;
            }
            assert!(inputs > 0, "no corpus of {name}");
        }
    }
}
