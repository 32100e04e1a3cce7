//! One run of a schedule: events at their times, scrapes beside them, each judged by the oracle.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use lab::exposition::Exposition;

use crate::oracle::{Expected, expectations};
use crate::schedule::{Event, Schedule};
use crate::world::{Shared, World, sample};

/// Far more than a collection takes.
const SCRAPE_PATIENCE: Duration = Duration::from_secs(15);

/// What the exporter said against what it must or must not say, for the first time.
#[derive(Clone, Debug)]
pub(crate) struct Disagreement {
    /// Seconds from the start.
    pub(crate) at: f64,
    pub(crate) invariant: String,
    pub(crate) subject: String,
    pub(crate) missed: bool,
}

impl Disagreement {
    /// Whether another run went wrong in the same way.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.invariant == other.invariant && self.missed == other.missed
    }
}

/// What a run brought.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) scrapes: u64,
    /// Subjects that had to be reported at a scrape, and those that had not to be.
    pub(crate) musts: u64,
    pub(crate) must_nots: u64,
    pub(crate) disagreements: Vec<Disagreement>,
    /// Reported late: wrong at first and right at a later scrape.
    pub(crate) late: u64,
    pub(crate) log: String,
}

/// Runs `schedule` for `length` milliseconds.
pub(crate) async fn run(schedule: &Schedule, length: u64) -> anyhow::Result<Outcome> {
    let mut world = World::start(schedule).await?;
    let shared = Rc::clone(&world.shared);
    let begun = tokio::time::Instant::now();
    let sampling = tokio::task::spawn_local(sample(Rc::clone(&shared), world.client()));
    let scraping = tokio::task::spawn_local(scrapes(Rc::clone(&shared), length));
    let mut steps: Vec<(u64, bool, Event)> = Vec::new();
    for event in &schedule.events {
        steps.push((event.at, true, *event));
        if event.until > event.at {
            steps.push((event.until, false, *event));
        }
    }
    steps.sort_by_key(|(at, begins, _)| (*at, *begins));
    for (at, begins, event) in steps {
        if at >= length || begun.elapsed() >= Duration::from_millis(length) {
            break;
        }
        while begun.elapsed() < Duration::from_millis(at) {
            let left = Duration::from_millis(at).saturating_sub(begun.elapsed());
            tokio::time::sleep(left.min(Duration::from_secs(1))).await;
            world.revive().await;
        }
        let done = if begins {
            world.begin(event.what).await
        } else {
            world.end(event.what).await
        };
        if let Err(error) = done {
            // Such as a command to a Redis that another event took away: no effect, and no fact.
            println!("    {event}: {error:#}");
        }
    }
    let mut outcome = scraping.await??;
    sampling.abort();
    if !outcome.disagreements.is_empty() {
        outcome.log = world.exporter_log();
    }
    Ok(outcome)
}

async fn scrapes(shared: Rc<Shared>, length: u64) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut wrong: BTreeMap<(String, String, bool), f64> = BTreeMap::new();
    let until = Duration::from_millis(length).as_secs_f64();
    while shared.seconds() < until {
        let Some(address) = shared.address.borrow().clone() else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let begun = shared.seconds();
        let answer = lab::http::get(&address, "/metrics", SCRAPE_PATIENCE).await;
        let ended = shared.seconds();
        sampled_after(&shared, ended).await;
        let ran = shared
            .facts
            .borrow()
            .exporter
            .always(begun, ended, |runs| runs);
        if ran {
            let answer = answer?;
            anyhow::ensure!(answer.status == 200, "/metrics answers {}", answer.status);
            let said = Exposition::parse(&answer.text())?.subjects("invariant_violation");
            judge(&shared, begun, ended, &said, &mut outcome, &mut wrong);
            shared.facts.borrow_mut().scrapes.push((begun, ended));
        }
        let interval = shared.facts.borrow().interval.now();
        let next = begun + interval as f64;
        let rest = (next - shared.seconds()).max(0.0);
        tokio::time::sleep(Duration::from_secs_f64(rest)).await;
    }
    Ok(outcome)
}

/// Waits until every counter was looked at once more, which belongs to the scrape as well, or Redis gives no answer.
async fn sampled_after(shared: &Shared, ended: f64) {
    let sampled = || {
        let facts = shared.facts.borrow();
        let mut keys = facts.samples.iter();
        keys.all(|of_key| of_key.last().is_some_and(|sample| sample.at > ended))
    };
    while !sampled() && shared.seconds() < ended + 2.0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn judge(
    shared: &Shared,
    begun: f64,
    ended: f64,
    said: &BTreeSet<(String, String)>,
    outcome: &mut Outcome,
    wrong: &mut BTreeMap<(String, String, bool), f64>,
) {
    outcome.scrapes += 1;
    let expected = expectations(&shared.facts.borrow(), begun, ended);
    let mut note = |invariant: &str, subject: &str, missed: bool| {
        let key = (invariant.to_owned(), subject.to_owned(), missed);
        if wrong.insert(key, begun).is_none() {
            outcome.disagreements.push(Disagreement {
                at: begun,
                invariant: invariant.to_owned(),
                subject: subject.to_owned(),
                missed,
            });
        }
    };
    for ((invariant, subject), what) in &expected {
        let reported = said.contains(&(invariant.clone(), subject.clone()));
        match what {
            Expected::Must => {
                outcome.musts += 1;
                if !reported {
                    note(invariant, subject, true);
                }
            }
            Expected::MustNot => {
                outcome.must_nots += 1;
                if reported {
                    note(invariant, subject, false);
                }
            }
            Expected::May => {}
        }
    }
    for (invariant, subject) in said {
        if !expected.contains_key(&(invariant.clone(), subject.clone())) {
            note(invariant, subject, false);
        }
    }
    let late = wrong.keys().filter(|(invariant, subject, missed)| {
        *missed && said.contains(&(invariant.clone(), subject.clone()))
    });
    outcome.late = late.count() as u64;
}
