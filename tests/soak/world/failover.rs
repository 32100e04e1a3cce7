//! Failovers: the replica becomes the primary, with the data that it has.

use crate::facts::{Redis, Way};
use crate::sampling::read_counter;
use crate::schedule::KEYS;
use crate::world::World;

impl World {
    /// The replica is promoted. This node keeps the former primary, which is killed or becomes a replica.
    pub(super) async fn primary_goes(&mut self, node: usize, dies: bool) -> anyhow::Result<()> {
        let at = self.now();
        self.redis(Redis::FailsOver);
        let place = self.slots[node].facts;
        self.shared.facts.borrow_mut().nodes[place]
            .way
            .set(at, Way::FormerPrimary);
        if !self.servers.replica_is_behind().await {
            self.behind_since = None;
        }
        if dies {
            self.servers.primary_mut().kill();
        }
        self.fail_over(Some(node), at).await
    }

    pub(super) async fn replica_falls_behind(&mut self) -> anyhow::Result<()> {
        self.behind_since.get_or_insert(self.shared.seconds());
        self.servers.cut_replica().await
    }

    /// The replica is promoted, and all nodes but one use it. `since` is when that began.
    pub(super) async fn fail_over(
        &mut self,
        stays: Option<usize>,
        since: f64,
    ) -> anyhow::Result<()> {
        self.servers.fail_over().await?;
        let address = self.servers.address();
        self.front.lead_to(&address).await?;
        for (number, slot) in self.slots.iter().enumerate() {
            if stays != Some(number) {
                slot.proxy.lead_to(&address).await?;
            }
        }
        self.connection = self.servers.primary().connection().await?;
        let now = self.now();
        let window = {
            let mut facts = self.shared.facts.borrow_mut();
            let lost_since = self.behind_since.unwrap_or(since - 1.0);
            facts.lost.push((lost_since, now));
            facts.emptied.push(now);
            for changes in &mut facts.limit_changes {
                changes.push(now);
            }
            facts.times.window
        };
        // Until it follows the new primary.
        self.behind_since = Some(now);
        for key in 0..KEYS {
            let sample = read_counter(&mut self.connection, key, window, now).await;
            if sample.is_some_and(|sample| sample.limit.is_none()) {
                // The failover lost its repair, so it is repaired again.
                let name = format!("ratelimit:limit:user:{key}");
                self.ask(&["DEL", &name]).await?;
            }
        }
        self.malformed_again().await?;
        self.redis(Redis::Up);
        Ok(())
    }
}
