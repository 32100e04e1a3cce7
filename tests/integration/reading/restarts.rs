//! Counters of real Redis servers over restarts with a state file.

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
