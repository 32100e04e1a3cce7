//! From fault to pager: a fault for each invariant, which receiver gets its page and its resolution, and when.

use lab::faults::Faults;
use lab::seed::{fill_to, remove_extra};
use redis::AsyncCommands as _;
use tokio::time::Instant;

use crate::bench::put_limit;
use crate::chain::{Chain, Page, PageTimes, Timing};
use crate::runner::{Scenario, Seen};

/// The key that goes over its limit, which is a hundred.
const KEY: &str = "tenant:1";

/// Alerts for the pager, as `alerts/alertmanager.yml` routes them.
const CRITICAL: Timing = Timing {
    grace: 0,
    hold: 30,
    fades: 0,
    keep: 0,
    wait: 15,
    interval: 60,
};

/// Pages without a grace period.
const GHOST: Timing = Timing {
    hold: 0,
    wait: 0,
    ..CRITICAL
};

/// Alerts for the chat: the exporter's grace period in place of `for`.
const WARNING: Timing = Timing {
    grace: 30,
    hold: 0,
    keep: 120,
    interval: 300,
    ..CRITICAL
};

/// The percentile covers a minute: slow checks stay in it for as long.
const LATENCY: Timing = Timing {
    grace: 60,
    fades: 60,
    ..WARNING
};

/// What only other kinds of limiters have: a grace period of a minute, each on its route.
const STUCK: Timing = Timing {
    grace: 60,
    hold: 0,
    keep: 120,
    ..CRITICAL
};
const INVALID: Timing = Timing {
    grace: 60,
    ..WARNING
};

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "from fault to pager: node killed (kill -9), started again",
            "pager: `RatelimiterNodeDown{node-2}`, and its end",
            180,
            || Box::pin(node_down()),
        ),
        Scenario::new(
            "from fault to pager: Redis killed under traffic, started again empty",
            "pager: `RatelimiterRedisDisconnected{redis}`, and its end; the nodes without Redis are muted",
            180,
            || Box::pin(redis_disconnected()),
        ),
        Scenario::new(
            "from fault to pager: slow checks on one node (120 ms), fast again",
            "chat: `RatelimiterHighLatency{node-2}`, and its end",
            450,
            || Box::pin(high_latency()),
        ),
        Scenario::new(
            "from fault to pager: 20 % over the limit, written behind the limiter's back, taken out again",
            "chat: `RatelimiterCounterDrift{tenant:1}`; pager: `RatelimiterGhostAllowing{tenant:1}`; and their ends",
            420,
            || Box::pin(counter_drift()),
        ),
        Scenario::new(
            "from fault to pager: 5 % over the limit, taken out again",
            "pager: `RatelimiterGhostAllowing{tenant:1}`, and its end",
            120,
            || Box::pin(ghost_allowing()),
        ),
        Scenario::new(
            "from fault to pager: of two counters of the kind limits, one loses its expiry at its limit, one becomes no number; \
             healed as the runbooks say",
            "pager: `RatelimiterStuckCounter{client:1}`; chat: `RatelimiterInvalidCounter{client:2}`; and their ends",
            450,
            || Box::pin(counters_of_a_kind()),
        ),
    ]
}

/// The first page is that of the fault.
fn seen(page_times: Vec<PageTimes>) -> Seen {
    let pages: Vec<String> = page_times
        .iter()
        .map(|page_times| page_times.page.to_string())
        .collect();
    Seen {
        what: pages.join("; "),
        seconds: page_times
            .first()
            .map(|page_times| page_times.paged.as_secs_f64()),
        page_times,
    }
}

async fn node_down() -> anyhow::Result<Seen> {
    let mut chain = Chain::start().await?;
    let pages = [(Page::new("pager", "NodeDown", "node-2"), CRITICAL)];
    let fault = Instant::now();
    chain.bench.nodes[1].kill();
    chain.paged(fault, &pages).await?;
    let repair = Instant::now();
    chain.bench.nodes[1].restart().await?;
    Ok(seen(chain.resolved(fault, repair, &pages).await?))
}

async fn redis_disconnected() -> anyhow::Result<Seen> {
    let mut chain = Chain::start().await?;
    let pages = [(Page::new("pager", "RedisDisconnected", "redis"), CRITICAL)];
    let fault = Instant::now();
    chain.bench.redis.kill();
    chain.paged(fault, &pages).await?;
    let repair = Instant::now();
    chain.bench.redis.restart().await?;
    Ok(seen(chain.resolved(fault, repair, &pages).await?))
}

async fn high_latency() -> anyhow::Result<Seen> {
    let chain = Chain::start().await?;
    let pages = [(Page::new("chat", "HighLatency", "node-2"), LATENCY)];
    let slow = Faults {
        check_delay_ms: 120,
        ..Faults::default()
    };
    let fault = Instant::now();
    chain.bench.nodes[1].set_faults(&slow).await?;
    chain.paged(fault, &pages).await?;
    let repair = Instant::now();
    chain.bench.nodes[1].set_faults(&Faults::default()).await?;
    Ok(seen(chain.resolved(fault, repair, &pages).await?))
}

async fn counter_drift() -> anyhow::Result<Seen> {
    let pages = [
        (Page::new("chat", "CounterDrift", KEY), WARNING),
        // Whatever is far above its limit is above its limit.
        (Page::new("pager", "GhostAllowing", KEY), GHOST),
    ];
    over_limit(120, &pages).await
}

async fn ghost_allowing() -> anyhow::Result<Seen> {
    over_limit(105, &[(Page::new("pager", "GhostAllowing", KEY), GHOST)]).await
}

/// The key has `total` entries from the fault to the repair, then none. Its window is longer than the scenario.
async fn over_limit(total: u64, pages: &[(Page, Timing)]) -> anyhow::Result<Seen> {
    let chain = Chain::start().await?;
    put_limit(&chain.bench.nodes[0], KEY, 100, 600_000).await?;
    let mut redis = chain.bench.redis().await?;
    let fault = Instant::now();
    fill_to(&mut redis, KEY.as_bytes(), total).await?;
    chain.paged(fault, pages).await?;
    let repair = Instant::now();
    remove_extra(&mut redis, KEY.as_bytes()).await?;
    Ok(seen(chain.resolved(fault, repair, pages).await?))
}

/// The applications of this limiter are not needed: what they write is.
async fn counters_of_a_kind() -> anyhow::Result<Seen> {
    let [stuck, invalid, busy] = ["client:1", "client:2", "client:3"]
        .map(|client| format!("LIMITS:LIMITER/{client}/10/1/hour"));
    let chain = Chain::of_kind("limits").await?;
    let pages = [
        (Page::new("pager", "StuckCounter", "client:1"), STUCK),
        (Page::new("chat", "InvalidCounter", "client:2"), INVALID),
    ];
    let mut redis = chain.bench.redis().await?;
    for key in [&stuck, &invalid] {
        redis.set_ex::<_, _, ()>(key, 10, 3_000).await?;
    }
    // Refused requests are in the count: demand, which pages nobody.
    redis.set_ex::<_, _, ()>(&busy, 50, 3_000).await?;
    let fault = Instant::now();
    redis.persist::<_, ()>(&stuck).await?;
    redis.set_ex::<_, _, ()>(&invalid, "ten", 3_000).await?;
    chain.paged(fault, &pages).await?;
    let repair = Instant::now();
    redis.expire::<_, ()>(&stuck, 3_000).await?;
    redis.del::<_, ()>(&invalid).await?;
    Ok(seen(chain.resolved(fault, repair, &pages).await?))
}
