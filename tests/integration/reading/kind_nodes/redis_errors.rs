//! `redis_disconnected` of nodes without a registry: what their counters, or nothing, show of it.

use super::*;

/// `invariant_violation` of the node's way to Redis.
fn series(scrape: &Scrape, id: &str) -> Option<f64> {
    let labels = [("name", "redis_disconnected"), ("subject", id)];
    scrape.value("invariant_violation", &labels)
}

#[tokio::test]
async fn a_node_with_failures_of_redis_stays_reported_until_its_counters_show_an_end()
-> anyhow::Result<()> {
    let envoy = envoy_node().await?;
    let id = envoy.address(8080);
    let folder = TempDir::new("redis-errors")?;
    let state = format!("--state.file={}", folder.path().join("state").display());
    let url = format!("--ratelimiter.url={}", envoy.url(8080));
    let flags = ["--limiter.kind=envoy-ratelimit", &url, &state];
    let mut watched = Watched::with(&flags).await?;
    let evaluable = |scrape: &Scrape| scrape.evaluable("redis_disconnected") == Some(true);
    let is = |scrape: &Scrape, value: f64| series(scrape, &id) == Some(value);
    // One reading shows no increase; the second one shows that nothing failed.
    let scrape = watched.exporter.scrape().await?;
    assert!(is(&scrape, 0.0) && !evaluable(&scrape), "{}", scrape.text);
    let well = |scrape: &Scrape| is(scrape, 0.0) && evaluable(scrape);
    watched.exporter.until("nothing failed", well).await?;

    envoy.answer(9090, "/metrics", 200, &metrics(10, 20, 10, 0));
    let lost = |scrape: &Scrape| is(scrape, 1.0) && evaluable(scrape);
    watched.exporter.until("it lost Redis", lost).await?;
    envoy.answer(9090, "/metrics", 500, "");
    let held = |scrape: &Scrape| is(scrape, 1.0) && !evaluable(scrape);
    for _ in 0..2 {
        let scrape = watched.exporter.scrape().await?;
        assert!(held(&scrape), "{}", scrape.text);
    }
    let explained = watched.exporter.get("/api/v1/violations").await?.text();
    assert!(explained.contains("no_metrics"), "{explained}");
    watched.restart().await?;
    let scrape = watched.exporter.scrape().await?;
    assert!(held(&scrape), "{}", scrape.text);
    // After two readings without decisions, nothing shows that Redis is back.
    envoy.answer(9090, "/metrics", 200, &metrics(10, 40, 10, 0));
    for _ in 0..2 {
        let scrape = watched.exporter.scrape().await?;
        assert!(held(&scrape), "{}", scrape.text);
    }
    envoy.answer(9090, "/metrics", 200, &metrics(30, 40, 30, 0));
    watched.exporter.until("it is back", well).await?;
    // Where the answer about its health is cut off, too, the node's state is unknown.
    envoy.answer(9090, "/metrics", 200, &metrics(30, 60, 30, 0));
    watched.exporter.until("it lost Redis again", lost).await?;
    for path in [(8080, "/healthcheck"), (9090, "/metrics")] {
        envoy.answer_late(path.0, path.1, 200, "OK", Duration::from_secs(60));
    }
    let scrape = watched.exporter.scrape_within(0.6).await?;
    assert!(held(&scrape), "{}", scrape.text);
    Ok(())
}

#[tokio::test]
async fn a_node_of_which_nothing_shows_its_way_to_redis_has_no_series_of_it() -> anyhow::Result<()>
{
    let mut kong = StandIn::new();
    kong.serve(8100, "/status", "{}").await?;
    let id = kong.address(8000);
    let watched = Watched::start("kong", &kong.url(8000)).await?;
    let up = |scrape: &Scrape| node(scrape, "up", &id, 1);
    let scrape = watched.exporter.until("it is up", up).await?;
    assert_eq!(series(&scrape, &id), None);
    assert_eq!(scrape.evaluable("redis_disconnected"), Some(true));
    kong.stop(8100);
    let down = format!("node_down {id}");
    let is_down = |scrape: &Scrape| scrape.reported() == [down.as_str()];
    let scrape = watched.exporter.until("it is down", is_down).await?;
    assert_eq!(series(&scrape, &id), None);
    assert_eq!(scrape.evaluable("redis_disconnected"), Some(true));
    Ok(())
}
