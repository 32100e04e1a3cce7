//! What survives a reload of the configuration. The new limiter takes over the memory of the old one. Where the settings
//! did not change, it also takes over the connections and the pass under way.

use crate::observe::limiter::Limiter;

impl Limiter {
    /// Takes over from `before` if both observe the same limiter: the same Redis and the same kind. Returns whether it did.
    pub(in crate::observe) fn go_on_from(&mut self, before: Self) -> bool {
        let same_kind = self.kind.name == before.kind.name
            && self.kind.counters == before.kind.counters
            && self.nodes.registrations() == before.nodes.registrations();
        if !self.redis.same_place(&before.redis) || !same_kind {
            return false;
        }
        let same_redis = self.redis == before.redis;
        let (nodes, was) = (&mut self.nodes, before.nodes);
        nodes.take_memory(was.memory);
        if nodes.requests.canary.is_some() {
            nodes.canaries = was.canaries;
        }
        nodes.redis_was = was.redis_was;
        if nodes.requests.series.same_latency(&was.requests.series) {
            nodes.histories = was.histories;
            nodes.read_at = was.read_at;
        }
        if nodes.urls == was.urls {
            nodes.last_api = was.last_api;
            if nodes.discovery.is_some() && was.discovery.is_some() {
                nodes.discovery = was.discovery;
            }
        }
        nodes.node_list = was.node_list;
        nodes.default_limits = was.default_limits;
        self.counter_list = before.counter_list;
        if same_redis {
            nodes.topology = was.topology;
        }

        self.kept = before.kept;
        let (keys, was) = (&mut self.keys, before.keys);
        let now = nodes.clock.now().steady;
        let same_rules = keys.memory.settings.now == was.memory.settings.now;
        let same_names = keys.tracked == was.tracked;
        keys.commands_total = was.commands_total;
        keys.last_full_pass = was.last_full_pass;
        keys.passes = was.passes;
        keys.memory.take_over(was.memory, same_names, now);
        if same_redis && same_names {
            keys.access = was.access;
            keys.readers = was.readers;
            keys.unreachable = was.unreachable;
            keys.shards = was.shards;
            // Under a changed rule, a key without new requests may be above its limit: the pass starts anew. The same holds
            // for described kinds, whose description may have changed.
            if same_rules && keys.memory.described.is_none() {
                keys.pass = was.pass;
                keys.pass_took = was.pass_took;
                keys.pass_begun = was.pass_begun;
                keys.steady = was.steady;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::Clock;
    use crate::config::{Config, Values, find};
    use crate::observation::Limit;
    use crate::subject::Subject as _;

    fn limiter(settings: &[(&str, &str)]) -> Limiter {
        // As in `main`. Only the first call has an effect.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut values = Values::default();
        for (flag, value) in settings {
            let setting = find(flag).unwrap();
            values.add(setting, format!("--{flag}"), vec![(*value).to_owned()]);
        }
        let config = Config::load(values).unwrap();
        Limiter::new(config.observe, Clock::start()).unwrap()
    }

    /// A limiter that remembers a default limit and a number of commands.
    fn experienced(settings: &[(&str, &str)]) -> Limiter {
        let mut limiter = limiter(settings);
        let at = limiter.nodes.clock.now().steady;
        let ten = Limit {
            limit: 10,
            window_ms: 1000,
        };
        limiter.keys.memory.limits.set_default(ten, at);
        limiter.keys.commands_total = 7;
        limiter
    }

    #[test]
    fn the_same_limiter_keeps_its_memory_and_another_does_not() {
        let before = [("redis.url", "redis://a:1,b:1/2")];
        for (after, same) in [
            (&[("redis.url", "redis://a:1,b:1/2")][..], true),
            (&[("redis.url", "redis://me@b:1,c:1/2")], true),
            (
                &[
                    ("redis.url", "redis://a:1/2"),
                    ("ratelimiter.url", "http://elsewhere:1"),
                ],
                true,
            ),
            (&[("redis.url", "redis://a:1/3")], false),
            (&[("redis.url", "redis://c:1/2")], false),
            (&[("redis.url", "redis+sentinel://a:1/prime/2")], false),
        ] {
            let mut next = limiter(after);
            assert_eq!(next.take_over(experienced(&before)), same, "{after:?}");
            assert_eq!(next.keys.memory.limits.default_limit().is_some(), same);
            assert_eq!(next.keys.commands_total, if same { 7 } else { 0 });
        }
    }

    #[test]
    fn another_registry_is_another_limiter() {
        let folder = lab::temp::TempDir::new("take-over").unwrap();
        let (one, other) = (folder.path().join("a.yml"), folder.path().join("b.yml"));
        let text = crate::limiters::built_in("reference").unwrap();
        std::fs::write(&one, text).unwrap();
        std::fs::write(&other, text.replace("ratelimiter:nodes:", "myapp:nodes:")).unwrap();
        let [one, other] = [one, other].map(|file| file.display().to_string());
        for (before, after, same) in [
            (&[("limiter.file", one.as_str())][..], one.as_str(), true),
            (&[("limiter.kind", "reference")], one.as_str(), true),
            (&[("limiter.file", one.as_str())], other.as_str(), false),
        ] {
            let mut next = limiter(&[("limiter.file", after)]);
            assert_eq!(next.take_over(limiter(before)), same, "{before:?}");
        }
    }

    #[test]
    fn limits_of_counters_with_other_names_are_not_kept() {
        let folder = lab::temp::TempDir::new("take-over").unwrap();
        let (same, other) = (folder.path().join("a.yml"), folder.path().join("b.yml"));
        let text = crate::limiters::built_in("reference").unwrap();
        std::fs::write(&same, text).unwrap();
        std::fs::write(&other, text.replace("ratelimit:", "mine:")).unwrap();
        for (after, kept) in [(same, true), (other, false)] {
            let mut next = limiter(&[("limiter.file", &after.display().to_string())]);
            let url = [("ratelimiter.url", "http://elsewhere:1")];
            assert!(next.take_over(experienced(&url)));
            let limits = &next.keys.memory.limits;
            assert_eq!(limits.default_limit().is_some(), kept, "{after:?}");
        }
    }

    #[test]
    fn nodes_at_the_addresses_of_a_name_survive_a_reload_and_a_restart() {
        let folder = lab::temp::TempDir::new("names").unwrap();
        let file = folder.path().join("own.yml");
        let text = crate::limiters::built_in("envoy-ratelimit").unwrap();
        std::fs::write(&file, text.replace("health: {", "health: {id: /id, ")).unwrap();
        let file = file.display().to_string();
        let settings = [
            ("limiter.file", file.as_str()),
            ("ratelimiter.url", "http://envoy.invalid:81"),
        ];
        let dead = r#"{"known":{"a":{"address":"10.0.0.1:81","deregistered":false,"lost":false,"reached":true}},
            "statics":{"10.0.0.1:81":{"id":"a"}}}"#;
        let mut before = limiter(&settings);
        before.nodes.memory = serde_json::from_str(dead).unwrap();
        let mut restarted = limiter(&settings);
        restarted.recall(before.remember()).unwrap();
        let mut reloaded = limiter(&settings);
        assert!(reloaded.take_over(before));
        for limiter in [reloaded, restarted] {
            assert!(limiter.nodes.memory.ids().eq(["a"]));
        }
    }

    #[test]
    fn histories_survive_a_changed_window() {
        let mut before = experienced(&[]);
        before.nodes.histories.entry("n".to_owned()).or_default();
        let mut next = limiter(&[("latency.window", "10s")]);
        assert!(next.take_over(before));
        assert_eq!(next.nodes.window.span().as_secs(), 10);
        assert!(next.nodes.histories.contains_key("n"));
    }

    #[test]
    fn connections_survive_only_if_their_settings_are_unchanged() {
        let before = experienced(&[]);
        let access = Arc::clone(&before.keys.access);
        let mut next = limiter(&[("keys.max-series", "5")]);
        assert!(next.take_over(before));
        // The kept connections were made with the old access, and make new ones with it.
        assert!(Arc::ptr_eq(&next.keys.access, &access));

        let before = next;
        let mut next = limiter(&[("redis.timeout", "9s")]);
        assert!(next.take_over(before));
        assert!(!Arc::ptr_eq(&next.keys.access, &access));
    }
}
