//! A recording of any bytes.

use std::io::{self, Cursor};

use super::line::label_keys;
use super::pipeline::{Broken, Parsed, parse_block};
use super::{Candidate, EvaluateError, Mistakes, Progress, Reading, Source};
use super::{backtest, page, replay, table};
use crate::clock::Clock;
use crate::fuzzing::{harmless_html, harmless_text};
use crate::invariants::CheckerConfig;
use crate::observation::{CounterView, KeyLabel, Observation, decode_key};

/// How text that `gzip` packed begins.
const PACKED: [u8; 2] = [0x1f, 0x8b];

/// A broken line is told with its column; a good one says what the plain reader of an observation says. What the whole
/// recording comes to is one JSON object for each line, and harmless on a terminal and in a browser.
pub(crate) fn recording(data: &[u8]) {
    let Parsed::Lines(lines, _) = parse_block(data, KeyLabel::Plain) else {
        panic!("text that is in memory cannot be read");
    };
    let texts: Vec<&[u8]> = data.split_inclusive(|byte| *byte == b'\n').collect();
    let mut good = 0;
    for (place, line) in lines {
        let text = texts[usize::try_from(place).expect("a place beyond memory")];
        // All of it is text, also where nothing looks; what is no more than an end of line is not.
        let plain = std::str::from_utf8(text.trim_ascii_end())
            .ok()
            .and_then(|text| serde_json::from_str::<Observation>(text).ok());
        match line {
            Ok(mut line) => {
                good += 1;
                let plain = plain.expect("the plain reader does not read it");
                let views: Vec<CounterView<'_>> = line.counters.views();
                assert_eq!(views.len(), plain.counters.len());
                for (view, counter) in views.iter().zip(&plain.counters) {
                    let key = decode_key(&counter.key);
                    let expected = CounterView {
                        key: &key,
                        count: counter.count,
                        limit: counter.limit,
                        remaining: counter.remaining,
                        window_ms: counter.window_ms,
                        fell_from: counter.fell_from,
                    };
                    assert_eq!(*view, expected);
                }
                label_keys(&mut line, KeyLabel::Hash);
                assert_eq!(line.counters.views().len(), plain.counters.len());
            }
            Err(Broken { column, message }) => {
                assert!(plain.is_none(), "only the plain reader reads it");
                assert!((1..=text.len() + 1).contains(&column), "{column}");
                assert!(!message.contains(char::is_control), "{message:?}");
                assert!(message.len() < 16 * 1024, "{} bytes", message.len());
            }
        }
    }
    // Threads are started for each: only where something comes of it.
    if data.starts_with(&PACKED) {
        unpacked(data);
    } else if good > 0 {
        replayed(data, good);
    }
}

/// Whatever comes out before it proves broken is replayed.
fn unpacked(data: &[u8]) {
    let replayed = read(data, |reading| {
        replay(reading, &CheckerConfig::default(), io::sink())
    });
    match replayed {
        Ok(_) | Err(EvaluateError::Read { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

fn replayed(data: &[u8], good: u64) {
    let mut out = Vec::new();
    let tally = read(data, |reading| {
        replay(reading, &CheckerConfig::default(), &mut out)
    })
    .expect("memory cannot be read");
    assert_eq!(tally.observations, good);
    let said = serde_json::Deserializer::from_slice(&out).into_iter::<serde_json::Value>();
    let said: Vec<_> = said.collect::<Result<_, _>>().expect("not JSON");
    assert_eq!(said.len() as u64, good);
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
    let outcome = read(data, |reading| backtest(reading, &candidates, true));
    let outcome = outcome.expect("memory cannot be read");
    harmless_text(&table(&outcome));
    harmless_html(&page(&outcome));
    serde_json::to_vec(&outcome).expect("not JSON");
}

/// Goes through a recording, past the lines that are broken.
fn read<T>(
    data: &[u8],
    go: impl FnOnce(Reading<'_>) -> Result<T, EvaluateError>,
) -> Result<T, EvaluateError> {
    go(Reading {
        source: Source::new("fuzzed", Cursor::new(data.to_vec())),
        label: KeyLabel::Plain,
        mistakes: Mistakes::PassOver,
        named: &mut io::sink(),
        progress: Progress::new(Clock::start(), false),
    })
}
