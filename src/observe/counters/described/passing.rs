//! The pass over the names, and the keys that are read out of turn.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};

use futures_util::future::join_all;
use redis::{RedisError, RedisResult};
use tokio::time::Instant;

use super::judging::{Judged, Seen};
use super::looks::read;
use super::totals::Totals;
use super::{CLOCK_TOLERANCE_MS, Described, Means, ruled};
use crate::limiters::{Counter, Finding, Known, Limits, Look, Matched};
use crate::observation::{CounterView, Reason, utilization};
use crate::observe::counters::pace::Pacer;
use crate::observe::counters::sweep::{SweepResult, fail};
use crate::observe::redis::errors::is_elsewhere;
use crate::observe::redis::server_state::redis_millis;

/// Names that SCAN walks by in a step, for each that a step reads.
const NAMES: usize = 4;

/// A pass that is not finished.
#[derive(Debug, Default)]
pub(in crate::observe) struct Pass {
    /// By the primary's address.
    parts: BTreeMap<String, Part>,
    /// Keys may have moved meanwhile: what did not show is not gone for sure.
    moved: bool,
    totals: Totals,
}

/// One server's part.
#[derive(Debug)]
struct Part {
    /// Which of the description's scans.
    scan: usize,
    cursor: Vec<u8>,
    scanned: u64,
    /// Keys of any kind that there were at its start; 0 if that is not known.
    expected: u64,
    ended: bool,
}

/// A server's answer to SCAN.
type Scanned = RedisResult<(Vec<u8>, Vec<Vec<u8>>)>;

impl Described {
    /// Reads watched keys whose names are known, those that are shown before others.
    pub(super) async fn recheck(
        &mut self,
        means: &mut Means<'_>,
        wanted: &HashSet<&[u8]>,
        half: Instant,
        result: &mut SweepResult,
    ) {
        let known = self.names.iter();
        let mut known: Vec<_> = known
            .map(|(label, kept)| (label.clone(), kept.name.clone()))
            .collect();
        known.sort_unstable_by_key(|(label, _)| (!means.sink.is_shown(label), label.clone()));
        for (number, some) in known.chunks(means.step).enumerate() {
            if number > 0 && Instant::now() >= half {
                result.postponed = true;
                return;
            }
            let names: Vec<Vec<u8>> = some.iter().map(|(_, name)| name.clone()).collect();
            let sampled = vec![true; names.len()];
            let findings = self.look_at(means, &names, &sampled, result).await;
            let at = means.clock.now();
            let mut seen = Vec::new();
            for ((label, _), finding) in some.iter().zip(findings) {
                let Some(finding) = finding else { continue };
                match self.judge(&finding) {
                    Judged::Counter(counter) => seen.push(counter),
                    Judged::Unjudged(label, reason) => result.unjudged.push((label, reason)),
                    // The pass comes across the key of the window that is now.
                    Judged::Passed => {}
                    Judged::Nothing => {
                        self.names.remove(label);
                        result.gone.push(label.clone());
                    }
                }
            }
            let views: Vec<CounterView<'_>> = seen
                .iter()
                .filter(|seen| wanted.contains(&*seen.label))
                .map(Seen::view)
                .collect();
            means.sink.recheck(at, &views);
        }
    }

    /// Goes on with the pass, or begins one, until `stop`. If it is dropped half-way, the pass is void.
    pub(super) async fn go_on(
        &mut self,
        means: &mut Means<'_>,
        wanted: &HashSet<&[u8]>,
        stop: Instant,
        result: &mut SweepResult,
    ) {
        let scans = self.description.scans();
        let mut pass = match self.pass.take() {
            Some(pass) => pass,
            None => begin(means, result).await,
        };
        pass.fit(means);
        let kept = self.names.values();
        let watched: HashSet<Vec<u8>> = kept.map(|kept| kept.name.clone()).collect();
        let keys = (wanted, &watched);
        let mut begun = false;
        while !pass.ended(means, result) && (!begun || Instant::now() < stop) {
            begun = true;
            let scanned = pass.scan(means, &scans, result).await;
            for (lane, names) in scanned {
                self.take(means, &mut pass, keys, lane, &names, result)
                    .await;
            }
        }
        let unread = result.failed.values().next().map(|failure| failure.reason);
        result.coverage = pass.coverage();
        if !pass.ended(means, result) {
            result.stopped = Some(unread.unwrap_or(Reason::Budget));
            self.pass = Some(pass);
            return;
        }
        self.number += 1;
        result.stopped = unread;
        if unread.is_none() && !pass.moved && !means.incomplete {
            means.sink.end_pass();
            result.pass_scanned = pass.parts.values().map(|part| part.scanned).sum();
            self.last = Some(pass.totals);
        }
    }

    /// Reads the names that a scan brought.
    async fn take(
        &mut self,
        means: &mut Means<'_>,
        pass: &mut Pass,
        (wanted, watched): (&HashSet<&[u8]>, &HashSet<Vec<u8>>),
        lane: usize,
        names: &[Vec<u8>],
        result: &mut SweepResult,
    ) {
        for names in names.chunks(means.step) {
            let hasher = BuildHasherDefault::<DefaultHasher>::default();
            let sampled: Vec<bool> = names
                .iter()
                .map(|name| {
                    let sampled = pass.totals.samples(hasher.hash_one(name), self.number);
                    sampled || watched.contains(name)
                })
                .collect();
            let findings = self
                .look_at_lane(means, names, &sampled, Some(lane), result)
                .await;
            let at = means.clock.now();
            let mut seen = Vec::new();
            let mut empty = Vec::new();
            for finding in findings.into_iter().flatten() {
                pass.totals.add(&finding);
                match self.judge(&finding) {
                    Judged::Counter(counter) if !counter.is_empty() => {
                        let used = utilization(counter.view().count, counter.view().limit);
                        let ranks = means.sink.ranks(used, &counter.label);
                        if counter.is_remarkable() || ranks || wanted.contains(&*counter.label) {
                            self.keep(&counter);
                        }
                        seen.push(counter);
                    }
                    Judged::Counter(counter) => empty.push(counter),
                    Judged::Unjudged(label, reason) => {
                        result.skip(reason, &label);
                        if wanted.contains(&*label) {
                            result.unjudged.push((label, reason));
                        }
                    }
                    Judged::Passed | Judged::Nothing => {}
                }
            }
            for counter in &seen {
                if counter.lacks_limit() {
                    result.skip(Reason::NoLimit, &counter.label);
                }
            }
            let views: Vec<CounterView<'_>> = seen.iter().map(Seen::view).collect();
            means.sink.counters(at, &views);
            // They may have been in violation.
            let empty = empty.iter().filter(|seen| wanted.contains(&*seen.label));
            let views: Vec<CounterView<'_>> = empty.map(Seen::view).collect();
            means.sink.recheck(at, &views);
        }
    }

    async fn look_at(
        &self,
        means: &mut Means<'_>,
        names: &[Vec<u8>],
        sampled: &[bool],
        result: &mut SweepResult,
    ) -> Vec<Option<Finding>> {
        self.look_at_lane(means, names, sampled, None, result).await
    }

    /// What became of each name; nothing of those that could not be read.
    async fn look_at_lane(
        &self,
        means: &mut Means<'_>,
        names: &[Vec<u8>],
        sampled: &[bool],
        lane: Option<usize>,
        result: &mut SweepResult,
    ) -> Vec<Option<Finding>> {
        let known = means.rules;
        let rules = |counter: &Counter, matched: &Matched| ruled(known, counter, matched);
        let api = |_: &Counter, _: &Matched| Limits::default();
        let at = means.clock.now();
        let lanes: Vec<usize> = names
            .iter()
            .map(|name| lane.or_else(|| means.router.link_of(name)).unwrap_or(0))
            .collect();
        let looks = names
            .iter()
            .zip(sampled)
            .zip(&lanes)
            .map(|((name, sampled), lane)| {
                let offset = means.lanes.get(*lane).map(|lane| lane.clock_offset);
                let now_ms = redis_millis(at, offset.unwrap_or_default());
                let known = Known {
                    rules: &rules,
                    api: &api,
                    now_ms: u64::try_from(now_ms).unwrap_or(0),
                    tolerance_ms: CLOCK_TOLERANCE_MS,
                    sampled: *sampled,
                };
                Look::begin(&self.description, known, name, None)
            });
        let looks: Vec<Look<'_>> = looks.collect();
        let asked: BTreeSet<usize> = lanes.iter().copied().collect();
        let asked = asked.into_iter().filter_map(|lane| means.lanes.get(lane));
        let pacers: Vec<&Pacer> = asked.map(|lane| &lane.pacer).collect();
        let findings = read(&means.router, &pacers, looks, &mut result.commands).await;
        let findings = findings.into_iter().zip(names).zip(lanes);
        findings
            .map(|((finding, name), lane)| match finding {
                Ok(finding) => Some(finding),
                Err(error) => {
                    unread(&error, lane, name, result);
                    None
                }
            })
            .collect()
    }
}

/// Notes that `name` could not be read.
fn unread(error: &RedisError, lane: usize, name: &[u8], result: &mut SweepResult) {
    if is_elsewhere(error) {
        result.skip(Reason::Resharding, name);
    } else {
        fail(lane, error, result);
    }
}

/// Begins a pass.
async fn begin(means: &mut Means<'_>, result: &mut SweepResult) -> Pass {
    means.sink.begin_pass();
    let mut pass = Pass::default();
    let sizes = means.router.links().iter().map(|link| async {
        let mut connection = link.connection.clone().ok()?;
        let size: RedisResult<u64> = redis::cmd("DBSIZE").query_async(&mut connection).await;
        // Without it, the coverage is not known, and nothing else.
        size.ok()
    });
    let sizes = join_all(sizes).await;
    result.commands += sizes.len() as u64;
    for (link, size) in means.router.links().iter().zip(sizes) {
        let expected = size.unwrap_or(0);
        let part = Part {
            expected,
            ..Part::default()
        };
        pass.parts.insert(link.primary.clone(), part);
    }
    pass
}

impl Default for Part {
    fn default() -> Self {
        Self {
            scan: 0,
            cursor: b"0".to_vec(),
            scanned: 0,
            expected: 0,
            ended: false,
        }
    }
}

impl Pass {
    /// Fits it to the servers that there are now.
    fn fit(&mut self, means: &Means<'_>) {
        let primaries = || means.router.links().iter().map(|link| &link.primary);
        let before = self.parts.len();
        self.parts
            .retain(|primary, _| primaries().any(|now| now == primary));
        self.moved |= self.parts.len() < before || means.incomplete;
        for primary in primaries() {
            self.parts.entry(primary.clone()).or_default();
        }
    }

    /// Whether every part has ended but those of servers that cannot be read.
    fn ended(&self, means: &Means<'_>, result: &SweepResult) -> bool {
        let mut links = means.router.links().iter().enumerate();
        links.all(|(lane, link)| {
            let ended = self.parts.get(&link.primary).is_some_and(|part| part.ended);
            ended || result.failed.contains_key(&lane)
        })
    }

    /// One SCAN at each server that has not ended, all at once; the names by lane.
    async fn scan(
        &mut self,
        means: &mut Means<'_>,
        scans: &[Vec<u8>],
        result: &mut SweepResult,
    ) -> Vec<(usize, Vec<Vec<u8>>)> {
        let mut asked = Vec::new();
        for (number, (link, lane)) in means.router.links().iter().zip(&means.lanes).enumerate() {
            let part = self.parts.get(&link.primary).filter(|part| !part.ended);
            let (Some(part), Some(scanner)) = (part, &lane.scanner) else {
                continue;
            };
            if result.failed.contains_key(&number) {
                continue;
            }
            let mut command = redis::cmd("SCAN");
            command
                .arg(&part.cursor)
                .arg("MATCH")
                .arg(&scans[part.scan]);
            let names = NAMES * means.step;
            command.arg("COUNT").arg(names);
            let (scanner, pacer) = (scanner.clone(), &lane.pacer);
            asked.push(async move {
                let mut scanner = scanner;
                // A name that SCAN walks by costs less than a command.
                let scan = || async move { command.query_async(&mut scanner).await };
                let (answer, _): (Scanned, _) = pacer.step(names / 8, scan).await;
                (number, answer)
            });
        }
        let mut scanned = Vec::new();
        for (lane, answer) in join_all(asked).await {
            result.commands += 1;
            match answer {
                Ok((cursor, names)) => {
                    let primary = &means.router.links()[lane].primary;
                    if let Some(part) = self.parts.get_mut(primary) {
                        part.go_on(cursor, scans.len(), NAMES * means.step);
                    }
                    scanned.push((lane, names));
                }
                Err(error) => fail(lane, &error, result),
            }
        }
        scanned
    }

    /// The share of the key space that it has covered; `None` if that is not known.
    fn coverage(&self) -> Option<f64> {
        let known = || self.parts.values().filter(|part| part.expected > 0);
        let expected: u64 = known().map(|part| part.expected).sum();
        let covered = |part: &Part| {
            if part.ended {
                part.expected
            } else {
                part.scanned.min(part.expected)
            }
        };
        let covered: u64 = known().map(covered).sum();
        #[expect(clippy::cast_precision_loss, reason = "a ratio for display")]
        let ratio = covered as f64 / expected as f64;
        (expected > 0).then_some(ratio)
    }
}

impl Part {
    /// SCAN has come to `cursor`.
    fn go_on(&mut self, cursor: Vec<u8>, scans: usize, step: usize) {
        // Each further scan goes over all names once more.
        self.scanned += (step / scans.max(1)).max(1) as u64;
        if cursor == b"0" {
            self.scan += 1;
            self.ended = self.scan >= scans;
        }
        self.cursor = cursor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_when_all_of_its_scans_have() {
        let mut part = Part::default();
        let mut ended = Vec::new();
        for cursor in ["7", "0", "9", "0"] {
            part.go_on(cursor.as_bytes().to_vec(), 2, 100);
            ended.push((part.scan, part.ended));
        }
        assert_eq!(ended, [(0, false), (1, false), (1, false), (2, true)]);
        assert_eq!(part.scanned, 200);
    }
}
