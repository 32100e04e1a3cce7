//! Tracks which node answers at each address, and whether several do, behind a load balancer or a virtual address. If an
//! address answers with another id than before, the node may also have been replaced. So the address counts as balanced
//! only once the earlier node shows life, and not for ever.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::registration::renewed_at;
use super::{NodeEvidence, NodeMemory, NodeRecord, Probe, RegistryTiming};
use crate::clock::elapsed;
use crate::observation::Reason;
use crate::observe::http::management_api::base_of;

/// How long an address counts as balanced after it showed several nodes. Much longer than a balancer takes to choose
/// another node, and much shorter than a node lives whose address was mistaken for a balancer.
const BALANCED_FOR: Duration = Duration::from_secs(600);

/// How many ids are remembered of one address. Two are enough to recognize a balancer.
const MOST_EARLIER: usize = 16;

/// The ids that one address answered with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::observe) struct Shown {
    /// The id of its last answer.
    id: Option<String>,
    /// When it last answered with that id.
    #[serde(default)]
    last: Option<Timestamp>,
    /// The ids of earlier answers.
    #[serde(default)]
    earlier: BTreeMap<String, Earlier>,
    /// When it last changed between two nodes that are both alive.
    #[serde(default)]
    balanced_at: Option<Timestamp>,
    /// An earlier node is still registered: it may have died, or be alive behind a balancer.
    #[serde(skip)]
    doubtful: bool,
}

/// An id that an address no longer answers with.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Earlier {
    /// When it last answered with this id, if known.
    last: Option<Timestamp>,
    /// When it first answered with another id.
    until: Timestamp,
}

/// The result of a node's probes, best first.
pub(in crate::observe) enum ProbeOutcome {
    Yes(f64),
    /// No answer at an address where the node answered before, or which is configured.
    No(Reason),
    /// The collection ended before an address where the node answered before, or which is configured, answered.
    CutOff,
    /// No answer at an address where the node never answered.
    NeverReached,
    NotAsked,
}

/// The signs of life of a node that answered at an address earlier.
enum Signs {
    /// The node showed life later.
    Alive,
    /// The node's registration has not expired.
    Registered,
    None,
}

impl Shown {
    /// The id of the last answer.
    pub(in crate::observe) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Notes an answer. `registered` returns whether a node is registered.
    fn answered(&mut self, id: &str, now: Timestamp, registered: impl Fn(&str) -> bool) {
        let returns = self.earlier.remove(id).is_some();
        if self.id.as_deref() != Some(id) {
            if let Some(before) = self.id.replace(id.to_owned()) {
                if returns && registered(&before) {
                    self.balanced_at = Some(now);
                }
                let last = self.last;
                self.earlier.insert(before, Earlier { last, until: now });
            }
            while self.earlier.len() > MOST_EARLIER {
                self.earlier.pop_first();
            }
        }
        self.last = Some(now);
    }

    /// Checks whether earlier nodes are alive. `signs` returns the signs of life of a node since a time.
    fn compare(&mut self, now: Timestamp, signs: impl Fn(&str, Timestamp) -> Signs) {
        self.earlier
            .retain(|_, earlier| elapsed(earlier.until, now) < BALANCED_FOR);
        self.doubtful = false;
        for (other, earlier) in &self.earlier {
            match signs(other, earlier.until) {
                Signs::Alive => self.balanced_at = self.balanced_at.max(Some(earlier.until)),
                Signs::Registered => self.doubtful = true,
                Signs::None => {}
            }
        }
    }

    /// Whether several nodes seem to answer here at `now`.
    pub(in crate::observe) fn is_balanced(&self, now: Timestamp) -> bool {
        let balanced = self.balanced_at;
        self.doubtful || balanced.is_some_and(|at| elapsed(at, now) < BALANCED_FOR)
    }

    /// When the earlier node `id` last answered here. `None` if it never did.
    pub(in crate::observe) fn last_answer_of(&self, id: &str) -> Option<Timestamp> {
        self.earlier.get(id)?.last
    }
}

impl NodeMemory {
    /// Replaces the list of static addresses. Forgets the removed ones, and nodes that were known only by them.
    pub(in crate::observe) fn set_statics(&mut self, addresses: impl IntoIterator<Item = String>) {
        let mut before = std::mem::take(&mut self.statics);
        self.statics = addresses
            .into_iter()
            .map(|address| {
                let shown = before.remove(&address);
                let shown = shown.or_else(|| self.others.remove(&address));
                (address, shown.unwrap_or_default())
            })
            .collect();
        for address in before.keys() {
            self.forget_address(address);
        }
        self.others.extend(before);
    }

    /// Forgets which node `address` belongs to, except for nodes that are registered there.
    fn forget_address(&mut self, address: &str) {
        self.known.retain(|_, known| {
            if known.static_address.as_deref() == Some(address) {
                known.static_address = None;
            }
            known.registration.is_some() || known.address.as_deref() != Some(address)
        });
    }

    /// Whether several nodes answer at `address`. Then its answers say nothing about any one of them.
    pub(in crate::observe) fn is_balanced(&self, address: &str, now: Timestamp) -> bool {
        let mut places = [&self.statics, &self.others].into_iter();
        places.any(|shown| {
            let shown = shown.get(address);
            shown.is_some_and(|shown| shown.is_balanced(now))
        })
    }

    /// Notes which node answers at which address.
    pub(in crate::observe) fn learn_addresses(
        &mut self,
        timing: RegistryTiming,
        evidence: &NodeEvidence<'_>,
    ) {
        let now = evidence.now;
        let found = &evidence.registry.found;
        for (address, probe) in evidence.probes {
            if let Some(id) = probe.node_id() {
                let shown = match self.statics.get_mut(address) {
                    Some(shown) => shown,
                    None => self.others.entry(address.clone()).or_default(),
                };
                shown.answered(id, now, |id| found.contains_key(id));
            }
        }
        let all = self.statics.iter_mut().chain(&mut self.others);
        for (address, shown) in all {
            shown.compare(now, |id, after| {
                let mut elsewhere = evidence.probes.iter().filter(|(at, _)| *at != address);
                let seen = self.known.get(id).and_then(|known| known.registration);
                let renewed = seen.and_then(|seen| renewed_at(seen, timing));
                let Some(registration) = found.get(id) else {
                    return Signs::None;
                };
                if elsewhere.any(|(_, probe)| probe.node_id() == Some(id))
                    || renewed.is_some_and(|renewed| renewed > after)
                {
                    Signs::Alive
                } else if registration.address.as_ref() == Some(address) {
                    // Another node has taken over its address: this node has ended.
                    Signs::None
                } else {
                    Signs::Registered
                }
            });
        }
        for address in self.statics.keys().cloned().collect::<Vec<String>>() {
            if self.is_balanced(&address, now) {
                self.forget_address(&address);
                continue;
            }
            let Some(id) = evidence.probes.get(&address).and_then(Probe::node_id) else {
                continue;
            };
            for (other, known) in &mut self.known {
                if other != id && known.static_address.as_ref() == Some(&address) {
                    known.static_address = None;
                }
            }
            let known = self
                .known
                .entry(id.to_owned())
                .or_insert_with(|| NodeRecord {
                    address: Some(address.clone()),
                    first_seen: Some(now),
                    ..NodeRecord::default()
                });
            if known.address.as_ref() != Some(&address) {
                known.static_address = Some(address);
            }
        }
    }

    /// Drops replaced nodes. Either another registered node answers at a node's registered address, without an id once the
    /// node's own registration is gone. Or its registration is
    /// gone, and a node that became known later answers at the only address where it ever answered.
    pub(in crate::observe) fn drop_superseded(&mut self, evidence: &NodeEvidence<'_>) {
        let now = evidence.now;
        let registered = &evidence.registry.found;
        let superseded = |id: &str, known: &NodeRecord| {
            let Some(address) = &known.address else {
                return false;
            };
            let answering = match evidence.probes.get(address) {
                Some(Probe::Answered { node_id, .. }) => node_id.as_deref(),
                Some(Probe::Failed(_) | Probe::CutOff) | None => return false,
            };
            let Some(answering) = answering else {
                return !registered.contains_key(id) && is_shared(id, address, evidence);
            };
            answering != id
                && !self.is_balanced(address, now)
                && registered
                    .get(answering)
                    .is_some_and(|other| other.address.as_ref() == Some(address))
        };
        let replaced = |id: &str, known: &NodeRecord| {
            let gone = evidence.registry.covers(id) && !registered.contains_key(id);
            let alone = gone && !known.reached && known.static_address.is_none();
            alone
                && self.statics.values().any(|shown| {
                    let successor = shown.id().and_then(|id| self.known.get(id));
                    let since = successor.and_then(|successor| successor.first_seen);
                    !shown.is_balanced(now)
                        && shown
                            .last_answer_of(id)
                            .zip(since)
                            .is_some_and(|(l, s)| s > l)
                })
        };
        // Without registrations, an address is one node: the one that answers there now.
        let moved_on = |id: &str, known: &NodeRecord| {
            let answering = known
                .address
                .as_ref()
                .and_then(|at| evidence.probes.get(at));
            let answering = answering.and_then(Probe::node_id);
            evidence.registry.absent && answering.is_some_and(|answering| answering != id)
        };
        let known = self.known.iter();
        let over: Vec<String> = known
            .filter(|(id, known)| {
                superseded(id, known) || replaced(id, known) || moved_on(id, known)
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in over {
            self.known.remove(&id);
        }
    }

    /// Whether the configuration contains `address`. Then it must be reachable.
    pub(in crate::observe) fn is_configured(&self, address: &str) -> bool {
        let mut statics = self.statics.keys();
        statics.any(|given| same_address(given, address))
    }

    /// The best result of the probes of a node's addresses, and whether it is an answer at the registered one. Answers with
    /// another node's id, those without an id where another node is registered, and those of balanced addresses do not
    /// count.
    pub(in crate::observe) fn answer_of(
        &self,
        id: &str,
        evidence: &NodeEvidence<'_>,
    ) -> (ProbeOutcome, bool) {
        let mut answer = ProbeOutcome::NotAsked;
        let Some(known) = self.known.get(id) else {
            return (answer, false);
        };
        let registered = known.address.iter().map(|address| {
            let believed = known.reached || self.is_configured(address);
            (address, true, believed)
        });
        let given = known.static_address.iter();
        let given = given.map(|address| (address, false, true));
        for (address, at_registered, believed) in registered.chain(given) {
            if self.is_balanced(address, evidence.now) {
                continue;
            }
            match evidence.probes.get(address) {
                Some(Probe::Answered { node_id, seconds }) => {
                    let other_node = match node_id {
                        Some(other) => other != id,
                        None => is_shared(id, address, evidence),
                    };
                    if !other_node {
                        return (ProbeOutcome::Yes(*seconds), at_registered);
                    }
                }
                // The node may answer there.
                Some(Probe::CutOff) if believed => answer = ProbeOutcome::CutOff,
                Some(Probe::Failed(reason)) if believed => {
                    if !matches!(answer, ProbeOutcome::CutOff) {
                        answer = ProbeOutcome::No(*reason);
                    }
                }
                Some(Probe::Failed(_) | Probe::CutOff)
                    if matches!(answer, ProbeOutcome::NotAsked) =>
                {
                    answer = ProbeOutcome::NeverReached;
                }
                Some(Probe::Failed(_) | Probe::CutOff) | None => {}
            }
        }
        (answer, false)
    }
}

/// Whether a node other than `id` is registered at `address`.
fn is_shared(id: &str, address: &str, evidence: &NodeEvidence<'_>) -> bool {
    let mut found = evidence.registry.found.iter();
    found.any(|(other, it)| other != id && it.address.as_deref() == Some(address))
}

/// Whether two addresses are known to be the same: loopback has many names, and a URL may name the port or leave it out.
pub(in crate::observe) fn same_address(a: &str, b: &str) -> bool {
    let normal = |address: &str| {
        let url = base_of(address)?;
        let host = match url.host_str()? {
            "localhost" | "[::1]" | "[::]" | "0.0.0.0" => "127.0.0.1",
            other => other,
        };
        let path = url.path().trim_end_matches('/');
        Some(format!("{host}:{}{path}", url.port_or_known_default()?))
    };
    a == b || normal(a).is_some_and(|a| normal(b) == Some(a))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    /// Each answer: its time, its id, and which nodes are alive elsewhere.
    fn shown(answers: &[(i64, &str, &[&str])]) -> Shown {
        let mut shown = Shown::default();
        for (seconds, id, alive) in answers {
            let lives = |other: &str| alive.contains(&other);
            shown.answered(id, at(*seconds), lives);
            shown.compare(at(*seconds), |other, _| {
                if lives(other) {
                    Signs::Alive
                } else {
                    Signs::None
                }
            });
        }
        shown
    }

    #[test]
    fn an_address_is_balanced_once_the_earlier_node_shows_life() {
        assert!(!shown(&[(0, "a", &[]), (15, "b", &[])]).is_balanced(at(15)));
        let confirmed = shown(&[(0, "a", &[]), (15, "b", &[]), (30, "b", &["a"])]);
        assert!(confirmed.is_balanced(at(30)));
        let both = shown(&[(0, "a", &[]), (15, "b", &["a"])]);
        assert!(both.is_balanced(at(15)));
    }

    #[test]
    fn an_address_that_stays_with_one_node_is_no_longer_balanced_after_ten_minutes() {
        let moved = shown(&[(0, "a", &[]), (15, "b", &["a"]), (500, "b", &["a"])]);
        assert!(moved.is_balanced(at(600)));
        assert!(!moved.is_balanced(at(615)));
    }

    #[test]
    fn while_the_earlier_node_is_registered_the_address_counts_as_balanced() {
        let mut shown = shown(&[(0, "a", &[]), (15, "b", &[])]);
        shown.compare(at(20), |_, _| Signs::Registered);
        assert!(shown.is_balanced(at(20)));
        shown.compare(at(40), |_, _| Signs::None);
        assert!(!shown.is_balanced(at(40)));
    }

    #[test]
    fn an_address_is_the_same_with_and_without_its_scheme_and_port() {
        for (a, b, same) in [
            ("https://h", "h:443", true),
            ("https://127.0.0.1:8443", "localhost:8443", true),
            ("[::1]:8000", "0.0.0.0:8000", true),
            ("http://h/a", "h:80", false),
            ("https://h", "h:80", false),
            ("unknown", "unknown", true),
            ("unknown", "other", false),
        ] {
            assert_eq!(same_address(a, b), same, "{a} {b}");
        }
    }

    #[test]
    fn the_remembered_ids_of_an_address_are_bounded() {
        let mut shown = Shown::default();
        for number in 0..100 {
            shown.answered(&number.to_string(), at(number), |_| false);
        }
        assert_eq!(shown.earlier.len(), MOST_EARLIER);
    }

    #[test]
    fn the_state_of_an_older_version_is_read() {
        let shown: Shown = serde_json::from_str(r#"{"id":"n1","balanced":true}"#).unwrap();
        assert_eq!(shown.id(), Some("n1"));
        assert!(!shown.is_balanced(at(0)));
    }
}
