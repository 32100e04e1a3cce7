//! Nodes that run, but not as they should. A node that is dead begins anew without any of it.

use lab::faults::Faults;

use crate::facts::Way;
use crate::world::World;

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
        let at = self.now();
        if self.impair(node, faults).await {
            let place = self.slots[node].facts;
            let facts = &mut self.shared.facts.borrow_mut();
            facts.nodes[place].delay.set(at, check_delay_ms);
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
