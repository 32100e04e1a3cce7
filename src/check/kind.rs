//! `limiters --check`: what a description finds in Redis, as tables for the person who writes it.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::anyhow;

use crate::clock::Clock;
use crate::config::{Config, description_of};
use crate::limiters::{
    CounterReading, Description, Example, Expires, Fitting, Outcome, WithoutExpiry,
};
use crate::observation::encode_key;
use crate::observe::{Inspected, Inspection, inspect};
use crate::stop_signals::StopSignals;
use crate::text::count;
use crate::text_table::{shown, write_table};

/// The most bytes of a name that are escaped for a cell. The cell shows fewer.
const MOST_SHOWN: usize = 512;

/// Shows what the description that `named` names finds in the Redis of `config`. SIGINT and SIGTERM end it early; it
/// shows what was found until then.
pub async fn limiter(named: &str, config: &Config) -> anyhow::Result<String> {
    let description = Arc::new(description_of(named)?);
    let observe = &config.observe;
    let inspection = Inspection {
        redis: &observe.redis,
        share: observe.scan_share,
        rules: &observe.limit_rules,
        description: &description,
    };
    let mut signals = StopSignals::new()?;
    let found = inspect(inspection, &Clock::start(), signals.recv()).await;
    let found = found.map_err(|error| anyhow!(error))?;
    Ok(text(&description, &found))
}

/// What was found.
fn text(description: &Description, found: &Inspected) -> String {
    let inventory = &found.inventory;
    let servers = found.servers.join(", ");
    let names = count(inventory.names, "key");
    let (name, title) = (&description.name, shown(&description.title));
    let mut out = format!("{name} ({title}): {names} in {servers}\n\n");
    let counters = || description.counters.iter().zip(&inventory.counters);
    let mut rows = vec![row(["COUNTER", "KEYS", "REFUSED", "NOTES"])];
    for (counter, fitting) in counters() {
        rows.push([
            counter.name.value.clone(),
            fitting.keys.to_string(),
            counter.refused.name().to_owned(),
            notes(fitting),
        ]);
    }
    if description.registry().is_some() {
        let registrations = inventory.registrations.to_string();
        rows.push(row(["registrations", &registrations, "", ""]));
    }
    rows.push(row(["ignored", &inventory.ignored.to_string(), "", ""]));
    rows.push(row(["no counter", &inventory.foreign.to_string(), "", ""]));
    write_table(&mut out, &rows);
    let mut rows = vec![row([
        "COUNTER", "NAME", "LABEL", "COUNT", "LIMIT", "WINDOW", "EXPIRES", "WHAT",
    ])];
    for (counter, fitting) in counters() {
        let mut examples: Vec<&Example> = fitting.examples.iter().collect();
        examples.sort_by(|one, other| one.name.cmp(&other.name));
        let examples = examples.into_iter();
        rows.extend(examples.map(|example| example_row(&counter.name.value, example)));
    }
    let mut foreign: Vec<_> = inventory.foreign_examples.iter().collect();
    foreign.sort_by_key(|(swept, name)| (!*swept, name));
    for (swept, name) in foreign {
        let what = if *swept {
            "begins like a counter"
        } else {
            "not swept"
        };
        let name = name_of(name);
        rows.push(row(["no counter", &name, "", "", "", "", "", what]));
    }
    if rows.len() > 1 {
        out.push('\n');
        write_table(&mut out, &rows);
    }
    for (number, warning) in warnings(description, found).iter().enumerate() {
        let gap = if number == 0 { "\n" } else { "" };
        // Writing into a String cannot fail.
        let _ = writeln!(out, "{gap}warning: {warning}");
    }
    out
}

fn row<const N: usize>(cells: [&str; N]) -> [String; N] {
    cells.map(str::to_owned)
}

/// A name of any bytes, escaped and cut for a table on a terminal.
fn name_of(name: &[u8]) -> String {
    shown(&encode_key(&name[..name.len().min(MOST_SHOWN)]))
}

/// What was found about the keys besides their number.
fn notes(fitting: &Fitting) -> String {
    let invalid = fitting.invalid.iter();
    let invalid = invalid.map(|(reason, many)| (*many, format!("invalid: {reason}")));
    let unknown = fitting.unknown.iter();
    let unknown = unknown.map(|(reason, many)| (*many, reason.to_string()));
    let lacking = "without the expiry that they should have";
    let others = [
        (fitting.without_limit, "without a limit"),
        (fitting.without_expiry, lacking),
        (fitting.over, "of a window that is over"),
    ];
    let others = others.map(|(many, what)| (many, what.to_owned()));
    let notes = invalid.chain(unknown).chain(others);
    let notes = notes.filter(|(many, _)| *many > 0);
    let notes = notes.map(|(many, what)| format!("{many} {what}"));
    notes.collect::<Vec<_>>().join(", ")
}

fn example_row(counter: &str, example: &Example) -> [String; 8] {
    let unread = |what: String| (<[String; 4]>::default(), what);
    let (figures, what) = match &example.outcome {
        Outcome::Counted(reading) => (counted(reading), what_of(reading)),
        Outcome::Invalid(invalid) => unread(format!("invalid: {invalid}")),
        Outcome::Unknown(unknown) => unread(format!("unknown: {unknown}")),
        Outcome::Over(_) => unread("its window is over".to_owned()),
        Outcome::Part => unread("counted with another key".to_owned()),
        Outcome::Gone | Outcome::Ignored | Outcome::Foreign => unread(String::new()),
    };
    let (name, label) = (name_of(&example.name), name_of(&example.label));
    let [count, limit, window, expires] = figures;
    let counter = counter.to_owned();
    [counter, name, label, count, limit, window, expires, what]
}

/// Count, limit, window, and whether it expires.
fn counted(reading: &CounterReading) -> [String; 4] {
    let limit = reading.limits.capacity();
    let window = match reading.limits.window_ms {
        None => "unknown".to_owned(),
        Some(ms) if ms % 1000 == 0 => format!("{} s", ms / 1000),
        Some(ms) => format!("{ms} ms"),
    };
    let expires = match reading.expiry {
        None => "not read",
        Some(Expires::In(_) | Expires::TooLate { .. }) => "yes",
        Some(Expires::Never(_)) => "never",
    };
    [
        reading.count.to_string(),
        limit.map_or("unknown".to_owned(), |limit| limit.to_string()),
        window,
        expires.to_owned(),
    ]
}

fn what_of(reading: &CounterReading) -> String {
    if let Some(invalid) = reading.invalid {
        return format!("invalid: {invalid}");
    }
    let what = match reading.expiry {
        _ if reading.is_stuck() => "stuck: it blocks its client for ever",
        _ if reading.is_over_limit() == Some(true) => "above its limit",
        Some(Expires::Never(Some(WithoutExpiry::Blocks))) => {
            "no expiry: at its limit, it blocks its client for ever"
        }
        Some(Expires::Never(Some(WithoutExpiry::Leaks))) => "no expiry: it is never removed",
        Some(Expires::Never(Some(WithoutExpiry::Heals))) => "no expiry: the next request sets it",
        Some(Expires::In(_) | Expires::TooLate { .. } | Expires::Never(None)) | None => "",
    };
    what.to_owned()
}

fn warnings(description: &Description, found: &Inspected) -> Vec<String> {
    let inventory = &found.inventory;
    let mut warnings = Vec::new();
    if !found.whole {
        warnings.push("a signal ended it before all keys were read".to_owned());
    }
    if found.moved > 0 {
        let moved = count(found.moved, "key");
        warnings.push(format!(
            "{moved} moved to another server meanwhile and were not read"
        ));
    }
    let name = |place: usize| {
        let counter = description.counters.get(place);
        counter.map_or("", |counter| counter.name.value.as_str())
    };
    for ((counts, other), (many, example)) in &inventory.rivals {
        let (counts, other, example) = (name(*counts), name(*other), name_of(example));
        warnings.push(format!(
            "counters {counts} and {other} could both claim {}, such as {example}: {counts} counts, as it is first",
            count(*many, "key")
        ));
    }
    if description.registry().is_some() && inventory.registrations == 0 {
        warnings.push("nodes.registry: no key fits".to_owned());
    }
    for (counter, fitting) in description.counters.iter().zip(&inventory.counters) {
        let name = &counter.name.value;
        if fitting.keys == 0 {
            warnings.push(format!(
                "counter {name}: no key of type {} fits",
                counter.kind.name()
            ));
        }
        if counter.key.value.prefix().is_empty() {
            warnings.push(format!(
                "counter {name}: its pattern has no literal beginning: each sweep goes over all keys of the database"
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiters::{Finding, Fit, Inventory, Type};

    #[test]
    fn names_of_any_bytes_do_no_harm_to_a_terminal() {
        let description = Description::parse(
            "
name: own
title: \"own\\e[2J\"
counters:
  - {name: all, key: '^own:(?P<key>.+)$', type: string, count: value, refused: counted, expiry: normal_without}
",
        )
        .unwrap();
        let mut inventory = Inventory::new(&description);
        let long = vec![b'k'; 100_000];
        for name in [&b"own:\x1b[2J\n\xff\0"[..], b"\x1b]0;x\x07", &long] {
            let matched = match description.match_name(name, Some(Type::String)) {
                Fit::Counter(matched) => Some(matched),
                _ => None,
            };
            let outcome = match matched {
                Some(_) => Outcome::Over(None),
                None => Outcome::Foreign,
            };
            inventory.add(&description, name, &Finding { matched, outcome });
        }
        let found = Inspected {
            inventory,
            whole: true,
            servers: vec!["127.0.0.1:6379".to_owned()],
            moved: 0,
        };
        let text = text(&description, &found);
        let harmful = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(harmful), "{text:?}");
        assert!(text.contains(r"own:\u{1b}[2J\n\xff\x00"), "{text}");
        assert!(
            text.lines().all(|line| line.chars().count() < 400),
            "{text}"
        );
    }
}
