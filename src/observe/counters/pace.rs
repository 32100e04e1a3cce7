//! How much of Redis's time sweeps take: a fixed share, in short steps.
//!
//! One rule, always in force. A step is timed from when it is sent until it is answered; what it takes beyond the round trip
//! of an idle PING counts as Redis's time, and is followed by pauses until the share holds again. The share is an average: after
//! a rest, [`ALLOWANCE`] may be taken at once, so that small key spaces are passed without a pause. The share of a server is one
//! for all sweeps of the process, by the server's address. Knows nothing of what the steps ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::sync::Mutex as Turns;
use tokio::time::{Instant, sleep_until};

use crate::lock::lock;

/// Redis's time that may be taken without a pause after a rest. At a collection every 15 s it is less than a hundredth of
/// the time, so it does not show in the limiter's p99; some ten thousand keys are counted in it.
const ALLOWANCE: Duration = Duration::from_millis(100);

/// Names in a step, at the least: what others have to wait for. On loopback the limiter's p99 during a sweep was twice that
/// without one at 100, and a quarter more than without at 30, without any pauses.
const LEAST_STEP: usize = 30;

/// Names in a step, at the most: they hold Redis for some 150 µs.
const MOST_STEP: usize = 100;

/// What a command takes Redis at the least. A round trip that was measured too long must not make steps free.
const LEAST_COMMAND: Duration = Duration::from_micros(1);

/// What one step can cost at the most. One that took longer waited for somebody else's work.
const MOST_COST: Duration = Duration::from_millis(50);

/// The servers whose time is shared, by their addresses: one of these for the process, passed down to all sweeps.
#[derive(Clone, Debug, Default)]
pub struct RedisShares(Arc<Mutex<BTreeMap<String, Weak<Server>>>>);

#[derive(Debug)]
struct Server {
    address: String,
    /// Held while a step is under way: nobody's steps add up to a long one. It is fair, so each sweep has its turn.
    account: Turns<Account>,
    /// The round trip of an idle PING.
    ping: Mutex<Duration>,
}

/// When everything that was taken of a server's time is paid for.
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

/// What a step of this many commands took of Redis's time.
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
    /// The time of the server at `address`, of which sweeps may take `share`: above 0, 1 at the most.
    pub(in crate::observe) fn pacer(&self, address: &str, share: f64) -> Pacer {
        let mut servers = lock(&self.0);
        if let Some(server) = servers.get(address).and_then(Weak::upgrade) {
            return Pacer { server, share };
        }
        // Those that nobody reads any more are forgotten.
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
    /// Takes over how long an idle PING takes.
    pub(in crate::observe) fn set_ping(&self, ping: Duration) {
        *self.ping_slot() = ping;
    }

    fn ping_slot(&self) -> MutexGuard<'_, Duration> {
        lock(&self.server.ping)
    }

    /// How many names one step is to ask about. Where a round trip takes long there are more, so that a sweep ends in time all the
    /// same: a step holds Redis for about a fifth of the round trip that others have to wait for anyway.
    pub(in crate::observe) fn step_size(&self) -> usize {
        let fifth = usize::try_from(self.ping_slot().as_micros() / 5).unwrap_or(usize::MAX);
        fifth.clamp(LEAST_STEP, MOST_STEP)
    }

    /// Does `work`, which sends this many commands, when its turn has come, and returns what it brought with what it took of
    /// Redis's time.
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
    // In one order for all, and each once: otherwise two could wait for each other.
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

    /// What `sweeps` at once take of a second of a server's time, each step taking it a millisecond.
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
        // Another server has time of its own, and one that was forgotten begins anew.
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
