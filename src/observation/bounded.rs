//! Cuts everything that others wrote to a bounded length, before it is judged and shown. A node may have any id, and
//! Prometheus refuses a whole scrape for one label that is too long.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::Observation;
use crate::text::cut;

impl Observation {
    /// Cuts every text of others except keys. The checker needs whole keys; they are cut where they are shown.
    pub fn cut_long_texts(&mut self) {
        for node in &mut self.nodes {
            let texts = [
                &mut node.address,
                &mut node.state,
                &mut node.reason,
                &mut node.registered_at,
                &mut node.redis_reason,
                &mut node.canary_reason,
            ];
            let texts = texts.into_iter().flatten();
            texts.chain([&mut node.id]).for_each(shorten);
        }
        shorten_names(&mut self.node_metrics);
        for metrics in self.node_metrics.values_mut() {
            let texts = [&mut metrics.latency_source, &mut metrics.latency_unknown];
            texts.into_iter().flatten().for_each(shorten);
            shorten_names(&mut metrics.requests_checked);
        }
        self.redis.reason.iter_mut().for_each(shorten);
        if let Some(info) = &mut self.redis.info {
            let names = [&mut info.version, &mut info.role, &mut info.mode];
            let names = names.into_iter().chain([&mut info.run_id]);
            names.for_each(shorten);
        }
        for shard in &mut self.redis.shards {
            let texts = [&mut shard.reason, &mut shard.swept_from];
            let texts = texts.into_iter().flatten();
            texts.chain([&mut shard.address]).for_each(shorten);
        }
        for failure in &mut self.failures {
            shorten(&mut failure.subject);
            shorten(&mut failure.message);
        }
    }
}

fn shorten(text: &mut String) {
    if let Cow::Owned(shorter) = cut(text) {
        *text = shorter;
    }
}

fn shorten_names<T>(map: &mut BTreeMap<String, T>) {
    if map.keys().any(|name| matches!(cut(name), Cow::Owned(_))) {
        let named = std::mem::take(map).into_iter();
        *map = named
            .map(|(name, value)| (cut(&name).into_owned(), value))
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_long_name_or_message_makes_no_long_label() {
        let long = "x".repeat(5000);
        let text = format!(
            r#"{{"nodes":[{{"id":"{long}","address":"{long}","state":"{long}","reason":"{long}","registered_at":"{long}","redis_reason":"{long}"}}],
            "counters":[],"redis_connected":true,
            "node_metrics":{{"{long}":{{"latency_source":"{long}","latency_unknown":"{long}","requests_checked":{{"{long}":1}}}}}},
            "redis":{{"reason":"{long}","info":{{"version":"{long}","role":"{long}","mode":"{long}","run_id":"{long}"}},
                "shards":[{{"address":"{long}","connected":true,"reason":"{long}","swept_from":"{long}"}}]}},
            "failures":[{{"collector":"redis","subject":"{long}","reason":"timeout","message":"{long}"}}]}}"#
        );
        let mut observation: Observation = serde_json::from_str(&text).unwrap();
        observation.cut_long_texts();
        let shown = serde_json::to_string(&observation).unwrap();
        assert!(!shown.contains(&"x".repeat(500)), "{shown}");
        // The node and its metrics still have the same id.
        assert!(
            observation
                .node_metrics
                .contains_key(&observation.nodes[0].id)
        );
    }
}
