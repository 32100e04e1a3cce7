//! Nodes that come back, are replaced, or move to another port.

use anyhow::Context as _;
use lab::node::NodeProcess;

use crate::facts::{Life, Redis, Track, Way};
use crate::world::{World, born, node_options};

impl World {
    /// Starts nodes that could not be started before: without Redis they do not start.
    pub(crate) async fn revive(&mut self) {
        for slot in &mut self.slots {
            let possible = {
                let facts = self.shared.facts.borrow();
                let way = facts.nodes[slot.facts].way.now();
                facts.redis.now() == Redis::Up && way == Way::Open
            };
            if slot.waits && possible && slot.process.restart().await.is_ok() {
                slot.waits = false;
                let at = self.shared.seconds();
                let mut facts = self.shared.facts.borrow_mut();
                let node = &mut facts.nodes[slot.facts];
                node.life.set(at, Life::Runs);
                node.delay.set(at, 0);
                node.open.set(at, false);
            }
        }
    }

    pub(super) async fn replace(&mut self, node: usize) -> anyhow::Result<()> {
        if self.slots[node].waits {
            return Ok(());
        }
        self.slots[node].process.kill();
        let at = self.now();
        self.life(node, Life::Killed);
        let slot = &mut self.slots[node];
        let times = self.shared.facts.borrow().times;
        let mut options = node_options(&format!("node-{}", self.ids + 1), &slot.proxy, times);
        options.listen = Some(slot.process.address().parse().context("a node's address")?);
        // Without Redis it does not start: then the old one starts later.
        match NodeProcess::start(options).await {
            Ok(process) => {
                self.ids += 1;
                slot.process = process;
                let mut facts = self.shared.facts.borrow_mut();
                let way = facts.nodes[slot.facts].way.now();
                facts.nodes[slot.facts].replaced = Some(at);
                slot.facts = facts.nodes.len();
                let id = format!("node-{}", self.ids);
                let mut next = born(id, slot.process.address(), self.shared.seconds());
                next.way = Track::new(next.born, way);
                facts.nodes.push(next);
            }
            Err(_) => slot.waits = true,
        }
        Ok(())
    }

    /// The node moves to another port, like a container that is rescheduled.
    pub(super) async fn relocate(&mut self, node: usize) -> anyhow::Result<()> {
        if self.slots[node].waits {
            return Ok(());
        }
        self.slots[node].process.kill();
        self.life(node, Life::Killed);
        let slot = &mut self.slots[node];
        let times = self.shared.facts.borrow().times;
        let options = node_options(slot.process.id(), &slot.proxy, times);
        match NodeProcess::start(options).await {
            Ok(process) => {
                slot.process = process;
                let at = self.shared.seconds();
                let mut facts = self.shared.facts.borrow_mut();
                let moved = &mut facts.nodes[slot.facts];
                moved.address = slot.process.address();
                moved.moved = at;
                moved.life.set(at, Life::Runs);
                moved.delay.set(at, 0);
                moved.open.set(at, false);
            }
            Err(_) => slot.waits = true,
        }
        let rate = self.shared.facts.borrow().traffic.now();
        self.set_traffic(rate)
    }
}
