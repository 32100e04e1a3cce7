//! How much of Redis's time sweeps take: a fixed share, in short steps.
//!
//! One rule is always in force. A step is timed from sending to its answer. The time beyond the round trip of an idle PING
//! counts as Redis's time. Pauses follow until the share holds again. The share is an average: after a rest, [`ALLOWANCE`] may
//! be taken at once, so that small key spaces are scanned without a pause. All sweeps of the process have one share of a server
//! in common, by the server's address. This file does not know the commands of the steps.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::sync::Mutex as Turns;
use tokio::time::{Instant, sleep_until};

use crate::lock::lock;

/// How much of Redis's time may be taken without a pause after a rest. With a collection every 15 s, it is less than a
/// hundredth of the time, so it does not show in the limiter's p99. It is enough to count some ten thousand keys.
const ALLOWANCE: Duration = Duration::from_millis(100);

/// The fewest names in a step. Other clients of Redis wait for a step. On loopback and without pauses, a sweep in steps of 100
/// names doubled the limiter's p99; steps of 30 names raised it by a quarter.
const LEAST_STEP: usize = 30;

/// The most names in a step: they block Redis for some 150 µs.
const MOST_STEP: usize = 100;

/// The least cost of a command. Without it, an idle round trip that was measured too long would make steps free.
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
    /// The round trip of an idle PING.
    ping: Mutex<Duration>,
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

/// How much of Redis's time a step of this many commands took.
fn cost(took: Duration, ping: Duration, commands: usize) -> Duration {
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
    /// The pacer for the server at `address`, of whose time sweeps may take `share`: above 0 and at most 1.
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
            ping: Mutex::default(),
        });
        servers.insert(address.to_owned(), Arc::downgrade(&server));
        Pacer { server, share }
    }
}

impl Pacer {
    /// Sets the round trip of an idle PING.
    pub(in crate::observe) fn set_ping(&self, ping: Duration) {
        *self.ping_slot() = ping;
    }

    fn ping_slot(&self) -> MutexGuard<'_, Duration> {
        lock(&self.server.ping)
    }

    /// How many names one step asks about. Longer round trips get larger steps, so that a sweep still ends in time: a step
    /// blocks Redis for about a fifth of the round trip, which other clients wait for anyway.
    pub(in crate::observe) fn step_size(&self) -> usize {
        let fifth = usize::try_from(self.ping_slot().as_micros() / 5).unwrap_or(usize::MAX);
        fifth.clamp(LEAST_STEP, MOST_STEP)
    }

    /// Does `work`, which sends this many commands, when its turn has come. Returns its result and how much of Redis's time it
    /// took.
    pub(in crate::observe) async fn step<F: Future>(
        &self,
        commands: usize,
        work: impl FnOnce() -> F,
    ) -> (F::Output, Duration) {
        step_at_all(&[self], commands, work).await
    }
}

/// [`Pacer::step`] at several servers at once.
pub(in crate::observe) async fn step_at_all<F: Future>(
    pacers: &[&Pacer],
    commands: usize,
    work: impl FnOnce() -> F,
) -> (F::Output, Duration) {
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
    let brought = work().await;
    let took = begun.elapsed();
    let mut most = Duration::ZERO;
    for (pacer, account) in pacers.iter().zip(&mut accounts) {
        let cost = cost(took, *pacer.ping_slot(), commands);
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
    fn a_step_costs_what_it_takes_beyond_a_ping_and_never_nothing() {
        let micros = |took, commands| cost(Duration::from_micros(took), PING, commands).as_micros();
        assert_eq!(micros(150, 30), 50);
        assert_eq!(micros(90, 30), 30);
        assert_eq!(micros(1_000_000, 30), 50_000);
    }

    #[test]
    fn steps_are_short_and_longer_where_redis_is_far_away() {
        let pacer = RedisShares::default().pacer("a:1", 0.2);
        for (micros, names) in [(0, 30), (100, 30), (250, 50), (25_000, 100)] {
            pacer.set_ping(Duration::from_micros(micros));
            assert_eq!(pacer.step_size(), names);
        }
    }

    /// How much of a server's time concurrent `sweeps` take in `seconds`, if each step takes a millisecond.
    async fn taken(sweeps: &[Pacer], seconds: u64) -> Duration {
        let end = Instant::now() + Duration::from_secs(seconds);
        let work = sweeps.iter().map(|pacer| async move {
            let mut taken = Duration::ZERO;
            loop {
                let step = pacer.step(1, async || {
                    tokio::time::sleep(Duration::from_millis(1)).await;
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
                let work = async || tokio::time::sleep(Duration::from_millis(1)).await;
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
                step_at_all(&pacers, 1, async || tokio::task::yield_now().await).await;
            }
        };
        let all = async { tokio::join!(both([&a, &b, &a]), both([&b, &a, &b])) };
        let done = tokio::time::timeout(Duration::from_secs(60), all).await;
        assert!(done.is_ok());
    }
}
