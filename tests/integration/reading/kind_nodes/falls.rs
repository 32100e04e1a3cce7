//! Limits that fall or rise in an API of the limiter, and restarts of the exporter while the API is away.

use lab::temp::TempDir;

use super::stand_in::StandIn;
use super::{Watched, limit};
use crate::harness::Scrape;

const DESCRIPTION: &str = "name: own\ntitle: own\ncounters:\n  - {name: a, key: '^own:(?P<key>.+)$', type: string, \
    count: value, refused: not_counted, expiry: {is: required, max: 1 window}, without_expiry: leaks}\nlimits:\n  \
    - http: {port: 6070, path: /limits, every: 1s, \
    line: '^(?P<key>\\S+) (?P<limit>\\d+) per (?P<unit>\\w+)$'}\n";

/// An API whose limits are `rules`, and an exporter that has read them. `own:low` has 8 requests, `own:high` has 11.
async fn started(rules: &str, flags: &[&str]) -> anyhow::Result<(StandIn, Watched)> {
    watching(DESCRIPTION, rules, flags).await
}

async fn watching(
    description: &str,
    rules: &str,
    flags: &[&str],
) -> anyhow::Result<(StandIn, Watched)> {
    let mut api = StandIn::new();
    api.serve(6070, "/limits", rules).await?;
    let url = api.url(8080);
    let flags = [&["--ratelimiter.url", &url], flags].concat();
    let watched = Watched::described(description, &flags).await?;
    for (key, count) in [("own:low", "8"), ("own:high", "11")] {
        watched.run(&["SET", key, count, "EX", "3500"]).await?;
    }
    let known = |scrape: &Scrape| limit(scrape, "low") == Some(10.0);
    watched
        .exporter
        .until("the limits are known", known)
        .await?;
    Ok((api, watched))
}

/// Whether `low` has the limit `expected`, and only `high`, which was above the limit before, is reported.
fn is_excused(scrape: &Scrape, expected: f64) -> bool {
    let labels = [("name", "ghost_allowing"), ("subject", "low")];
    let pending = scrape.is("ratelimiter_invariant_pending", &labels, 1);
    let reported = scrape.reported();
    let all_high = reported.iter().all(|it| it.ends_with(" high")) && !reported.is_empty();
    limit(scrape, "low") == Some(expected) && pending && all_high
}

#[tokio::test]
async fn a_count_that_was_legal_before_a_limit_fell_in_an_api_is_pending() -> anyhow::Result<()> {
    let (api, watched) = started("low 10 per hour\nhigh 10 per hour\n", &[]).await?;
    // The order of the rules is of no importance.
    api.answer(6070, "/limits", 200, "high 5 per hour\nlow 5 per hour\n");
    let fell = |scrape: &Scrape| limit(scrape, "low") == Some(5.0);
    let scrape = watched.exporter.until("the limit fell", fell).await?;
    assert!(is_excused(&scrape, 5.0), "{}", scrape.text);
    // A change of another rule does not end it, and neither does another fall.
    api.answer(6070, "/limits", 200, "high 5 per hour\nlow 4 per hour\n");
    let fell = |scrape: &Scrape| limit(scrape, "low") == Some(4.0);
    let scrape = watched.exporter.until("it fell again", fell).await?;
    assert!(is_excused(&scrape, 4.0), "{}", scrape.text);
    Ok(())
}

#[tokio::test]
async fn limits_of_an_api_and_their_falls_survive_a_restart_while_it_is_away() -> anyhow::Result<()>
{
    let folder = TempDir::new("api-state")?;
    let state = format!(
        "--state.file={}",
        folder.path().join("state.json").display()
    );
    let rules = "low 10 per hour\nhigh 10 per hour\n";
    let (mut api, mut watched) = started(rules, &[&state]).await?;
    api.answer(6070, "/limits", 200, &rules.replace("10", "5"));
    let fell = |scrape: &Scrape| is_excused(scrape, 5.0);
    watched.exporter.until("the limit fell", fell).await?;

    api.stop(6070);
    watched.restart().await?;
    let scrape = watched.exporter.until("the limit is known", fell).await?;
    scrape.assert_is("ratelimiter_up", &[], 0);
    assert!(scrape.errors("counters", "limits_unread") <= 0.0);

    // A fall while the exporter does not run is noticed at the start.
    api.answer(6070, "/limits", 200, &rules.replace("10", "3"));
    api.listen(6070).await?;
    watched.restart().await?;
    let fell = |scrape: &Scrape| is_excused(scrape, 3.0);
    watched.exporter.until("the limit fell", fell).await?;
    Ok(())
}

#[tokio::test]
async fn a_limit_that_was_raised_in_an_api_is_no_violation() -> anyhow::Result<()> {
    let seldom = DESCRIPTION.replace("every: 1s", "every: 1h");
    let rules = "low 10 per hour\nhigh 20 per hour\n";
    let (mut api, watched) = watching(&seldom, rules, &[]).await?;
    api.answer(6070, "/limits", 200, &rules.replace("10", "100"));
    watched.run(&["SET", "own:low", "35", "EX", "3500"]).await?;
    let raised = |scrape: &Scrape| {
        scrape.assert_reported(&[]);
        limit(scrape, "low") == Some(100.0)
    };
    watched
        .exporter
        .until("the limit was raised", raised)
        .await?;

    // A count that the API's next answer does not explain is reported, also if the API does not answer.
    let ghosts = |expected: &'static [&str]| {
        move |scrape: &Scrape| {
            let mut reported = scrape.reported();
            reported.retain(|it| it.starts_with("ghost_allowing"));
            reported.sort_unstable();
            reported == expected
        }
    };
    watched
        .run(&["SET", "own:low", "101", "EX", "3500"])
        .await?;
    let low = ghosts(&["ghost_allowing low"]);
    watched.exporter.until("101 is above 100", low).await?;
    api.stop(6070);
    watched
        .run(&["SET", "own:high", "21", "EX", "3500"])
        .await?;
    let both = ghosts(&["ghost_allowing high", "ghost_allowing low"]);
    watched.exporter.until("21 is above 20", both).await?;
    Ok(())
}
