//! The model: after each line it goes through the whole history again, once for each invariant and subject, and says by
//! definition what is in violation since when. It shares no code with the checker, keeps no state, and reckons in whole
//! units, without fractions.

use std::cmp::Ordering;

use serde_json::{Value, json};

use super::recordings::{
    FEWER, KEYS, Key, Look, Metrics, NODES, Newest, Node, Read, Recording, Settings, time,
};

const NAMES: [&str; 5] = [
    "node_down",
    "redis_disconnected",
    "high_latency",
    "counter_drift",
    "ghost_allowing",
];
const SEVERITIES: [&str; 5] = ["critical", "critical", "warning", "warning", "critical"];

/// A look with the times that hold for it.
struct Timed<'a> {
    look: &'a Look,
    wall: i64,
    /// As `observed_at` says, without steps backwards.
    steady: i64,
    before: i64,
    now: i64,
    /// What is added to a steady time to tell it.
    offset: i64,
}

/// What one look says of a subject.
enum Word {
    /// Healthy, or not there.
    Fine,
    /// Violated, as was seen at these times; `kept` while it is expected to drain. It may have ended up to `reach` before, of
    /// which the `newest` counts as now.
    Violated {
        at: Vec<i64>,
        kept: Vec<bool>,
        reach: i64,
        newest: i64,
        message: String,
    },
    Unknown,
    /// Read, and neither: what was in progress is over.
    Inconclusive,
}

/// A subject of an invariant.
#[derive(Clone, Copy)]
enum Subject {
    Redis,
    Node(&'static str),
    Canary(&'static str),
    Key(&'static str),
}

impl Subject {
    fn shown(self) -> String {
        match self {
            Self::Redis => "redis".to_owned(),
            Self::Node(name) | Self::Key(name) => name.to_owned(),
            Self::Canary(name) => format!("canary:{name}"),
        }
    }
}

/// What is to be said after each line.
pub(super) fn expected(recording: &Recording) -> Vec<Value> {
    let history = timed(&recording.looks);
    let settings = &recording.settings;
    let mut words = Vec::new();
    for invariant in (0..NAMES.len()).filter(|invariant| settings.rules[*invariant].enabled) {
        for subject in subjects(invariant) {
            let of_look = |look| word(invariant, subject, look, settings);
            words.push((invariant, subject, history.iter().map(of_look).collect()));
        }
    }
    let after = |many: usize| said(&history[..many], &words, settings);
    (1..=history.len()).map(after).collect()
}

/// Where each look stands on the timeline that never steps, as `evaluate` is told.
pub(super) fn steady_times(looks: &[Look]) -> Vec<i64> {
    timed(looks).iter().map(|look| look.steady).collect()
}

fn timed(looks: &[Look]) -> Vec<Timed<'_>> {
    let mut timed: Vec<Timed<'_>> = Vec::new();
    for look in looks {
        let last = timed.last();
        let wall = look
            .wall
            .unwrap_or_else(|| last.map_or(0, |last| last.wall + 1_000));
        let steady = look.steady.unwrap_or(wall);
        let before = last.map_or(i64::MIN, |last| last.now);
        let offset = last.map_or(0, |last| last.offset);
        // The wall clock's small change is left out: it is no step.
        let stepped = (wall - steady - offset).abs() > 1_000;
        timed.push(Timed {
            look,
            wall,
            steady,
            before,
            now: before.max(steady),
            offset: if stepped { wall - steady } else { offset },
        });
    }
    timed
}

/// What each look says of a subject of an invariant.
type Words = (usize, Subject, Vec<Word>);

fn said(history: &[Timed<'_>], words: &[Words], settings: &Settings) -> Value {
    let mut listed: Vec<(usize, Subject, bool, Value)> = Vec::new();
    for (invariant, subject, words) in words {
        let words = &words[..history.len()];
        if let Some((reported, told)) = in_progress(*invariant, *subject, history, words, settings)
        {
            listed.push((*invariant, *subject, reported, told));
        }
    }
    listed.sort_by(|one, other| {
        let keys = match (one.1, other.1) {
            (Subject::Key(one), Subject::Key(other)) => fuller(one, other, history),
            _ => Ordering::Equal,
        };
        one.0.cmp(&other.0).then(keys)
    });
    let all = |wanted: bool| -> Vec<&Value> {
        let those = listed.iter().filter(|it| it.2 == wanted);
        those.map(|it| &it.3).collect()
    };
    let at = history.last().map_or(0, |look| look.wall);
    json!({"observed_at": time(at), "violations": all(true), "pending": all(false)})
}

/// The subjects of an invariant; nodes in the order in which they are listed.
fn subjects(invariant: usize) -> Vec<Subject> {
    let nodes = NODES.map(Subject::Node).into_iter();
    let keys = KEYS.map(Subject::Key).into_iter();
    match invariant {
        0 | 2 => nodes.collect(),
        1 => nodes.chain([Subject::Redis]).collect(),
        3 => keys.collect(),
        _ => NODES.map(Subject::Canary).into_iter().chain(keys).collect(),
    }
}

/// By utilization as last seen, then by name.
fn fuller(one: &str, other: &str, history: &[Timed<'_>]) -> Ordering {
    let last = |key: &str| {
        history
            .iter()
            .rev()
            .find_map(|look| look.look.keys.get(key))
    };
    let used = |key: Option<&Key>| match key {
        None => (0, 1),
        Some(key) if key.count > 0 && key.limit == 0 => (1, 0),
        Some(key) => (u128::from(key.count), u128::from(key.limit.max(1))),
    };
    let (a, b) = (used(last(one)), used(last(other)));
    (b.0 * a.1).cmp(&(a.0 * b.1)).then_with(|| one.cmp(other))
}

/// Whether the subject's violation is reported, and how it is told; `None` without one.
fn in_progress(
    invariant: usize,
    subject: Subject,
    history: &[Timed<'_>],
    words: &[Word],
    settings: &Settings,
) -> Option<(bool, Value)> {
    // It began after the last look at which it was fine, or unknown for too long.
    let mut seen: Vec<(i64, bool, i64)> = Vec::new();
    let mut last_message = "";
    // Whether some look did not prove that it still went on.
    let mut interrupted = false;
    for (look, word) in history.iter().zip(words) {
        match word {
            Word::Fine | Word::Inconclusive => {
                seen.clear();
                interrupted = false;
            }
            Word::Violated {
                at,
                kept,
                reach,
                newest,
                message,
            } => {
                for (at, kept) in at.iter().zip(kept) {
                    let before = seen.last().copied();
                    if before.is_some_and(|(before, ..)| *reach > *newest.max(&(at - before))) {
                        interrupted = true;
                    }
                    let now = if interrupted { 0 } else { *newest };
                    let proved = match before {
                        None => *at,
                        Some((.., until)) => until.max(at - (reach - now).max(0)),
                    };
                    seen.push((*at, *kept, proved));
                }
                last_message = message;
            }
            Word::Unknown => {
                let last = seen.last().map(|(at, ..)| *at);
                if last.is_some_and(|last| look.now - last >= settings.unknown_hold) {
                    seen.clear();
                    interrupted = false;
                }
            }
        }
    }
    let (first, last) = (seen.first()?.0, seen.last()?.0);
    let grace = settings.rules[invariant].grace;
    let lasted = |until: i64| (until - first).max(0);
    let mut due = seen.iter();
    let reported = due.any(|(_, kept, until)| lasted(*until) >= grace && !kept);
    let offset = history.last()?.offset;
    let told = json!({
        "name": NAMES[invariant], "severity": SEVERITIES[invariant], "subject": subject.shown(),
        "message": last_message, "first_seen": time(first + offset), "last_seen": time(last + offset),
    });
    Some((reported, told))
}

fn word(invariant: usize, subject: Subject, look: &Timed<'_>, settings: &Settings) -> Word {
    match subject {
        Subject::Redis => match look.look.redis {
            Some(true) => Word::Fine,
            Some(false) => {
                let why = look.look.redis_reason;
                violated(look, because("Redis does not answer the exporter", why))
            }
            None => Word::Unknown,
        },
        Subject::Node(id) => match (invariant, look.look.nodes.get(id)) {
            (0, Some(node)) => down(node, look),
            (1, Some(node)) => cut_off(node, look),
            (2, node) => slow(node, look.look.metrics.get(id), look, settings),
            _ => Word::Fine,
        },
        Subject::Canary(id) => match look.look.nodes.get(id).and_then(|node| node.canary) {
            Some(false) => violated(
                look,
                "the node admitted three canary requests under a limit of 1".to_owned(),
            ),
            Some(true) | None => Word::Fine,
        },
        Subject::Key(key) => of_key(invariant, key, look, settings),
    }
}

fn violated(look: &Timed<'_>, message: String) -> Word {
    Word::Violated {
        at: vec![look.now],
        kept: vec![false],
        reach: 0,
        newest: 0,
        message,
    }
}

fn down(node: &Node, look: &Timed<'_>) -> Word {
    match node.state {
        None => Word::Unknown,
        Some("Up") => Word::Fine,
        Some(state) => {
            let what = format!("state is {state}, expected Up");
            violated(look, because(&what, node.reason))
        }
    }
}

fn cut_off(node: &Node, look: &Timed<'_>) -> Word {
    match (node.redis, node.redis_reason) {
        _ if is_away(node) => Word::Fine,
        (Some(true), _) | (None, None) => Word::Fine,
        (None, Some(_)) => Word::Unknown,
        (Some(false), why) => {
            let what = "the node answers but does not reach Redis";
            violated(look, because(what, why))
        }
    }
}

/// A node that is known not to be up.
fn is_away(node: &Node) -> bool {
    node.state.is_some_and(|state| state != "Up")
}

fn because(what: &str, why: Option<&str>) -> String {
    match why {
        Some(why) => format!("{what}: {why}"),
        None => what.to_owned(),
    }
}

fn slow(
    node: Option<&Node>,
    metrics: Option<&Metrics>,
    look: &Timed<'_>,
    settings: &Settings,
) -> Word {
    let Some(metrics) = metrics.filter(|_| !node.is_some_and(is_away)) else {
        // Not there at all, or away: either is fine.
        return if node.is_none_or(is_away) {
            Word::Fine
        } else {
            Word::Unknown
        };
    };
    let allowed = settings.rules[2].threshold;
    let whole = place(metrics.p99, metrics.bucket, allowed);
    let measured = |p99| Newest {
        p99: Some(p99),
        bucket: None,
        reach: 0,
        slow: (0, 0),
    };
    let (figure, newest, source) = match (whole, metrics.canary) {
        (Place::Nowhere, _) => {
            return match metrics.why {
                None | Some("no_samples" | "histogram_never_counts") => Word::Inconclusive,
                Some(_) => Word::Unknown,
            };
        }
        (Place::AtMost, _) => return Word::Fine,
        (Place::Astride, None) => return Word::Inconclusive,
        (Place::Astride, Some(canary)) if canary <= allowed => return Word::Fine,
        (Place::Astride, Some(canary)) => {
            let newest = metrics.canary_newest.map(measured);
            (Some(canary), newest, Some("canary"))
        }
        (Place::Over, _) => (metrics.p99, metrics.newest.clone(), metrics.source),
    };
    let window = look.look.window.unwrap_or(60_000);
    let reach = match newest {
        None => 0,
        Some(newest) => {
            let over = FEWER.contains(&(newest.slow, true));
            match place(newest.p99, newest.bucket, allowed) {
                Place::Over => newest.reach,
                Place::AtMost if over => return Word::Fine,
                Place::Astride if over => return Word::Inconclusive,
                _ => newest.reach.max(window),
            }
        }
    };
    let tenths = |figure: u64| format!("{}.{} ms", figure / 10, figure % 10);
    let source = source.map_or(String::new(), |source| format!(" (from {source})"));
    let figure = match (figure, metrics.bucket) {
        (Some(figure), _) => tenths(figure),
        (None, bucket) => format!("above {}", tenths(bucket.map_or(0, |(lower, _)| lower))),
    };
    let allowed = tenths(allowed);
    Word::Violated {
        at: vec![look.now],
        kept: vec![false],
        reach,
        newest: window / 3,
        message: format!("p99 latency {figure}, allowed {allowed}{source}"),
    }
}

/// Where a p99 is, seen from what is allowed.
enum Place {
    Nowhere,
    AtMost,
    Over,
    /// In a bucket on both sides.
    Astride,
}

fn place(p99: Option<u64>, bucket: Option<(u64, Option<u64>)>, allowed: u64) -> Place {
    match (bucket, p99) {
        (Some((lower, _)), _) if lower >= allowed => Place::Over,
        (Some((_, upper)), _) if upper.is_some_and(|upper| upper <= allowed) => Place::AtMost,
        (Some(_), _) => Place::Astride,
        (None, Some(p99)) if p99 > allowed => Place::Over,
        (None, Some(_)) => Place::AtMost,
        (None, None) => Place::Nowhere,
    }
}

fn of_key(invariant: usize, name: &str, look: &Timed<'_>, settings: &Settings) -> Word {
    let Some(key) = look.look.keys.get(name) else {
        return match &look.look.read {
            Read::Full if look.look.unjudged.contains(&name) => Word::Unknown,
            Read::Full => Word::Fine,
            Read::Partial(gone) if gone.contains(&name) => Word::Fine,
            Read::Partial(_) | Read::Failed => Word::Unknown,
        };
    };
    let (count, limit) = (u128::from(key.count), u128::from(key.limit));
    let over = if invariant == 3 {
        count * 1_000 > limit * (1_000 + u128::from(settings.rules[3].threshold))
    } else {
        count > limit || (limit == 0 && key.remaining > 0)
    };
    if !over {
        return Word::Fine;
    }
    let told: Vec<i64> = match key.counted {
        None => vec![look.steady],
        Some((last, None)) => vec![look.steady - last],
        Some((last, Some(first))) => vec![look.steady - first, look.steady - last],
    };
    let at: Vec<i64> = told.into_iter().map(|at| at.max(look.before)).collect();
    let old = key.fell.filter(|_| settings.lowered_limit_grace);
    let drains = |at: i64| {
        let (old, before, lasts) = old?;
        let since = (at - (look.steady - before)).max(0);
        (since < lasts.or(key.window)? && key.count <= old).then_some(old)
    };
    let left = match key.remaining {
        left if key.limit == 0 && left > 0 => format!(", the limiter reports {left} left"),
        _ => String::new(),
    };
    let drain = at
        .last()
        .and_then(|at| drains(*at))
        .map_or(String::new(), |old| {
            format!(", draining since the limit fell from {old}")
        });
    let message = format!("{count} admitted, limit {limit}{left}{drain}");
    Word::Violated {
        reach: 0,
        newest: 0,
        kept: at.iter().map(|at| drains(*at).is_some()).collect(),
        at,
        message,
    }
}
