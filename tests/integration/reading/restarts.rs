//! Counters of real Redis servers over reloads and restarts with a state file: labels, and limits of the configuration.

use super::kind_values::Watched;
use crate::harness::Scrape;

const MINUTE: &str = "LIMITS:LIMITER/user:1/5/1/minute";
const HOUR: &str = "LIMITS:LIMITER/user:1/100/1/hour";

/// When the violation of `subject` began.
fn since(scrape: &Scrape, subject: &str) -> Option<f64> {
    let labels = [("name", "stuck_counter"), ("subject", subject)];
    scrape.value(
        "ratelimiter_invariant_active_since_timestamp_seconds",
        &labels,
    )
}

async fn set(watched: &Watched, name: &str, args: &[&str]) -> anyhow::Result<()> {
    let mut all = vec![name.as_bytes()];
    all.extend(args.iter().map(|arg| arg.as_bytes()));
    watched.run("SET", &all).await?;
    Ok(())
}

/// Waits until both counters of the client are shown.
async fn until_two(watched: &Watched) -> anyhow::Result<Scrape> {
    let two = |scrape: &Scrape| scrape.labels("ratelimiter_key_requests", "key").len() == 2;
    watched.exporter.until("both counters are shown", two).await
}

#[tokio::test]
async fn a_stuck_counter_stays_reported_when_its_client_gets_another_counter() -> anyhow::Result<()>
{
    let mut watched = Watched::start("limits", "").await?;
    set(&watched, MINUTE, &["5"]).await?;
    let found = |scrape: &Scrape| scrape.reported() == ["stuck_counter user:1"];
    let first = watched.exporter.until("it is stuck", found).await?;
    set(&watched, HOUR, &["1", "EX", "3000"]).await?;
    let scrape = until_two(&watched).await?;
    scrape.assert_reported(&["stuck_counter user:1"]);
    assert_eq!(since(&scrape, "user:1"), since(&first, "user:1"));

    // Another counter that appears while the exporter does not run does not take the label, either.
    watched.run("DEL", &[HOUR.as_bytes()]).await?;
    watched.exporter.scrape().await?;
    watched.stop().await?;
    set(&watched, HOUR, &["1", "EX", "3000"]).await?;
    watched.start_again("").await?;
    let scrape = until_two(&watched).await?;
    scrape.assert_reported(&["stuck_counter user:1"]);
    assert_eq!(since(&scrape, "user:1"), since(&first, "user:1"));
    Ok(())
}

#[tokio::test]
async fn a_stuck_counter_keeps_its_longer_label_when_the_other_one_ends_during_a_restart()
-> anyhow::Result<()> {
    let mut watched = Watched::start("limits", "").await?;
    set(&watched, HOUR, &["1", "EX", "3000"]).await?;
    let shown = |scrape: &Scrape| scrape.labels("ratelimiter_key_requests", "key") == ["user:1"];
    watched.exporter.until("it is shown", shown).await?;
    set(&watched, MINUTE, &["5"]).await?;
    let longer = "user:1 (fixed-window LIMITER 5 1 minute)";
    let reported = format!("stuck_counter {longer}");
    let found = |scrape: &Scrape| scrape.reported() == [reported.as_str()];
    let first = watched.exporter.until("it is stuck", found).await?;

    watched.stop().await?;
    watched.run("DEL", &[HOUR.as_bytes()]).await?;
    watched.start_again("").await?;
    // From the first collection on.
    let scrape = watched.exporter.scrape().await?;
    scrape.assert_reported(&[&reported]);
    let scrape = watched.exporter.scrape().await?;
    scrape.assert_reported(&[&reported]);
    assert_eq!(since(&scrape, longer), since(&first, longer));
    assert_eq!(since(&scrape, "user:1"), None);

    // It ends with its key, even if that goes while the exporter does not run.
    watched.stop().await?;
    watched.run("DEL", &[MINUTE.as_bytes()]).await?;
    watched.start_again("").await?;
    watched.exporter.scrape().await?.assert_reported(&[]);
    Ok(())
}

/// An hour with this limit for every key.
fn rule(limit: u32) -> String {
    format!("limits: [{{match: '*', limit: {limit}, window: 1h}}]\n")
}

/// A kind whose description sets the limit.
fn fixed(limit: u32) -> String {
    format!(
        "name: own\ntitle: own\ncounters:\n  - {{name: a, key: '^own:(?P<key>.+)$', type: string, count: value, \
         refused: not_counted, expiry: normal_without, limits: [{{fixed: {{limit: {limit}, window: 1h}}}}]}}\n"
    )
}

/// Waits until `u` has this limit. Its count was legal under an earlier one, so it is pending.
async fn until_excused(watched: &Watched, limit: u32) -> anyhow::Result<()> {
    let fell =
        |scrape: &Scrape| scrape.is("ratelimiter_key_requests_limit", &[("key", "u")], limit);
    let scrape = watched.exporter.until("the limit fell", fell).await?;
    let reported = scrape.reported();
    assert!(
        !reported.iter().any(|it| it.ends_with(" u")),
        "{reported:?}"
    );
    let labels = [("name", "ghost_allowing"), ("subject", "u")];
    scrape.assert_is("ratelimiter_invariant_pending", &labels, 1);
    Ok(())
}

async fn until_reported(watched: &Watched) -> anyhow::Result<()> {
    let ghost = |scrape: &Scrape| scrape.reported().contains(&"ghost_allowing u".to_owned());
    let found = watched.exporter.until("it was never legal", ghost).await;
    found.map(drop)
}

/// Lowers the limit of `watched`, where `u` has 50 of 60, by restarts and by a reload.
async fn lower(
    watched: &mut Watched,
    describe: impl Fn(&Watched, u32) -> anyhow::Result<String>,
) -> anyhow::Result<()> {
    let known = |scrape: &Scrape| scrape.is("ratelimiter_key_requests_limit", &[("key", "u")], 60);
    watched.exporter.until("the limit is known", known).await?;
    for (limit, restarts) in [(20, true), (10, false), (5, true)] {
        let config = describe(watched, limit)?;
        if restarts {
            watched.stop().await?;
            watched.start_again(&config).await?;
        } else {
            watched.reload(&config).await?;
        }
        until_excused(watched, limit).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_rule_of_the_reference_limiter_that_is_lowered_excuses_what_was_legal()
-> anyhow::Result<()> {
    let mut watched = Watched::start("reference", &rule(60)).await?;
    let time = watched.run("TIME", &[]).await?;
    let (seconds, _): (u64, u64) = redis::from_redis_value(time)?;
    let now = (seconds * 1000).to_string();
    let add = async |watched: &Watched, members: std::ops::Range<u32>| {
        for member in members {
            let member = member.to_string();
            let args = [b"ratelimit:u", now.as_bytes(), member.as_bytes()];
            watched.run("ZADD", &args).await?;
        }
        watched.run("EXPIRE", &[b"ratelimit:u", b"3500"]).await
    };
    add(&watched, 0..50).await?;
    lower(&mut watched, |_, limit| Ok(rule(limit))).await?;
    add(&watched, 50..61).await?;
    until_reported(&watched).await
}

#[tokio::test]
async fn a_rule_of_a_described_kind_that_is_lowered_over_a_restart_excuses_what_was_legal()
-> anyhow::Result<()> {
    let description = fixed(60).replace(", limits: [{fixed: {limit: 60, window: 1h}}]", "");
    let mut watched = Watched::start(&description, &rule(60)).await?;
    set(&watched, "own:u", &["50"]).await?;
    lower(&mut watched, |_, limit| Ok(rule(limit))).await?;
    set(&watched, "own:u", &["61"]).await?;
    until_reported(&watched).await
}

#[tokio::test]
async fn a_fixed_limit_of_a_description_that_is_lowered_excuses_what_was_legal()
-> anyhow::Result<()> {
    let mut watched = Watched::start(&fixed(60), "").await?;
    set(&watched, "own:u", &["50"]).await?;
    let describe = |watched: &Watched, limit| {
        watched.describe(&fixed(limit))?;
        Ok(String::new())
    };
    lower(&mut watched, describe).await?;
    set(&watched, "own:u", &["61"]).await?;
    until_reported(&watched).await
}
