//! Actions: as data, from the command line, and over HTTP only when that was asked for.

use hyper::Method;
use lab::seed::fill_to;

use super::harness::{Cluster, run};

#[tokio::test]
async fn the_definitions_are_data() -> anyhow::Result<()> {
    let output = run(vec!["actions".to_owned()]).await?;
    assert_eq!(output.status.code(), Some(0));
    let actions: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    assert_eq!(actions[0]["name"], "reset_counter");
    assert_eq!(actions[0]["parameters"]["key"]["type"], "string");
    assert_eq!(actions[0]["parameters"]["key"]["required"], true);
    assert_eq!(actions[0]["risk_level"], "low");
    assert_eq!(actions[0]["requires_approval"], false);
    Ok(())
}

#[tokio::test]
async fn reset_counter_resets_keys_of_any_text() -> anyhow::Result<()> {
    let cluster = Cluster::start(1, &[]).await?;
    let mut redis = cluster.redis.connection().await?;
    let url = format!("--ratelimiter.url={}", cluster.nodes[0].url());
    for key in ["plain", "a key with spaces", "🔥key", "100%?#&=+"] {
        fill_to(&mut redis, key.as_bytes(), 3).await?;
        let output = run(vec![
            url.clone(),
            "reset-counter".to_owned(),
            key.to_owned(),
        ])
        .await?;
        assert_eq!(output.status.code(), Some(0), "{key}: {output:?}");
        let left: u64 = redis::cmd("EXISTS")
            .arg(format!("ratelimit:{key}"))
            .query_async(&mut redis)
            .await?;
        assert_eq!(left, 0, "{key}");
    }
    for key in ["with/slash", "..", ""] {
        let output = run(vec![
            url.clone(),
            "reset-counter".to_owned(),
            key.to_owned(),
        ])
        .await?;
        assert_eq!(output.status.code(), Some(2), "{key}: {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1);
    }
    let nobody = format!(
        "--ratelimiter.url=http://127.0.0.1:{}",
        lab::ports::free_port()
    );
    let output = run(vec![nobody, "reset-counter".to_owned(), "k".to_owned()]).await?;
    assert_eq!(output.status.code(), Some(2));
    Ok(())
}

#[tokio::test]
async fn over_http_it_is_opt_in() -> anyhow::Result<()> {
    let path = "/api/v1/actions/reset_counter";
    let closed = Cluster::start(1, &[]).await?;
    let answer = closed
        .exporter
        .send(Method::POST, path, "{\"key\":\"k\"}")
        .await?;
    assert_eq!(answer.status, 403);

    let open = Cluster::start(1, &["--web.enable-admin-api"]).await?;
    let mut redis = open.redis.connection().await?;
    fill_to(&mut redis, b"k", 3).await?;
    let answer = open
        .exporter
        .send(Method::POST, path, "{\"key\":\"k\"}")
        .await?;
    assert_eq!(
        (answer.status, answer.json()?["accepted"].clone()),
        (202, true.into())
    );
    let left: u64 = redis::cmd("EXISTS")
        .arg("ratelimit:k")
        .query_async(&mut redis)
        .await?;
    assert_eq!(left, 0);
    for body in [
        "",
        "{}",
        "{\"key\":1}",
        "{\"key\":\"k\",\"more\":1}",
        "nonsense",
    ] {
        let answer = open.exporter.send(Method::POST, path, body).await?;
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.text().contains("expected"), "{}", answer.text());
    }
    Ok(())
}
