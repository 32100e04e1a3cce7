//! The counters straight from Redis: SCAN ahead, count behind, several batches under way, nothing kept of a healthy key.
//!
//! Type decides what a counter is, not the name: a ZSET under `ratelimit:`. Limits are learnt from the limit hashes that
//! SCAN brings, not by asking once more for each key; so before a key is reported, or ranked among the fullest, its own
//! limit is read directly.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::SignedDuration;
use redis::aio::MultiplexedConnection;
use redis::{RedisError, RedisResult};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::canary::CANARY_PREFIX;
use super::limits::{LimitMemory, LimitRule, by_rule};
use super::pass::Pass;
use super::redis::{NODE_PREFIX, RedisFailure, redis_millis};
use super::requests::{Batch, Counted, Doubtful, LIMIT, Own, PREFIX, Untold, count, verify};
use super::router::{Router, is_elsewhere};
use crate::clock::{Clock, Moment};
use crate::observation::{CounterView, FallenLimit, Limit, Reason, utilization};
use crate::subject::CounterSink;

/// How hard a sweep presses on Redis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Keys that one SCAN looks at, and about as many commands that go out at once: what others have to wait for.
    step: usize,
    /// Batches under way at once: while one is read, Redis works on the next.
    in_flight: usize,
}

impl Pace {
    /// Nobody else asks for anything: Redis is kept busy, and held for less than a millisecond at a time.
    const FULL: Self = Self {
        step: 1000,
        in_flight: 3,
    };

    /// The pace beside this many commands of others a second, where a round trip takes `ping`.
    ///
    /// While the limiter is in use, its checks come first. A command takes Redis about a microsecond, so they wait for a
    /// tenth of a millisecond at a time, or for a fifth of the round trip that they take anyway.
    pub(super) fn beside(operations_per_second: u64, ping: Duration) -> Self {
        // A health check here and there, or the exporter's own look at the registrations, is no traffic.
        if operations_per_second < 50 {
            return Self::FULL;
        }
        let fifth = usize::try_from(ping.as_micros() / 5).unwrap_or(usize::MAX);
        Self {
            step: fifth.clamp(100, Self::FULL.step),
            in_flight: 1,
        }
    }
}

/// Everything a sweep needs.
pub(super) struct Sweep<'a> {
    pub(super) router: Router,
    /// One for each link of the router.
    pub(super) lanes: Vec<Lane>,
    /// Keys whose limit turned out to be news, by the lane that counts them: they go along with its next batch.
    pub(super) news: Vec<Vec<Vec<u8>>>,
    pub(super) pace: Pace,
    pub(super) clock: &'a Clock,
    pub(super) limits: &'a mut LimitMemory,
    pub(super) rules: &'a [LimitRule],
    pub(super) sink: &'a mut dyn CounterSink,
}

/// One server: what is scanned there is counted there.
pub(super) struct Lane {
    /// `None` if the server cannot be read.
    pub(super) scanner: Option<MultiplexedConnection>,
    /// The server's clock minus ours.
    pub(super) clock_offset: SignedDuration,
}

/// What a sweep brought besides the counters that it streamed.
#[derive(Debug, Default)]
pub(super) struct SweepResult {
    /// The ids of the registrations that it came across.
    pub(super) node_ids: Vec<Vec<u8>>,
    /// Keys that were passed over, by reason, with one of them as an example.
    pub(super) skipped: BTreeMap<Reason, (u64, Vec<u8>)>,
    /// Watched keys that do not exist any more.
    pub(super) gone: Vec<Box<[u8]>>,
    /// Keys whose limit is not known.
    pub(super) undecided: Vec<Vec<u8>>,
    /// Commands sent.
    pub(super) commands: u64,
    /// Keys of any kind that the pass looked at, if it ended.
    pub(super) pass_scanned: u64,
    /// How far the pass came, if it did not end.
    pub(super) coverage: Option<f64>,
    /// Why it stopped early; `None` after a full pass.
    pub(super) stopped: Option<Reason>,
    /// The servers that could not be read, or not to the end, by their place, and why.
    pub(super) failed: BTreeMap<usize, RedisFailure>,
}

impl SweepResult {
    fn skip(&mut self, reason: Reason, key: &[u8]) {
        self.skipped
            .entry(reason)
            .or_insert_with(|| (0, key.to_vec()))
            .0 += 1;
    }
}

/// A key with what is known of it.
struct Known {
    key: Vec<u8>,
    count: u64,
    limit: Limit,
    fell_from: Option<FallenLimit>,
}

impl Known {
    fn view(&self) -> CounterView<'_> {
        CounterView {
            key: &self.key,
            count: self.count,
            limit: self.limit.limit,
            remaining: self.limit.limit.saturating_sub(self.count),
            window_ms: Some(self.limit.window_ms),
            fell_from: self.fell_from,
        }
    }
}

/// One SCAN's answer, and the lane that it came from.
type Scanned = (usize, RedisResult<(Vec<u8>, Vec<Vec<u8>>)>);

impl Sweep<'_> {
    /// Looks at the keys with a violation in progress, whatever happens to the rest. Those that are gone are told.
    pub(super) async fn recheck(&mut self, watched: &[Box<[u8]>], result: &mut SweepResult) {
        for some in watched.chunks(self.pace.step) {
            let keys: Vec<Vec<u8>> = some.iter().map(|key| key.to_vec()).collect();
            let at = self.clock.now();
            let found = self.verify(keys, at, result).await;
            let alive = found.iter().filter(|known| known.count > 0);
            let alive = alive.map(|known| &known.key).chain(&result.undecided);
            let alive: HashSet<&[u8]> = alive.map(Vec::as_slice).collect();
            let gone = some.iter().filter(|key| !alive.contains(&***key));
            result.gone.extend(gone.cloned());
            self.tell_aside(at, &found);
        }
    }

    /// Counts keys that were named from elsewhere: they were written to. `names` are whole Redis keys of `lane`. Tells
    /// whether it came to their end before `stop`.
    pub(super) async fn look_at(
        &mut self,
        lane: usize,
        names: Vec<Vec<u8>>,
        stop: Instant,
        result: &mut SweepResult,
    ) -> bool {
        let mut names = names.into_iter().peekable();
        while names.peek().is_some() && !result.failed.contains_key(&lane) {
            if Instant::now() >= stop {
                return false;
            }
            let at = self.clock.now();
            let some = names.by_ref().take(self.pace.step).collect();
            let batch = self.sort(some, result);
            match self.count(lane, batch, at).await {
                Ok(counted) => self.take(at, counted, None, result).await,
                Err(error) => fail(lane, &error, result),
            }
        }
        true
    }

    /// Goes on with the pass, or begins one, until `stop`. If it is dropped half-way, the pass is void.
    pub(super) async fn run(
        &mut self,
        stop: Instant,
        pass: &mut Option<Pass>,
        result: &mut SweepResult,
    ) {
        let mut current = match pass.take() {
            Some(current) => current,
            None => self.begin(result).await,
        };
        current.fit(self.router.links().iter().map(|link| link.primary.as_str()));
        let mut scanning = JoinSet::new();
        let mut scanned = self.scan(&mut current, &mut scanning, result);
        let most_counting = self.pace.in_flight * scanning.len();
        let mut counting = JoinSet::new();
        let mut drained = false;
        // However small the budget is, each collection takes one step at least: it would never end otherwise.
        let mut begun = false;
        loop {
            let time = !begun || Instant::now() < stop;
            let room = counting.len() < most_counting && !drained && time;
            tokio::select! {
                next = scanned.recv(), if room => {
                    let Some((lane, answer)) = next else {
                        drained = true; // every lane came to its end, or said before why not
                        continue;
                    };
                    begun = true;
                    if result.failed.contains_key(&lane) {
                        continue;
                    }
                    result.commands += 1;
                    let (cursor, names) = match answer {
                        Ok(answer) => answer,
                        Err(error) => {
                            fail(lane, &error, result);
                            continue;
                        }
                    };
                    let part = current.part(&self.router.links()[lane].primary);
                    part.ended = cursor == b"0";
                    part.cursor = cursor;
                    part.scanned += self.pace.step as u64;
                    let at = self.clock.now();
                    let mut batch = self.sort(names, result);
                    batch.asides = self.take_news(lane, at);
                    let work = self.count(lane, batch, at);
                    counting.spawn(async move { (lane, at, work.await) });
                }
                Some(done) = counting.join_next() => {
                    // A task of ours neither panics nor is aborted while the set lives.
                    let Ok((lane, at, counted)) = done else { continue };
                    match counted {
                        Ok(counted) => self.take(at, counted, Some(&mut current), result).await,
                        Err(error) => fail(lane, &error, result),
                    }
                }
                else => break,
            }
        }
        for news in std::mem::take(&mut self.news) {
            let at = self.clock.now();
            let found = self.verify(news, at, result).await;
            self.take_aside(at, &found, Some(&mut current));
        }
        let unread = result.failed.values().next().map(|failure| failure.reason);
        if current.ended() && unread.is_none() {
            result.pass_scanned = current.scanned();
            self.end(&current);
            result.stopped = None;
        } else if unread.is_some() && self.rest_ended(&mut current, result) {
            // Nothing is left to go on with: the next collection looks at those who answer once more.
            result.coverage = current.coverage();
            result.stopped = unread;
        } else {
            result.coverage = current.coverage();
            result.stopped = Some(unread.unwrap_or(Reason::Budget));
            *pass = Some(current);
        }
    }

    /// Scans every lane that can be read and has not ended, each ahead of who counts.
    fn scan(
        &self,
        pass: &mut Pass,
        scanning: &mut JoinSet<()>,
        result: &SweepResult,
    ) -> mpsc::Receiver<Scanned> {
        let (sender, scanned) = mpsc::channel(self.pace.in_flight);
        for (number, lane) in self.lanes.iter().enumerate() {
            let part = pass.part(&self.router.links()[number].primary);
            let Some(connection) = lane.scanner.clone() else {
                continue;
            };
            if !part.ended && !result.failed.contains_key(&number) {
                let cursor = part.cursor.clone();
                scanning.spawn(scan_ahead(
                    number,
                    connection,
                    cursor,
                    self.pace,
                    sender.clone(),
                ));
            }
        }
        scanned
    }

    /// Whether all lanes have ended but those that failed.
    fn rest_ended(&self, pass: &mut Pass, result: &SweepResult) -> bool {
        let mut links = self.router.links().iter().enumerate();
        links
            .all(|(lane, link)| result.failed.contains_key(&lane) || pass.part(&link.primary).ended)
    }

    async fn begin(&mut self, result: &mut SweepResult) -> Pass {
        self.sink.begin_pass();
        let mut pass = Pass::default();
        let sizes = self.router.links().iter().map(|link| async {
            let mut connection = link.connection.clone().ok()?;
            let size: RedisResult<u64> = redis::cmd("DBSIZE").query_async(&mut connection).await;
            // A Redis user without DBSIZE costs the coverage ratio, nothing else.
            size.ok()
        });
        let sizes = join_all(sizes).await;
        result.commands += sizes.len() as u64;
        for (link, size) in self.router.links().iter().zip(sizes) {
            pass.part(&link.primary).expected = size.unwrap_or(0);
        }
        pass
    }

    /// The pass has seen every key.
    fn end(&mut self, pass: &Pass) {
        if pass.moved {
            // Some keys may have been seen twice, and some limits not at all.
            return;
        }
        self.limits.end_pass(self.clock.now().steady);
        self.sink.end_pass();
    }

    /// The counts of a batch, as a future of its own.
    fn count(
        &self,
        lane: usize,
        batch: Batch,
        at: Moment,
    ) -> impl Future<Output = RedisResult<Counted>> + Send + use<> {
        let now_ms = redis_millis(at, self.lanes[lane].clock_offset);
        let connection = self.router.links()[lane].connection.clone();
        let cluster = self.router.is_cluster();
        async move { count(connection?, batch, now_ms, cluster).await }
    }

    /// Sorts names by what is to be asked of them.
    fn sort(&mut self, names: Vec<Vec<u8>>, result: &mut SweepResult) -> Batch {
        let at = self.clock.now().steady;
        let mut batch = Batch::default();
        for mut name in names {
            if let Some(id) = name.strip_prefix(NODE_PREFIX) {
                result.node_ids.push(id.to_vec());
            } else if name.starts_with(PREFIX) {
                name.drain(..PREFIX.len());
                if name.starts_with(CANARY_PREFIX.as_bytes()) {
                    continue;
                }
                if let Some(key) = name.strip_prefix(LIMIT) {
                    batch.limits.push(key.to_vec());
                } else if name.ends_with(b":seq") {
                    batch.sequences.push(name);
                } else {
                    let window_ms = self.window(&name, at);
                    batch.keys.push((name, window_ms));
                }
            }
        }
        batch
    }

    /// The window to count `key` over, by all that is known.
    fn window(&mut self, key: &[u8], now: jiff::Timestamp) -> u64 {
        by_rule(self.rules, key)
            .or_else(|| self.limits.current(key, now).map(|(limit, _)| limit))
            .map_or(60_000, |limit| limit.window_ms)
    }

    /// Takes in one batch, and asks again where its answers are not enough.
    async fn take(
        &mut self,
        at: Moment,
        counted: Counted,
        mut pass: Option<&mut Pass>,
        result: &mut SweepResult,
    ) {
        result.commands += counted.commands;
        let mut doubtful = counted.elsewhere;
        let mut sure = Vec::with_capacity(counted.keys.len());
        for (key, count) in counted.keys {
            match count {
                None => result.skip(Reason::WrongType, &key),
                // Nothing inside the window: the key only waits for its TTL.
                Some(0) => {}
                Some(count) => match self.judge(at, key, count, pass.as_deref_mut(), result) {
                    Judged::Sure(known) => sure.push(known),
                    Judged::Doubtful(key) => doubtful.push(key),
                    Judged::Skipped => {}
                },
            }
        }
        // Counters whose names look like something else.
        let mut odd = counted.not_sequences;
        let mut news = Vec::new();
        let mut again = Vec::new();
        for (key, own) in counted.limits {
            match own {
                Own::None | Own::Some(_) => {
                    if self.limits.learn(&key, own.limit(), at.steady) {
                        match (own, pass.as_deref_mut()) {
                            (Own::Some(limit), Some(pass)) if self.counts_as(limit) => {
                                again.extend(self.rejudge(key, limit, pass));
                            }
                            _ => news.push(key),
                        }
                    }
                }
                Own::Invalid(Reason::WrongType) => odd.push([LIMIT, &key].concat()),
                Own::Invalid(reason) => {
                    result.skip(reason, &key);
                    self.limits.set_invalid(&key);
                }
            }
        }
        doubtful.append(&mut odd);
        let mut verified = self.verify(doubtful, at, result).await;
        verified.retain(|known| known.count > 0);
        sure.append(&mut verified);
        if pass.is_some() {
            let views: Vec<CounterView<'_>> = sure.iter().map(Known::view).collect();
            self.sink.counters(at, &views);
        } else {
            self.tell_aside(at, &sure);
        }

        // Keys whose limit is news may have been counted under another one already.
        let mut found = Vec::with_capacity(counted.asides.len());
        for (key, count) in counted.asides {
            match count.map(|count| self.judge(at, key, count, None, result)) {
                Some(Judged::Sure(known)) => found.push(known),
                Some(Judged::Doubtful(key)) => again.push(key),
                Some(Judged::Skipped) | None => {}
            }
        }
        if pass.is_some() {
            for key in news {
                let lane = self.router.link_of(&[PREFIX, &key].concat());
                self.news[lane.unwrap_or(0)].push(key);
            }
        } else {
            again.append(&mut news);
        }
        found.append(&mut self.verify(again, at, result).await);
        self.take_aside(at, &found, pass);
    }

    /// Takes in keys that do not belong to the pass, which may have counted them under another limit before.
    fn take_aside(&mut self, at: Moment, found: &[Known], pass: Option<&mut Pass>) {
        if let (Some(pass), Some(default)) = (pass, self.limits.default_limit()) {
            for known in found {
                if let Some(told) = pass.recall(self.limits.hash(&known.key)) {
                    let right = (known.count > 0).then_some((known.count, known.limit.limit));
                    self.sink.correct((told, default.limit), right);
                }
            }
        }
        self.tell_aside(at, found);
    }

    /// Whether counts under the default limit, in the first pass, are counts under `limit` as well.
    fn counts_as(&self, limit: Limit) -> bool {
        let default = self.limits.default_limit();
        !self.limits.primed && default.is_some_and(|default| default.window_ms == limit.window_ms)
    }

    /// A key turned out to have a limit of its own. Sets right what the pass told of it, if it did, and gives it back if
    /// it has to be looked at.
    fn rejudge(&mut self, key: Vec<u8>, limit: Limit, pass: &mut Pass) -> Option<Vec<u8>> {
        let default = self.limits.default_limit()?;
        let count = pass.recall(self.limits.hash(&key))?;
        self.sink
            .correct((count, default.limit), Some((count, limit.limit)));
        let used = utilization(count, limit.limit);
        (count > limit.limit || self.sink.ranks(used, &key)).then_some(key)
    }

    /// The keys to be counted along with the next batch of `lane`.
    fn take_news(&mut self, lane: usize, at: Moment) -> Vec<(Vec<u8>, u64)> {
        let news = std::mem::take(&mut self.news[lane]).into_iter();
        news.map(|key| {
            let window_ms = self.window(&key, at.steady);
            (key, window_ms)
        })
        .collect()
    }

    /// Judges a count by the limit that is remembered, if that is good enough.
    fn judge(
        &mut self,
        at: Moment,
        key: Vec<u8>,
        count: u64,
        pass: Option<&mut Pass>,
        result: &mut SweepResult,
    ) -> Judged {
        let ruled = by_rule(self.rules, &key).map(|limit| (limit, None));
        if ruled.is_none() && self.limits.is_invalid(&key) {
            return Judged::Skipped;
        }
        let Some((limit, fell_from)) = ruled.or_else(|| self.limits.current(&key, at.steady))
        else {
            result.skip(Reason::NoDefaultLimit, &key);
            return Judged::Skipped;
        };
        let used = utilization(count, limit.limit);
        if ruled.is_none() && (count > limit.limit || self.sink.ranks(used, &key)) {
            return Judged::Doubtful(key);
        }
        if let Some(pass) = pass.filter(|_| !self.limits.primed && ruled.is_none()) {
            let hash = self.limits.hash(&key);
            if !self.limits.has_own(hash) {
                pass.remember(hash, count);
            }
        }
        Judged::Sure(Known {
            key,
            count,
            limit,
            fell_from,
        })
    }

    /// Reads limit and count of `keys` directly. What is no counter, or has no valid limit, is left out.
    async fn verify(
        &mut self,
        keys: Vec<Vec<u8>>,
        at: Moment,
        result: &mut SweepResult,
    ) -> Vec<Known> {
        let usual = self
            .limits
            .default_limit()
            .map_or(60_000, |limit| limit.window_ms);
        let now_ms = |lane: usize| redis_millis(at, self.lanes[lane].clock_offset);
        let rule = |key: &[u8]| by_rule(self.rules, key);
        let windows = keys.into_iter().map(|key| {
            let remembered = self.limits.current(&key, at.steady);
            (key, remembered.map_or(usual, |(limit, _)| limit.window_ms))
        });
        let keys: Vec<Doubtful> = windows.collect();
        let answers = verify(&self.router, &keys, now_ms, rule, usual).await;
        result.commands += 2 * keys.len() as u64;
        let mut found = Vec::with_capacity(keys.len());
        for ((key, _), answer) in keys.into_iter().zip(answers) {
            let mut untold = |(lane, error): Untold, key: &[u8]| match lane {
                Some(lane) if !is_elsewhere(&error) => fail(lane, &error, result),
                _ => result.skip(Reason::Resharding, key),
            };
            let count = match answer.count {
                Ok(count) => count,
                Err(why) => {
                    untold(why, &key);
                    result.undecided.push(key);
                    continue;
                }
            };
            let own = match answer.own {
                Ok(own) => Some(own),
                Err(why) => {
                    untold(why, &key);
                    // After a pass over everything, what is remembered is what it was last: good enough while the
                    // server that holds it is away, since nobody can change it there.
                    if !self.limits.primed {
                        result.undecided.push(key);
                        continue;
                    }
                    None
                }
            };
            let Some(count) = count else {
                result.skip(Reason::WrongType, &key);
                continue;
            };
            let ruled = by_rule(self.rules, &key).map(|limit| (limit, None));
            let limit = match (ruled, own) {
                (Some(ruled), _) => Some(ruled),
                (None, None) => self.limits.current(&key, at.steady),
                (None, Some(Own::Some(limit))) => {
                    self.limits.learn(&key, Some(limit), at.steady);
                    self.limits.current(&key, at.steady)
                }
                // What stands where the limit would be is another key's counter.
                (None, Some(Own::None | Own::Invalid(Reason::WrongType))) => {
                    self.limits.learn(&key, None, at.steady);
                    self.limits.current(&key, at.steady)
                }
                (None, Some(Own::Invalid(reason))) => {
                    result.skip(reason, &key);
                    self.limits.set_invalid(&key);
                    result.undecided.push(key);
                    continue;
                }
            };
            let Some((limit, fell_from)) = limit else {
                result.skip(Reason::NoDefaultLimit, &key);
                result.undecided.push(key);
                continue;
            };
            found.push(Known {
                key,
                count,
                limit,
                fell_from,
            });
        }
        found
    }

    /// Tells counters that do not belong to the pass, those at zero included: they may have been in violation.
    fn tell_aside(&mut self, at: Moment, found: &[Known]) {
        let views: Vec<CounterView<'_>> = found.iter().map(Known::view).collect();
        self.sink.recheck(at, &views);
    }
}

enum Judged {
    Sure(Known),
    /// To be looked at directly before anything is said.
    Doubtful(Vec<u8>),
    Skipped,
}

/// Notes that a server cannot be read any further in this collection.
fn fail(lane: usize, error: &RedisError, result: &mut SweepResult) {
    result
        .failed
        .entry(lane)
        .or_insert_with(|| RedisFailure::of("SCAN and ZCOUNT", error));
}

/// Scans from `cursor` on, ahead of who counts, until the end or until nobody takes the names any more.
async fn scan_ahead(
    lane: usize,
    mut connection: MultiplexedConnection,
    mut cursor: Vec<u8>,
    pace: Pace,
    sender: mpsc::Sender<Scanned>,
) {
    loop {
        let answer: RedisResult<(Vec<u8>, Vec<Vec<u8>>)> = redis::cmd("SCAN")
            .arg(&cursor)
            .arg("MATCH")
            .arg("ratelimit*")
            .arg("COUNT")
            .arg(pace.step)
            .query_async(&mut connection)
            .await;
        let last = match &answer {
            Ok((next, _)) => {
                cursor.clone_from(next);
                next == b"0"
            }
            Err(_) => true,
        };
        if sender.send((lane, answer)).await.is_err() || last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beside_traffic_a_sweep_holds_redis_for_a_fifth_of_a_round_trip_at_most() {
        let step = |operations, micros| {
            let pace = Pace::beside(operations, Duration::from_micros(micros));
            (pace.step, pace.in_flight)
        };
        assert_eq!(step(0, 200), (1000, 3));
        assert_eq!(step(49, 25_000), (1000, 3));
        assert_eq!(step(50, 200), (100, 1));
        assert_eq!(step(50, 2_000), (400, 1));
        assert_eq!(step(5_000, 25_000), (1000, 1));
    }
}
