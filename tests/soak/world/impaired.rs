//! Nodes that run, but not as they should. A node that is dead begins anew without any of it.

use std::time::Duration;

use lab::faults::Faults;
use lab::proxy::Mode;

use crate::facts::{Life, Way};
use crate::world::World;

/// How long the exporter waits for an answer of a node.
const PROBE_TIMEOUT_MS: u64 = 1_000;

/// How long the clients of a node wait, the exporter's canary among them.
const CHECK_TIMEOUT_MS: u64 = 1_000;

impl World {
    /// Returns whether the node took the faults.
    async fn impair(&self, node: usize, faults: Faults) -> bool {
        self.slots[node].process.set_faults(&faults).await.is_ok()
    }

    pub(super) async fn slow(&self, node: usize, check_delay_ms: u64) {
        let faults = Faults {
            check_delay_ms,
            ..Faults::default()
        };
        if self.impair(node, faults).await {
            self.takes_longer(node, check_delay_ms);
        }
    }

    pub(super) async fn slow_now_and_then(&self, node: usize, check_delay_every: u64) {
        let faults = Faults {
            check_delay_ms: 200,
            check_delay_every,
            ..Faults::default()
        };
        self.impair(node, faults).await;
    }

    pub(super) async fn stop_heartbeats(&self, node: usize) {
        let faults = Faults {
            no_heartbeat: true,
            ..Faults::default()
        };
        if self.impair(node, faults).await {
            self.set_way(node, Way::WithoutHeartbeats);
        }
    }

    pub(super) async fn fail_open(&self, node: usize, fail_open: bool) {
        let faults = Faults {
            fail_open,
            ..Faults::default()
        };
        let at = self.now();
        if self.impair(node, faults).await {
            let place = self.slots[node].facts;
            // From the request on, it may admit everything.
            let at = if fail_open { at } else { self.now() };
            let facts = &mut self.shared.facts.borrow_mut();
            facts.nodes[place].open.set(at, fail_open);
        }
    }

    /// Delays what the exporter asks of the node.
    pub(super) async fn set_distance(&self, node: usize, millis: u64) {
        let faults = Faults {
            health_delay_ms: millis,
            api_delay_ms: millis,
            ..Faults::default()
        };
        if self.impair(node, faults).await {
            let far = millis > PROBE_TIMEOUT_MS;
            self.life(node, if far { Life::Far } else { Life::Runs });
        }
    }

    /// Delays what passes between the node and Redis.
    pub(super) async fn slow_link(&self, node: usize, millis: u64) -> anyhow::Result<()> {
        let there_and_back = 2 * millis;
        let late = there_and_back > CHECK_TIMEOUT_MS;
        let way = if late { Way::Slow } else { Way::Open };
        let mode = Mode::Delay(Duration::from_millis(millis));
        self.way(node, mode, way).await?;
        self.takes_longer(node, there_and_back);
        Ok(())
    }

    pub(super) fn takes_longer(&self, node: usize, millis: u64) {
        let at = self.now();
        let place = self.slots[node].facts;
        let facts = &mut self.shared.facts.borrow_mut();
        facts.nodes[place].delay.set(at, millis);
    }

    pub(super) async fn hang_api(&self, node: usize) {
        let faults = Faults {
            api_hang: true,
            ..Faults::default()
        };
        self.impair(node, faults).await;
    }

    pub(super) async fn mend(&self, node: usize) {
        self.impair(node, Faults::default()).await;
    }

    pub(super) async fn set_clock_ahead(&self, node: usize, clock_ahead_ms: u32) {
        let faults = Faults {
            clock_ahead_ms,
            ..Faults::default()
        };
        self.impair(node, faults).await;
        let at = self.now();
        let place = self.slots[node].facts;
        let facts = &mut self.shared.facts.borrow_mut();
        facts.nodes[place].ahead.set(at, clock_ahead_ms);
    }
}
