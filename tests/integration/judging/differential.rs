//! Random recordings through `evaluate` and through a model that is too simple to be wrong: not one difference.
//!
//! The recordings dwell on what is easy to get wrong: figures exactly at a threshold, looks exactly at the end of a grace
//! period, gaps, time that stands still or runs backwards, sources that fail for a while, subjects that go and return,
//! limits that fall, and settings of every kind.

mod day;
mod model;
mod recordings;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRunner};
use ratelimiter_exporter::evaluate::{ReplayInput, Source, replay};
use ratelimiter_exporter::invariants::CheckerConfig;
use ratelimiter_exporter::observation::KeyLabel;
use ratelimiter_exporter::report::InvariantName;
use recordings::{Recording, Settings, recording};
use serde_json::Value;

/// Recordings that are compared.
const SEQUENCES: u32 = 10_000;

#[test]
fn evaluate_agrees_with_a_naive_model() -> anyhow::Result<()> {
    let config = Config {
        cases: SEQUENCES,
        failure_persistence: None,
        // The default one takes most of the time of an unoptimized build.
        rng_algorithm: RngAlgorithm::XorShift,
        ..Config::default()
    };
    let met = RefCell::new(BTreeMap::new());
    let compared = TestRunner::new(config).run(&recording(), |recording| {
        let said = evaluate(&recording).map_err(|error| TestCaseError::fail(error.to_string()))?;
        let expected = model::expected(&recording);
        prop_assert_eq!(said.len(), expected.len());
        for (said, expected) in said.iter().zip(&expected) {
            prop_assert_eq!(said, expected);
            note(&mut met.borrow_mut(), said);
        }
        Ok(())
    });
    compared.map_err(|error| anyhow::anyhow!("{error}"))?;
    // Agreement is worth as much as what was met on the way.
    let met = met.into_inner();
    // Those that do not apply without a kind of limiter are never met.
    let applying = InvariantName::ALL.len() - 2;
    assert_eq!(met.len(), 2 * applying, "{met:?}");
    assert!(met.values().all(|times| *times > 1_000), "{met:?}");
    Ok(())
}

/// Twenty-four hours of a limiter, under the usual settings.
#[test]
fn a_day_of_faults_is_judged_as_a_naive_model_judges_it() -> anyhow::Result<()> {
    let mut met = BTreeMap::new();
    for seed in [1, 2] {
        let recording = day::day(seed);
        let said = evaluate(&recording)?;
        let expected = model::expected(&recording);
        assert_eq!(said.len(), expected.len());
        for (number, (said, expected)) in said.iter().zip(&expected).enumerate() {
            assert_eq!(said, expected, "seed {seed}, line {}", number + 1);
            note(&mut met, said);
        }
    }
    let applying = InvariantName::ALL.len() - 2;
    // Those without a grace period are pending only while a limit that fell drains.
    let reported = met.keys().filter(|name| name.starts_with("violations"));
    assert_eq!(reported.count(), applying, "{met:?}");
    assert!(met.values().all(|times| *times > 10), "{met:?}");
    Ok(())
}

/// Counts how often each invariant was pending and reported.
fn note(met: &mut BTreeMap<String, u64>, said: &Value) {
    for list in ["violations", "pending"] {
        for violation in said[list].as_array().into_iter().flatten() {
            *met.entry(format!("{list} {}", violation["name"]))
                .or_default() += 1;
        }
    }
}

/// What `evaluate` says, line by line.
fn evaluate(recording: &Recording) -> anyhow::Result<Vec<Value>> {
    let mut text = Vec::new();
    for (look, steady) in recording
        .looks
        .iter()
        .zip(model::steady_times(&recording.looks))
    {
        serde_json::to_writer(&mut text, &look.json(steady))?;
        text.push(b'\n');
    }
    let mut said = Vec::new();
    let reading = ReplayInput {
        source: Source::new("recording", std::io::Cursor::new(text)),
        label: KeyLabel::Plain,
        keep_going: false,
        named: &mut std::io::sink(),
        progress: false,
    };
    replay(reading, &checker(&recording.settings), &mut said)?;
    let said = String::from_utf8(said)?;
    let lines: serde_json::Result<Vec<Value>> = said.lines().map(serde_json::from_str).collect();
    Ok(lines?)
}

fn checker(settings: &Settings) -> CheckerConfig {
    let millis = |period: i64| Duration::from_millis(u64::try_from(period).unwrap_or(0));
    let mut config = CheckerConfig {
        unknown_hold: millis(settings.unknown_hold),
        lowered_limit_grace: settings.lowered_limit_grace,
        ..CheckerConfig::default()
    };
    for (name, rule) in InvariantName::ALL.into_iter().zip(&settings.rules) {
        let invariant = config.of_mut(name);
        invariant.enabled = rule.enabled;
        invariant.grace_period = millis(rule.grace);
        let whole = if name == InvariantName::HighLatency {
            10_000
        } else {
            1_000
        };
        invariant.threshold = recordings::share(rule.threshold, whole);
    }
    config
}
