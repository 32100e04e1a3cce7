//! Limits of a configuration that is reloaded: what was legal before is pending, also where the limit has no window or counts times.

use super::kind_values::Watched;
use crate::harness::Scrape;

/// Two counters without a window: one has a fixed limit, the limit of the other is in Redis.
const WITHOUT_WINDOW: &str = "
name: own
title: own
counters:
  - {name: fixed, key: '^fixed:(?P<key>.+)$', label: $name, type: string, count: value, refused: not_counted, expiry: normal_without, limits: [{fixed: {limit: 60}}]}
  - {name: stored, key: '^stored:(?P<key>.+)$', label: $name, type: string, count: value, refused: not_counted, expiry: normal_without, limits: [{key: {name: 'lim:$key', type: string}}]}
";

/// Waits until `key` has this limit, and asserts that its count is pending and not reported.
async fn until_excused(watched: &Watched, key: &str, limit: u32) -> anyhow::Result<()> {
    let fell =
        |scrape: &Scrape| scrape.is("ratelimiter_key_requests_limit", &[("key", key)], limit);
    let scrape = watched.exporter.until("the limit fell", fell).await?;
    scrape.assert_reported(&[]);
    let labels = [("name", "ghost_allowing"), ("subject", key)];
    scrape.assert_is("ratelimiter_invariant_pending", &labels, 1);
    Ok(())
}

async fn until_known(watched: &Watched, key: &str, limit: u32) -> anyhow::Result<()> {
    let known =
        |scrape: &Scrape| scrape.is("ratelimiter_key_requests_limit", &[("key", key)], limit);
    watched.exporter.until("the limit is known", known).await?;
    Ok(())
}

#[tokio::test]
async fn a_limit_without_a_window_that_is_lowered_excuses_what_was_legal() -> anyhow::Result<()> {
    let watched = Watched::start(WITHOUT_WINDOW, "").await?;
    for (name, value) in [("fixed:u", "50"), ("stored:u", "50"), ("lim:u", "60")] {
        let args: &[&[u8]] = &[name.as_bytes(), value.as_bytes(), b"EX", b"3000"];
        watched.run("SET", args).await?;
    }
    until_known(&watched, "fixed:u", 60).await?;
    until_known(&watched, "stored:u", 60).await?;

    watched.run("SET", &[b"lim:u", b"10"]).await?;
    until_excused(&watched, "stored:u", 10).await?;
    watched.describe(&WITHOUT_WINDOW.replace("60", "10"))?;
    watched.reload("").await?;
    for _ in 0..3 {
        until_excused(&watched, "fixed:u", 10).await?;
        until_excused(&watched, "stored:u", 10).await?;
    }

    // A count that was not legal before is found.
    watched.run("SET", &[b"fixed:u", b"61"]).await?;
    let ghost = |scrape: &Scrape| {
        let reported = scrape.reported();
        reported.contains(&"ghost_allowing fixed:u".to_owned())
            && !reported.iter().any(|it| it.ends_with("stored:u"))
    };
    watched.exporter.until("61 were never legal", ghost).await?;
    Ok(())
}

#[tokio::test]
async fn a_shorter_window_of_a_gcra_excuses_the_time_ahead() -> anyhow::Result<()> {
    let rule = |limit: u32, window: &str| {
        format!("limits: [{{match: '*', limit: {limit}, window: {window}}}]\n")
    };
    let watched = Watched::start("throttled-py", &rule(60, "1h")).await?;
    let time = watched.run("TIME", &[]).await?;
    let (seconds, _): (u64, u64) = redis::from_redis_value(time)?;
    let set = async |ahead: u64| {
        let tat = (seconds + ahead - 1_735_660_800).to_string();
        let args: &[&[u8]] = &[b"throttled:v1:gcra:u", tat.as_bytes(), b"EX", b"3000"];
        watched.run("SET", args).await
    };
    // 30 requests.
    set(1_800).await?;
    until_known(&watched, "u", 60).await?;
    watched.reload(&rule(10, "1m")).await?;
    until_excused(&watched, "u", 10).await?;
    // The same limit as before, in a shorter window.
    watched.reload(&rule(60, "1m")).await?;
    until_excused(&watched, "u", 60).await?;

    set(4_000).await?;
    let ghost = |scrape: &Scrape| scrape.reported().contains(&"ghost_allowing u".to_owned());
    watched.exporter.until("it was never legal", ghost).await?;
    Ok(())
}
