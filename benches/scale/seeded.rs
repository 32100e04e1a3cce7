//! A Redis with counters in it.

use std::time::Duration;

use lab::redis_server::RedisServer;
use lab::seed::Scale;

/// The window of the counters: longer than a run, so that none expires, and none has to lie in the future.
pub(crate) const WINDOW_MS: i64 = 2 * 60 * 60 * 1000;

/// Limits of their own, where there are more counters than ten times as many.
const OWN_LIMITS: u64 = 100_000;

/// Counters beyond which they get small: ten million of them shall take no more than three gigabytes.
const MANY: u64 = 1_000_000;

/// A Redis and what was written to it.
#[derive(Debug)]
pub(crate) struct Seeded {
    pub(crate) redis: RedisServer,
    pub(crate) scale: Scale,
}

impl Seeded {
    /// Every tenth counter has a limit of its own, up to 100,000 of them.
    pub(crate) async fn start(keys: u64) -> anyhow::Result<Self> {
        let scale = Scale {
            keys,
            members: if keys > MANY { 1 } else { 10 },
            limits_every: (keys / OWN_LIMITS).max(10),
            seq: true,
            key_length: 30,
            ahead_ms: 0,
            window_ms: WINDOW_MS,
        };
        let redis = RedisServer::start(&[]).await?;
        scale.write(&mut redis.connection().await?).await?;
        Ok(Self { redis, scale })
    }

    /// Checks every `every`th counter once: others in each round.
    pub(crate) async fn check_some(&self, every: u64, round: u64) -> anyhow::Result<()> {
        let mut connection = self.redis.connection().await?;
        let numbers = (0..self.scale.keys).filter(|number| number % every == round % every);
        Ok(self.scale.check(&mut connection, numbers).await?)
    }

    /// Checks a hundredth of the counters every so often, spread over that time as clients would, until it is dropped.
    pub(crate) async fn check_a_hundredth(&self, each: Duration) -> anyhow::Result<()> {
        const SHARES: usize = 30;
        let mut connection = self.redis.connection().await?;
        let mut ticks = tokio::time::interval(each / 30);
        for round in 0_u64.. {
            let numbers = (0..self.scale.keys).filter(|number| number % 100 == round % 100);
            let numbers: Vec<u64> = numbers.collect();
            for share in numbers.chunks(numbers.len().div_ceil(SHARES).max(1)) {
                ticks.tick().await;
                let share = share.iter().copied();
                self.scale.check(&mut connection, share).await?;
            }
        }
        Ok(())
    }
}
