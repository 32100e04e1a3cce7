//! Nodes of described kinds that register in Redis: what is asked at their addresses, and when their registrations are read.

use super::registry::{HOUR, PORT, healthy, myapp, register, up};
use super::stand_in::StandIn;
use super::{Watched, limit, now};
use crate::harness::{PATIENCE, Scrape, command_stat};

/// The description of the tests of registrations, with limits from an API that is fetched every second.
fn with_api() -> anyhow::Result<String> {
    let text = myapp("1h", "10m")?;
    let fixed = "  - fixed: {limit: 10, window: 1m}\n";
    anyhow::ensure!(text.contains(fixed), "{text}");
    let api = "  - http: {path: /limits, every: 1s, json: {limit: /limit, window: /window_ms, unit: ms}}\n";
    Ok(text.replace(fixed, api))
}

fn answer_limit(node: &StandIn, limit: u32) {
    let limits = format!(r#"{{"limit":{limit},"window_ms":3600000}}"#);
    node.answer(PORT, "/limits", 200, &limits);
}

#[tokio::test]
async fn limits_of_an_api_come_from_registered_nodes_without_a_url() -> anyhow::Result<()> {
    let (mut first, mut second) = (healthy("a").await?, healthy("b").await?);
    answer_limit(&first, 10);
    answer_limit(&second, 20);
    let watched = Watched::described(&with_api()?, &[]).await?;
    let mut redis = watched.redis.connection().await?;
    let ms = (now() * 1000).to_string();
    watched.run(&["ZADD", "myapp:rl:user", &ms, "1"]).await?;
    let unread = |scrape: &Scrape| scrape.errors("counters", "limits_unread") > 0.0;
    let scrape = watched.exporter.until("no limit is known", unread).await?;
    assert_eq!(scrape.value("ratelimiter_up", &[]), None);

    register(&mut redis, "a", &first.address(PORT), HOUR).await?;
    let known = |limited: f64| move |scrape: &Scrape| limit(scrape, "user") == Some(limited);
    let scrape = watched.exporter.until("a says it", known(10.0)).await?;
    scrape.assert_is("ratelimiter_up", &[], 1);
    assert_eq!(scrape.succeeded("management_api"), Some(true));

    register(&mut redis, "b", &second.url(PORT), HOUR).await?;
    first.stop(PORT);
    let scrape = watched.exporter.until("b says it", known(20.0)).await?;
    scrape.assert_is("ratelimiter_up", &[], 1);
    scrape.assert_reported(&["node_down a"]);

    second.stop(PORT);
    let away = |scrape: &Scrape| scrape.is("ratelimiter_up", &[], 0);
    let scrape = watched.exporter.until("none answers", away).await?;
    assert!(known(20.0)(&scrape), "{}", scrape.text);

    watched
        .run(&["DEL", "myapp:nodes:a", "myapp:nodes:b"])
        .await?;
    let none = |scrape: &Scrape| scrape.value("ratelimiter_up", &[]).is_none();
    let scrape = watched.exporter.until("all nodes have left", none).await?;
    assert!(known(20.0)(&scrape), "{}", scrape.text);
    Ok(())
}

#[tokio::test]
async fn a_registered_url_and_the_configured_one_are_one_node() -> anyhow::Result<()> {
    let with_id = "health: {path: /health, id: /node_id, covers_redis: false}";
    let text = myapp("1h", "10m")?;
    anyhow::ensure!(text.contains(with_id), "{text}");
    let text = text.replace(with_id, "health: {path: /health}");
    let mut node = StandIn::new();
    node.serve(PORT, "/limiter/health", "OK").await?;
    node.answer(PORT, "/limiter/metrics", 200, "");
    let configured = format!("{}/limiter", node.url(PORT));
    let flags = ["--ratelimiter.url", configured.as_str()];
    let watched = Watched::described(&text, &flags).await?;
    let mut redis = watched.redis.connection().await?;
    for registered in [
        format!("{configured}/"),
        configured.replace("http://", "HTTP://"),
        node.address(PORT),
    ] {
        register(&mut redis, "a", &registered, HOUR).await?;
        let is_up = |scrape: &Scrape| up(scrape, "a");
        watched.exporter.until("it is registered", is_up).await?;
        let before = node.asked("GET /limiter/health");
        let scrape = watched.exporter.scrape().await?;
        let ids = scrape.labels("ratelimiter_node_up", "node_id");
        assert_eq!(ids, ["a"], "{registered}");
        assert_eq!(node.asked("GET /limiter/health"), before + 1);
        scrape.assert_reported(&[]);
    }
    Ok(())
}

#[tokio::test]
async fn the_state_in_the_list_of_the_api_is_that_of_the_node_at_the_configured_url()
-> anyhow::Result<()> {
    let mut node = StandIn::new();
    let url = format!("{}/limiter", node.url(PORT));
    // The API cuts an id at its last colon.
    let list = format!(r#"{{"nodes":[{{"id":"a","address":"{url}","state":"Draining"}}]}}"#);
    let limits = r#"{"default_limit":10,"default_window_ms":1000}"#;
    node.answer(PORT, "/limiter/api/nodes", 200, &list);
    node.answer(PORT, "/limiter/api/limits", 200, limits);
    node.answer(PORT, "/limiter/metrics", 200, "");
    node.serve(PORT, "/limiter/health", r#"{"node_id":"a:1"}"#)
        .await?;
    let mut watched = Watched::start("reference", &url).await?;
    let name = "ratelimiter:nodes:a:1";
    watched.run(&["HSET", name, "address", &url]).await?;
    watched.run(&["EXPIRE", name, "25"]).await?;
    // The list is requested seldom: the first collection after this has the registration.
    watched.restart().await?;
    let is_down = |scrape: &Scrape| scrape.is("ratelimiter_node_up", &[("node_id", "a:1")], 0);
    let scrape = watched.exporter.until("it drains", is_down).await?;
    scrape.assert_reported(&["node_down a:1"]);
    Ok(())
}

#[tokio::test]
async fn registrations_are_read_again_while_a_collection_takes_long() -> anyhow::Result<()> {
    let (mut node, mut api) = (healthy("a").await?, StandIn::new());
    answer_limit(&api, 10);
    api.listen(PORT).await?;
    let url = format!("url: '{}/limits'", api.url(PORT));
    let text = with_api()?.replace("path: /limits", &url);
    let text = text.replace("ttl: 1h", "ttl: 4s");
    let text = text.replace("renewed: 10m", "renewed: 1s");
    let watched = Watched::described(&text, &["--ratelimiter.timeout=15s"]).await?;
    let mut redis = watched.redis.connection().await?;
    register(&mut redis, "a", &node.address(PORT), HOUR).await?;
    let is_up = |scrape: &Scrape| up(scrape, "a");
    watched.exporter.until("it is up", is_up).await?;
    // From now on a collection that asks for the limits waits for them.
    api.answer_late(PORT, "/limits", 200, "", PATIENCE);
    let before = api.asked("GET /limits");
    let waits = || async { api.asked("GET /limits") > before };
    loop {
        let scrape = watched.exporter.scrape_within(120.0);
        tokio::pin!(scrape);
        let read_again = async {
            lab::wait_for(PATIENCE, waits).await?;
            let first = command_stat(&watched.redis, "hmget", "calls").await?;
            let again = || async {
                let calls = command_stat(&watched.redis, "hmget", "calls").await;
                calls.is_ok_and(|calls| calls >= first + 2)
            };
            lab::wait_for(PATIENCE, again).await
        };
        tokio::select! {
            ended = &mut scrape => {
                let ended = ended?;
                anyhow::ensure!(!waits().await, "the registration was read once: {}", ended.text);
            }
            read = read_again => {
                read?;
                watched.run(&["DEL", "myapp:nodes:a"]).await?;
                node.stop(PORT);
                api.stop(PORT);
                scrape.await?.assert_reported(&[]);
                break;
            }
        }
    }
    let scrape = watched.exporter.scrape().await?;
    scrape.assert_reported(&[]);
    scrape.assert_is("ratelimiter_nodes", &[], 0);
    Ok(())
}
