//! Counters and limits that are changed in Redis, without the limiter.

use crate::sampling::{millis, read_counter};
use crate::world::World;

impl World {
    pub(super) async fn push_over(&mut self, key: usize, more: u64) -> anyhow::Result<()> {
        let window = self.shared.facts.borrow().times.window;
        let at = self.shared.seconds();
        let Some(sample) = read_counter(&mut self.connection, key, window, at).await else {
            return Ok(());
        };
        let missing = sample.limit.unwrap_or(0).saturating_sub(sample.count) + more;
        let name = format!("ratelimit:user:{key}");
        let now = lab::clock::now_ms().to_string();
        for number in 0..missing {
            let member = format!("extra-{number}");
            let _ = self.ask(&["ZADD", &name, &now, &member]).await;
        }
        let expiry = millis(window + 1.0).to_string();
        let _ = self.ask(&["PEXPIRE", &name, &expiry]).await;
        Ok(())
    }

    pub(super) async fn take_back(&mut self, key: usize, more: u64) {
        let name = format!("ratelimit:user:{key}");
        for number in 0..more + 100 {
            let member = format!("extra-{number}");
            if self.ask(&["ZREM", &name, &member]).await.is_err() {
                return;
            }
        }
    }

    pub(super) async fn set_limit(
        &mut self,
        key: usize,
        limit: Option<&str>,
    ) -> anyhow::Result<()> {
        let name = format!("ratelimit:limit:user:{key}");
        let at = self.now();
        let done = match limit {
            Some(limit) => {
                let window = millis(self.shared.facts.borrow().times.window).to_string();
                self.ask(&["HSET", &name, "limit", limit, "window_ms", &window])
                    .await
            }
            None => self.ask(&["DEL", &name]).await,
        };
        // The command may have arrived, whatever the answer.
        self.shared.facts.borrow_mut().limit_changes[key].push(at);
        // A Redis that refuses writes keeps its data: the event has no effect.
        let _ = done;
        Ok(())
    }

    pub(super) async fn malformed_again(&mut self) -> anyhow::Result<()> {
        if self.malformed.is_some() {
            self.ask(&["SET", "ratelimit:bad:0", "x"]).await?;
        }
        Ok(())
    }
}
