//! The captures: the kind of each, the change to its description, and the counts of its traffic.
//!
//! The traffic of each, at a limit of 10: 5, then 10, then 15 requests of `user:1`, 5 of `user:2`, 3 of `2001:db8::1`, 2 of
//! `a key: with spaces`, and, after a window of 60 s, one more of `user:1`.

use ratelimiter_exporter::limiters::{Description, built_in};
use serde_json::Value as Json;

use crate::store::Rule;

/// A capture and its counts.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) capture: &'static str,
    kind: &'static str,
    /// A text in the description to replace, because the application does not use the default.
    change: Option<(&'static str, &'static str)>,
    /// The label of a client's counter, with `*` for the client.
    label: &'static str,
    /// The counts of `user:1` at the five moments. `None` if there is no counter.
    pub(crate) counts: [Option<u64>; 5],
    /// Whether each of the other clients has a counter.
    others: bool,
}

const OVER: [Option<u64>; 5] = [Some(5), Some(10), Some(15), None, Some(1)];
const AT_MOST: [Option<u64>; 5] = [Some(5), Some(10), Some(10), None, Some(1)];
const KEPT: [Option<u64>; 5] = [Some(5), Some(10), Some(10), Some(0), Some(1)];

const fn row(
    capture: &'static str,
    kind: &'static str,
    label: &'static str,
    counts: [Option<u64>; 5],
) -> Row {
    Row {
        capture,
        kind,
        change: None,
        label,
        counts,
        others: true,
    }
}

impl Row {
    const fn changed(mut self, from: &'static str, to: &'static str) -> Self {
        self.change = Some((from, to));
        self
    }

    /// All clients have one counter.
    const fn shared(mut self) -> Self {
        self.others = false;
        self
    }

    pub(crate) fn description(&self) -> Description {
        Description::parse(&self.file()).unwrap()
    }

    /// The text of its description.
    pub(crate) fn file(&self) -> String {
        let text = built_in(self.kind).unwrap();
        match self.change {
            Some((from, to)) => text.replace(from, to),
            None => text.to_owned(),
        }
    }

    /// Its moments.
    pub(crate) fn moments(&self) -> Vec<Json> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/limiters/captures");
        let text = std::fs::read_to_string(format!("{folder}/{}.json", self.capture)).unwrap();
        let capture: Json = serde_json::from_str(&text).unwrap();
        capture["moments"].as_array().unwrap().clone()
    }

    /// The limits in the configuration.
    pub(crate) fn rule(&self) -> Rule {
        let limit = (self.capture != "upstash-dynamic").then_some(10);
        Rule::new(limit, Some(60))
    }

    /// The counters that must exist at a moment: labels and counts.
    pub(crate) fn expected(&self, moment: usize) -> Vec<(String, u64)> {
        let called = |client: &str| self.label.replace('*', client);
        let mut expected: Vec<_> = self.counts[moment]
            .map(|count| (called("user:1"), count))
            .into_iter()
            .collect();
        if self.others && moment < 3 {
            let others = [("user:2", 5), ("2001:db8::1", 3), ("a key: with spaces", 2)];
            expected.extend(others.map(|(client, count)| (called(client), count)));
        }
        expected
    }
}

/// The hashed names of Nest and Django are known only from the dumps, so only `user:1` is checked there.
pub(crate) const ROWS: &[Row] = &[
    row("async-ratelimiter", "zset-log", "*", AT_MOST),
    row("bottleneck-limiter", "bottleneck", "*", KEPT),
    // The group is the text after the last colon: user:1 and 2001:db8::1 are one.
    row(
        "bull-groupkey",
        "bullmq",
        "mail 1",
        [Some(8), Some(10), Some(10), Some(1), Some(1)],
    )
    .shared(),
    // The jobs that waited are started in the next window.
    row(
        "bull",
        "bullmq",
        "mail",
        [Some(10), Some(10), Some(10), Some(1), Some(1)],
    )
    .shared(),
    row("bullmq", "bullmq", "mail", [Some(10); 5]).shared(),
    row(
        "django-ratelimit-core-cache",
        "django-ratelimit",
        DJANGO,
        [Some(5), Some(10), Some(15), None, None],
    )
    .shared(),
    row(
        "django-ratelimit-django-redis",
        "django-ratelimit",
        DJANGO,
        [Some(5), Some(10), Some(15), None, None],
    )
    .shared(),
    row("drf-django-redis", "drf", "user *", AT_MOST),
    row("fastapi-limiter-0.1.6", "fastapi-limiter", "/ *", AT_MOST),
    row(
        "fastapi-limiter-0.2",
        "fastapi-limiter",
        "fastapi-limiter",
        [Some(10), Some(10), Some(10), Some(0), Some(1)],
    )
    .shared(),
    // The expiry is 16 minutes after 5 requests too many.
    row(
        "fastify-rate-limit-backoff",
        "fastify-rate-limit",
        "*",
        [Some(5), Some(10), Some(15), Some(15), Some(16)],
    ),
    row(
        "fastify-rate-limit-continue",
        "fastify-rate-limit",
        "*",
        OVER,
    ),
    row(
        "fastify-rate-limit-namespace",
        "fastify-rate-limit",
        "*",
        OVER,
    )
    .changed("fastify-rate-limit-", "myapp-"),
    row(
        "fastify-rate-limit-route",
        "fastify-rate-limit",
        "GET/ *",
        OVER,
    ),
    row("fastify-rate-limit", "fastify-rate-limit", "*", OVER),
    row("flask-limiter-fixed-window", "limits", "*/view", OVER),
    row("flask-limiter-moving-window", "limits", "*/view", AT_MOST),
    // 10 requests of the previous window, weighted by 57.607 s, then by 57.601 s, of 60 s.
    row(
        "flask-limiter-sliding-window-counter",
        "limits",
        "*/view",
        [Some(5), Some(10), Some(10), Some(9), Some(10)],
    ),
    row("limits-fixed-window-ns", "limits", "route/a/*", OVER),
    row("limits-fixed-window", "limits", "*", OVER),
    row("limits-moving-window", "limits", "*", AT_MOST),
    row(
        "limits-sliding-window-counter",
        "limits",
        "*",
        [Some(5), Some(10), Some(10), Some(9), Some(10)],
    ),
    // Each of three processes counts the first request that it refuses.
    row(
        "litellm-v3-processes",
        "litellm",
        "api_key *",
        [Some(5), Some(10), Some(13), None, Some(1)],
    ),
    row(
        "litellm-v3",
        "litellm",
        "api_key *",
        [Some(5), Some(10), Some(11), None, Some(1)],
    ),
    row("nest-throttler-app", "nest-throttler", NEST, OVER).shared(),
    row("nest-throttler-storage-block", "nest-throttler", "*", OVER),
    row("nest-throttler-storage", "nest-throttler", "*", OVER),
    row("pyrate-limiter-gcra", "pyrate-limiter", "*", KEPT),
    row("pyrate-limiter-redisbucket", "pyrate-limiter", "*", KEPT),
    row(
        "rate-limit-redis-skipfailed",
        "express-rate-limit",
        "*",
        AT_MOST,
    ),
    row("rate-limit-redis", "express-rate-limit", "*", OVER),
    row(
        "rate-limiter-flexible-block",
        "rate-limiter-flexible",
        "*",
        [Some(5), Some(10), Some(15), Some(15), Some(16)],
    )
    .changed("rlflx:", "login:"),
    // Without a window, no count ends.
    row(
        "rate-limiter-flexible-duration0",
        "rate-limiter-flexible",
        "*",
        [Some(5), Some(10), Some(15), Some(15), Some(16)],
    ),
    row(
        "rate-limiter-flexible-inmemblock",
        "rate-limiter-flexible",
        "*",
        AT_MOST,
    ),
    row(
        "rate-limiter-flexible-nonatomic",
        "rate-limiter-flexible",
        "*",
        OVER,
    ),
    row("rate-limiter-flexible", "rate-limiter-flexible", "*", OVER),
    row("ratelimiter", "zset-log", "*", AT_MOST),
    row("redis-cell", "gcra", "*", AT_MOST),
    row("throttled-py-fixed_window", "throttled-py", "*", OVER),
    row("throttled-py-gcra", "throttled-py", "*", AT_MOST),
    row("throttled-py-leaking_bucket", "throttled-py", "*", KEPT),
    // 47.3 s of the next window are over: 10 × (1 − 47.3 ÷ 60).
    row(
        "throttled-py-sliding_window",
        "throttled-py",
        "*",
        [Some(5), Some(10), Some(10), Some(2), Some(3)],
    ),
    row("throttled-py-token_bucket", "throttled-py", "*", KEPT),
    row("upstash-analytics", "upstash", "api:*", OVER),
    row("upstash-cached-fixed", "upstash", "*", AT_MOST),
    row("upstash-dynamic", "upstash", "*", OVER).changed("@upstash/ratelimit", "myapp"),
    row("upstash-fixed", "upstash", "*", OVER),
    // 18.9 s of the next window are over.
    row(
        "upstash-sliding",
        "upstash",
        "*",
        [Some(5), Some(10), Some(10), Some(6), Some(7)],
    ),
    row("upstash-token", "upstash", "*", AT_MOST),
];

const DJANGO: &str = "dd48f8406a3f950df49205d7b6aa2cdb74ed4b5ac11838c1f8556ac306331849";
const NEST: &str = "7d8630aee1decd5a42a43d88e6b7a66fe47d82ad9834ca0cb43dcd9d06f2fc0f";
