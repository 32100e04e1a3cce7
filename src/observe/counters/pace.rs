//! How much of Redis's time sweeps take: a fixed share, in short steps.
//!
//! One rule is always in force. Redis measures how long it works on the commands of a step. Where it does not, the step is timed
//! from sending to its answer, and the time beyond the round trip of an idle PING counts as Redis's time. Pauses follow until
//! the share holds again. The share is an average: after a rest, [`ALLOWANCE`] may be taken at once, so that small key spaces are
//! scanned without a pause. All sweeps of the process have one share of a server in common, by the server's address. This file
//! does not know the commands of the steps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::Mutex as Turns;
use tokio::time::{Instant, sleep_until};

use crate::lock::lock;

/// How much of Redis's time may be taken without a pause after a rest. With a collection every 15 s, it is less than a
/// hundredth of the time, so it does not show in the limiter's p99. It is enough to count some ten thousand keys.
const ALLOWANCE: Duration = Duration::from_millis(100);

/// How long Redis works on a step. Other clients wait for it, so it adds to the limiter's p99.
const STEP: Duration = Duration::from_micros(120);

/// The same where a PING takes long: the sweep makes one step in a round trip, and must end in time.
const DISTANT_STEP: Duration = Duration::from_micros(300);

/// The fewest commands in a step, however slow Redis seems to be, and the most.
const LEAST_STEP: usize = 30;
const MOST_STEP: usize = 300;

/// What a command takes until Redis has measured some: as on an ordinary core.
const USUAL_COMMAND: Duration = Duration::from_nanos(1_500);

/// What a step takes of Redis besides its commands: its thread wakes up, reads, and writes the answers.
const BESIDES: Duration = Duration::from_micros(20);

/// The least cost of a command if Redis does not measure it. Without it, an idle round trip that was measured too long would
/// make steps free.
const LEAST_COMMAND: Duration = Duration::from_micros(1);

/// The highest cost of one step. A step that took longer waited for other clients' commands.
const MOST_COST: Duration = Duration::from_millis(50);

/// The servers whose time is shared, by their addresses. The process has one, which it passes to all sweeps.
#[derive(Clone, Debug, Default)]
pub struct RedisShares(Arc<Mutex<BTreeMap<String, Weak<Server>>>>);

#[derive(Debug)]
struct Server {
    address: String,
    /// Held during a step, so that steps of several sweeps do not add up to a long one. It is fair: each sweep has its turn.
    account: Turns<Account>,
    timing: Mutex<Timing>,
}

/// How long a server takes.
#[derive(Clone, Copy, Debug)]
struct Timing {
    /// The round trip of an idle PING.
    ping: Duration,
    /// One command, as an average over the last steps.
    command: Duration,
}

impl Timing {
    /// How many commands there are in a step.
    fn step_size(self) -> usize {
        // Longer round trips get longer steps, up to a fifth of what other clients at that distance wait for anyway.
        let step = (self.ping / 5).clamp(STEP, DISTANT_STEP);
        let fits = step.as_nanos() / self.command.as_nanos().max(1);
        usize::try_from(fits)
            .unwrap_or(MOST_STEP)
            .clamp(LEAST_STEP, MOST_STEP)
    }

    /// How long Redis will work on a step of this many commands.
    fn expected(self, commands: usize) -> Duration {
        let commands = u32::try_from(commands).unwrap_or(u32::MAX);
        (self.command.saturating_mul(commands) + BESIDES).min(MOST_COST)
    }

    /// Learns from a step of this many `commands`, on which Redis worked for `spent`.
    fn learn(&mut self, spent: Duration, commands: usize) {
        // The overhead of a small step would count as the commands' own time.
        if commands >= LEAST_STEP {
            let one = spent / u32::try_from(commands).unwrap_or(u32::MAX);
            // Redis may have lost its core meanwhile.
            self.command = (self.command * 7 + one.min(self.command * 4)) / 8;
        }
    }
}

/// When all of the time that was taken from a server is paid for.
#[derive(Clone, Copy, Debug)]
struct Account {
    paid_at: Instant,
}

impl Account {
    /// When the next step may begin.
    fn next(&self, share: f64) -> Instant {
        let ahead = ALLOWANCE.div_f64(share);
        self.paid_at.checked_sub(ahead).unwrap_or(self.paid_at)
    }

    /// Pays for a step that began at `begun`.
    fn charge(&mut self, begun: Instant, cost: Duration, share: f64) {
        self.paid_at = self.paid_at.max(begun) + cost.div_f64(share);
    }
}

/// How much of Redis's time a step of this many commands took if Redis did not measure it.
fn estimate(took: Duration, ping: Duration, commands: usize) -> Duration {
    let commands = u32::try_from(commands).unwrap_or(u32::MAX);
    let least = LEAST_COMMAND.saturating_mul(commands);
    took.saturating_sub(ping).max(least).min(MOST_COST)
}

/// A share of one server's time, for one sweep.
#[derive(Clone, Debug)]
pub(in crate::observe) struct Pacer {
    server: Arc<Server>,
    share: f64,
}

impl RedisShares {
    /// The pacer for the server at `address`, of whose time sweeps may take `share`: 0.001 to 1.
    pub(in crate::observe) fn pacer(&self, address: &str, share: f64) -> Pacer {
        let mut servers = lock(&self.0);
        if let Some(server) = servers.get(address).and_then(Weak::upgrade) {
            return Pacer { server, share };
        }
        // Forget the servers that no sweep reads any more.
        servers.retain(|_, server| server.strong_count() > 0);
        let server = Arc::new(Server {
            address: address.to_owned(),
            account: Turns::new(Account {
                paid_at: Instant::now(),
            }),
            timing: Mutex::new(Timing {
                ping: Duration::ZERO,
                command: USUAL_COMMAND,
            }),
        });
        servers.insert(address.to_owned(), Arc::downgrade(&server));
        Pacer { server, share }
    }
}

impl Pacer {
    /// Sets the round trip of an idle PING.
    pub(in crate::observe) fn set_ping(&self, ping: Duration) {
        lock(&self.server.timing).ping = ping;
    }

    /// How many names one step asks about.
    pub(in crate::observe) fn step_size(&self) -> usize {
        lock(&self.server.timing).step_size()
    }

    /// Does `work`, which sends this many commands, when its turn has come. It returns its result, and how long Redis worked on
    /// it if Redis measured that. Returns the result and how much of Redis's time it took.
    pub(in crate::observe) async fn step<T, F: Future<Output = (T, Option<Duration>)>>(
        &self,
        commands: usize,
        work: impl FnOnce() -> F,
    ) -> (T, Duration) {
        step_at_all(&[self], commands, work).await
    }
}

/// [`Pacer::step`] at several servers at once.
pub(in crate::observe) async fn step_at_all<T, F: Future<Output = (T, Option<Duration>)>>(
    pacers: &[&Pacer],
    commands: usize,
    work: impl FnOnce() -> F,
) -> (T, Duration) {
    // All callers use the same order and each server once: otherwise two callers could wait for each other.
    let mut pacers = pacers.to_vec();
    pacers.sort_by(|one, other| one.server.address.cmp(&other.server.address));
    pacers.dedup_by(|one, other| Arc::ptr_eq(&one.server, &other.server));
    let mut accounts = Vec::with_capacity(pacers.len());
    for pacer in &pacers {
        let account = pacer.server.account.lock().await;
        let next = account.next(pacer.share);
        if next > Instant::now() {
            sleep_until(next).await;
        }
        accounts.push(account);
    }
    let begun = Instant::now();
    let mut before = Vec::with_capacity(accounts.len());
    for (pacer, account) in pacers.iter().zip(&mut accounts) {
        before.push(**account);
        // What is sent is paid for, even if nobody waits for the answer.
        let expected = lock(&pacer.server.timing).expected(commands);
        account.charge(begun, expected, pacer.share);
    }
    let (brought, measured) = work().await;
    let took = begun.elapsed();
    let mut most = Duration::ZERO;
    for ((pacer, account), before) in pacers.iter().zip(&mut accounts).zip(before) {
        let mut timing = lock(&pacer.server.timing);
        let spent = measured.unwrap_or_else(|| estimate(took, timing.ping, commands));
        timing.learn(spent, commands);
        let cost = match measured {
            Some(spent) => (spent + BESIDES).min(MOST_COST),
            None => spent,
        };
        **account = before;
        account.charge(begun, cost, pacer.share);
        most = most.max(cost);
    }
    (brought, most)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PING: Duration = Duration::from_micros(100);

    #[test]
    fn a_step_that_redis_does_not_measure_costs_what_it_takes_beyond_a_ping_and_never_nothing() {
        let micros =
            |took, commands| estimate(Duration::from_micros(took), PING, commands).as_micros();
        assert_eq!(micros(150, 30), 50);
        assert_eq!(micros(90, 30), 30);
        assert_eq!(micros(1_000_000, 30), 50_000);
    }

    #[test]
    fn steps_are_short_and_longer_where_redis_is_far_away() {
        let pacer = RedisShares::default().pacer("a:1", 0.2);
        for (micros, names) in [(0, 80), (100, 80), (1_000, 133), (25_000, 200)] {
            pacer.set_ping(Duration::from_micros(micros));
            assert_eq!(pacer.step_size(), names);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn steps_shrink_where_redis_is_slow_and_the_clients_own_delays_cost_nothing() {
        let pacer = RedisShares::default().pacer("a:1", 0.2);
        let micros = Duration::from_micros;
        // Each answer comes late, but Redis works on 80 commands for 240 µs.
        let begun = Instant::now();
        for _ in 0..100 {
            let work = async || {
                tokio::time::sleep(Duration::from_millis(1)).await;
                ((), Some(micros(240)))
            };
            let ((), cost) = pacer.step(80, work).await;
            assert_eq!(cost, micros(260));
        }
        assert!(begun.elapsed() <= Duration::from_millis(110));
        let step = pacer.step_size();
        assert!((30..50).contains(&step), "{step}");
        // One step during which Redis lost its core, and a small one, prove little.
        for (spent, commands) in [(50_000, 80), (1_000, 2)] {
            pacer
                .step(commands, async || ((), Some(micros(spent))))
                .await;
        }
        assert!(pacer.step_size() >= 30);
        for _ in 0..100 {
            pacer.step(80, async || ((), Some(micros(40)))).await;
        }
        assert!(pacer.step_size() > 200);
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_whose_answer_nobody_waits_for_is_paid_for() {
        let pacer = RedisShares::default().pacer("a:1", 0.2);
        let mut sent = 0;
        for _ in 0..2_000 {
            let step = pacer.step(300, || {
                sent += 1;
                std::future::pending::<((), Option<Duration>)>()
            });
            let answer = tokio::time::timeout(Duration::from_millis(1), step).await;
            assert!(answer.is_err());
        }
        // Each takes 470 µs. There are 400 ms for them in two seconds, and the allowance.
        assert!((900..1_100).contains(&sent), "{sent}");
    }

    /// How much of a server's time concurrent `sweeps` take in `seconds`, if each step takes a millisecond.
    async fn taken(sweeps: &[Pacer], seconds: u64) -> Duration {
        let end = Instant::now() + Duration::from_secs(seconds);
        let work = sweeps.iter().map(|pacer| async move {
            let mut taken = Duration::ZERO;
            loop {
                let step = pacer.step(1, async || {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    ((), None)
                });
                match tokio::time::timeout_at(end, step).await {
                    Ok(((), cost)) => taken += cost,
                    Err(_) => return taken,
                }
            }
        });
        futures_util::future::join_all(work).await.into_iter().sum()
    }

    #[tokio::test(start_paused = true)]
    async fn all_sweeps_of_one_server_together_take_no_more_than_its_share() {
        let shares = RedisShares::default();
        let pacers: Vec<Pacer> = (0..10).map(|_| shares.pacer("a:1", 0.2)).collect();
        let share = Duration::from_millis(200) * 10 + ALLOWANCE;
        let of_all = taken(&pacers, 10).await;
        assert!(
            of_all <= share + Duration::from_millis(2) && of_all.as_secs_f64() > 1.9,
            "{of_all:?}"
        );
        // Another server has its own share, and a forgotten server starts with a full allowance.
        let other = [shares.pacer("b:1", 1.0)];
        assert!(taken(&other, 1).await.as_secs_f64() > 0.9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_sweep_after_a_rest_is_not_kept_waiting() {
        let pacer = RedisShares::default().pacer("a:1", 0.2);
        for _ in 0..2 {
            let begun = Instant::now();
            for _ in 0..99 {
                let work = async || (tokio::time::sleep(Duration::from_millis(1)).await, None);
                pacer.step(1, work).await;
            }
            assert!(begun.elapsed() < Duration::from_millis(120));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn steps_at_several_servers_in_any_order_do_not_wait_for_each_other() {
        let shares = RedisShares::default();
        let (a, b) = (shares.pacer("a:1", 0.5), shares.pacer("b:1", 0.5));
        let both = async |pacers: [&Pacer; 3]| {
            for _ in 0..100 {
                step_at_all(&pacers, 1, async || (tokio::task::yield_now().await, None)).await;
            }
        };
        let all = async { tokio::join!(both([&a, &b, &a]), both([&b, &a, &b])) };
        let done = tokio::time::timeout(Duration::from_secs(60), all).await;
        assert!(done.is_ok());
    }
}
