//! What must hold for a recording of any bytes.

use std::io::{self, Cursor};

use super::input::{Broken, GZIP};
use super::judge::label_keys;
use super::reading::parse;
use super::{Candidate, EvaluateError, ReplayInput, Source};
use super::{backtest, page, replay, table};
use crate::assertions::{harmless_html, harmless_text};
use crate::invariants::CheckerConfig;
use crate::observation::KeyLabel;

/// Each broken line is reported with its column. The replay is one JSON object for each good line. The backtest is harmless
/// on a terminal and in a browser.
pub(crate) fn recording(data: &[u8]) {
    let lines = data.split_inclusive(|byte| *byte == b'\n');
    let mut good = 0;
    for text in lines.filter(|text| !text.trim_ascii().is_empty()) {
        match parse(text) {
            Ok(mut observation) => {
                good += 1;
                label_keys(&mut observation, KeyLabel::Hash);
            }
            Err(Broken { column, message }) => {
                assert!((1..=text.len() + 1).contains(&column), "{column}");
                assert!(!message.contains(char::is_control), "{message:?}");
                assert!(message.len() < 16 * 1024, "{} bytes", message.len());
            }
        }
    }
    if data.starts_with(&GZIP) {
        decompressed(data);
    } else {
        replayed(data, good);
    }
}

/// What can be decompressed before an error is replayed.
fn decompressed(data: &[u8]) {
    let replayed = read(data, |input| {
        replay(input, &CheckerConfig::default(), io::sink())
    });
    match replayed {
        Ok(_) | Err(EvaluateError::Read { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

fn replayed(data: &[u8], good: u64) {
    let mut out = Vec::new();
    let tally = read(data, |input| {
        replay(input, &CheckerConfig::default(), &mut out)
    })
    .expect("memory cannot be read");
    assert_eq!(tally.observations, good);
    let lines = serde_json::Deserializer::from_slice(&out).into_iter::<serde_json::Value>();
    let lines: Vec<_> = lines.collect::<Result<_, _>>().expect("not JSON");
    assert_eq!(lines.len() as u64, good);
    let candidate = |name, config| Candidate {
        name,
        origin: "the defaults".to_owned(),
        config,
    };
    let current = CheckerConfig {
        lowered_limit_grace: false,
        ..CheckerConfig::default()
    };
    let candidates = [
        candidate("candidate", CheckerConfig::default()),
        candidate("current", current),
    ];
    let outcome = read(data, |input| backtest(input, &candidates, true));
    let outcome = outcome.expect("memory cannot be read");
    harmless_text(&table(&outcome));
    harmless_html(&page(&outcome));
    serde_json::to_vec(&outcome).expect("not JSON");
}

/// Reads a recording and skips its broken lines.
fn read<T>(
    data: &[u8],
    go: impl FnOnce(ReplayInput<'_>) -> Result<T, EvaluateError>,
) -> Result<T, EvaluateError> {
    go(ReplayInput {
        source: Source::new("fuzzed", Cursor::new(data.to_vec())),
        label: KeyLabel::Plain,
        keep_going: true,
        named: &mut io::sink(),
        progress: false,
    })
}
