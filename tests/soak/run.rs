//! One run of a schedule: events at their times and scrapes at the same time. The oracle judges each scrape.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use lab::exposition::Exposition;

use crate::facts::{Life, figure};
use crate::oracle::{Expectations, Expected, expectations};
use crate::sampling::{read_checks, sample, watch_machine};
use crate::schedule::{Event, Schedule};
use crate::world::{Shared, World};

/// Far more than a collection takes.
const SCRAPE_PATIENCE: Duration = Duration::from_secs(15);

/// The first scrape at which the exporter disagrees with the oracle about a subject.
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

/// The result of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) scrapes: u64,
    /// How often a subject had to be reported at a scrape, and how often it must not be.
    pub(crate) musts: u64,
    pub(crate) must_nots: u64,
    /// Violations, each from the first scrape that had to report it to the first one that no longer had to.
    pub(crate) in_time: u64,
    pub(crate) late: u64,
    pub(crate) missed: u64,
    /// Subjects that were reported without a cause.
    pub(crate) without_cause: u64,
    pub(crate) hiccups: usize,
    pub(crate) disagreements: Vec<Disagreement>,
    /// Events that took place, by their kind.
    pub(crate) events: BTreeMap<String, u64>,
    pub(crate) log: String,
}

/// One violation, as long as it has to be reported.
#[derive(Clone, Copy, Debug)]
struct Episode {
    /// Reported by the first scrape that had to.
    at_first: bool,
    /// Reported by the last one.
    at_last: bool,
}

/// Runs `schedule` for `length` milliseconds.
pub(crate) async fn run(schedule: &Schedule, length: u64) -> anyhow::Result<Outcome> {
    let mut world = World::start(schedule).await?;
    let shared = Rc::clone(&world.shared);
    let begun = tokio::time::Instant::now();
    let sampling = tokio::task::spawn_local(sample(Rc::clone(&shared), world.client()?));
    let reading = tokio::task::spawn_local(read_checks(Rc::clone(&shared)));
    let watching = tokio::task::spawn_local(watch_machine(Rc::clone(&shared)));
    let judge = Rc::new(RefCell::new(Judge::default()));
    let servers = (0..schedule.servers).map(|server| {
        let shared = Rc::clone(&shared);
        tokio::task::spawn_local(scrapes(shared, server, length, Rc::clone(&judge)))
    });
    let servers: Vec<_> = servers.collect();
    let mut events: BTreeMap<String, u64> = BTreeMap::new();
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
            // For example a command to a Redis that another event stopped: it has no effect and makes no fact.
            eprintln!("    {event}: {error:#}");
        } else if begins {
            *events.entry(event.what.kind()).or_default() += 1;
        }
    }
    for scraping in servers {
        scraping.await??;
    }
    for task in [sampling, reading, watching] {
        task.abort();
    }
    let mut outcome = judge.take().ended();
    outcome.events = events;
    outcome.hiccups = shared.facts.borrow().hiccups.len();
    if !outcome.disagreements.is_empty() {
        outcome.log = world.exporter_log();
    }
    Ok(outcome)
}

/// One server scrapes, and each answer is judged.
async fn scrapes(
    shared: Rc<Shared>,
    server: usize,
    length: u64,
    judge: Rc<RefCell<Judge>>,
) -> anyhow::Result<()> {
    let until = Duration::from_millis(length).as_secs_f64();
    while shared.seconds() < until {
        let Some(address) = shared.address.borrow().clone() else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let asked = shared.seconds();
        // A scrape joins the collection that another one started.
        let begun = {
            let mut in_flight = shared.in_flight.borrow_mut();
            in_flight.insert(server, asked);
            in_flight.values().copied().fold(asked, f64::min)
        };
        let answer = lab::http::get(&address, "/metrics", SCRAPE_PATIENCE).await;
        let ended = shared.seconds();
        shared.in_flight.borrow_mut().remove(&server);
        sampled_after(&shared, ended).await;
        let ran = {
            let facts = shared.facts.borrow();
            facts.exporter.always(begun, ended, |runs| runs)
        };
        if ran {
            let answer = answer?;
            anyhow::ensure!(answer.status == 200, "/metrics answers {}", answer.status);
            let said = Exposition::parse(&answer.text())?.subjects("invariant_violation");
            let expected = expectations(&shared.facts.borrow(), begun, ended);
            judge.borrow_mut().judge(begun, &expected, &said);
            shared.facts.borrow_mut().scrapes.push((begun, ended));
        }
        wait_for_turn(&shared, server, asked).await;
    }
    Ok(())
}

/// Waits until the next scrape of this server. The present interval counts, so that a long one can end early. The
/// second server scrapes at other times than the first.
async fn wait_for_turn(shared: &Shared, server: usize, asked: f64) {
    loop {
        let interval = figure(shared.facts.borrow().interval.now());
        let next = asked
            + if server == 0 {
                interval
            } else {
                interval * 0.7
            };
        let rest = next - shared.seconds();
        if rest <= 0.0 {
            return;
        }
        tokio::time::sleep(Duration::from_secs_f64(rest.min(0.5))).await;
    }
}

/// Waits until every counter and every node was read once more, which belongs to the scrape, or does not answer.
async fn sampled_after(shared: &Shared, ended: f64) {
    let sampled = || {
        let facts = shared.facts.borrow();
        let mut keys = facts.samples.iter();
        let mut nodes = facts
            .nodes
            .iter()
            .filter(|node| node.replaced.is_none() && node.life.now() == Life::Runs);
        keys.all(|of_key| of_key.last().is_some_and(|sample| sample.at > ended))
            && nodes.all(|node| node.checks.last().is_some_and(|checks| checks.to > ended))
    };
    while !sampled() && shared.seconds() < ended + 2.0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Compares the reports with the expectations.
#[derive(Debug, Default)]
struct Judge {
    outcome: Outcome,
    wrong: BTreeSet<(String, String, bool)>,
    episodes: BTreeMap<(String, String), Episode>,
}

impl Judge {
    fn judge(&mut self, at: f64, expected: &Expectations, said: &BTreeSet<(String, String)>) {
        self.outcome.scrapes += 1;
        for (subject, what) in expected {
            let reported = said.contains(subject);
            match what {
                Expected::Must => {
                    self.outcome.musts += 1;
                    let first = Episode {
                        at_first: reported,
                        at_last: reported,
                    };
                    self.episodes
                        .entry(subject.clone())
                        .or_insert(first)
                        .at_last = reported;
                    if !reported {
                        self.note(at, subject, true);
                    }
                }
                Expected::MustNot => {
                    self.outcome.must_nots += 1;
                    if let Some(episode) = self.episodes.remove(subject) {
                        self.outcome.count(episode);
                    }
                    if reported {
                        self.note(at, subject, false);
                    }
                }
                Expected::May => {}
            }
        }
        for subject in said {
            if !expected.contains_key(subject) {
                self.note(at, subject, false);
            }
        }
    }

    fn note(&mut self, at: f64, subject: &(String, String), missed: bool) {
        let (invariant, name) = subject.clone();
        if self.wrong.insert((invariant.clone(), name.clone(), missed)) {
            self.outcome.without_cause += u64::from(!missed);
            self.outcome.disagreements.push(Disagreement {
                at,
                invariant,
                subject: name,
                missed,
            });
        }
    }

    fn ended(mut self) -> Outcome {
        for episode in std::mem::take(&mut self.episodes).into_values() {
            self.outcome.count(episode);
        }
        self.outcome
    }
}

impl Outcome {
    fn count(&mut self, episode: Episode) {
        match (episode.at_first, episode.at_last) {
            (true, true) => self.in_time += 1,
            (false, true) => self.late += 1,
            (_, false) => self.missed += 1,
        }
    }
}
