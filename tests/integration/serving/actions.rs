//! Actions: as data, from the command line, and over HTTP only with `--web.enable-admin-api`.

use hyper::Method;
use lab::seed::fill_to;

use crate::harness::{Cluster, client, run};

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
async fn over_http_actions_are_off_by_default() -> anyhow::Result<()> {
    let path = "/api/v1/actions/reset_counter";
    let closed = Cluster::start(1, &[]).await?;
    let answer = closed
        .exporter
        .send(Method::POST, path, "{\"key\":\"k\"}")
        .await?;
    assert_eq!(answer.status, 403);

    let flags = ["--web.enable-admin-api", "--web.admin-api-insecure"];
    let open = Cluster::start(1, &flags).await?;
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
    let untyped = open.exporter.send(Method::POST, path, "").await?;
    assert_eq!(untyped.status, 415);
    for body in [
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

#[tokio::test]
async fn over_http_an_action_needs_a_login_and_is_logged() -> anyhow::Result<()> {
    let folder = lab::temp::TempDir::new("admin")?;
    let file = folder.path().join("web.yml");
    let hash = bcrypt::hash("open sesame", 4)?;
    std::fs::write(&file, format!("basic_auth_users: {{ali: {hash}}}\n"))?;
    let flag = format!("--web.config.file={}", file.display());
    let flags = ["--web.enable-admin-api", "--keys.label=hash", &flag];
    let cluster = Cluster::start(1, &flags).await?;
    let mut redis = cluster.redis.connection().await?;
    fill_to(&mut redis, b"person@example.org", 3).await?;
    let client = client()?;
    let url = format!(
        "http://{}/api/v1/actions/reset_counter",
        cluster.exporter.address
    );
    let body = "{\"key\":\"person@example.org\"}";
    let send = |password: &str, headers: &[(&'static str, &'static str)]| {
        let mut request = client
            .post(&url)
            .basic_auth("ali", Some(password))
            .body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        async move { anyhow::Ok(request.send().await?.status().as_u16()) }
    };
    let json = ("content-type", "application/json");
    let exists = redis::cmd("EXISTS")
        .arg("ratelimit:person@example.org")
        .clone();
    assert_eq!(send("guess", &[json]).await?, 401);
    // What a page of another site can make a browser send, the password included.
    assert_eq!(send("open sesame", &[]).await?, 415);
    for site in ["cross-site", "same-site"] {
        let status = send("open sesame", &[json, ("sec-fetch-site", site)]).await?;
        assert_eq!(status, 403, "{site}");
    }
    let foreign = [json, ("origin", "http://elsewhere.example")];
    assert_eq!(send("open sesame", &foreign).await?, 403);
    let left: u64 = exists.query_async(&mut redis).await?;
    assert_eq!(left, 1);

    assert_eq!(send("open sesame", &[json]).await?, 202);
    let left: u64 = exists.query_async(&mut redis).await?;
    assert_eq!(left, 0);
    cluster.nodes.into_iter().for_each(drop);
    assert_eq!(send("open sesame", &[json]).await?, 502);
    let log = cluster.exporter.log();
    let lines: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("action=reset_counter"))
        .collect();
    let count = |words: &[&str]| {
        let all = |line: &&&str| words.iter().all(|word| line.contains(word));
        lines.iter().filter(all).count()
    };
    let key = "key=46585948dd0fba96";
    assert_eq!(
        count(&["outcome=refused", "ali", "another site"]),
        3,
        "{log}"
    );
    assert_eq!(count(&["outcome=refused", "application/json"]), 1, "{log}");
    assert_eq!(count(&["outcome=accepted", "ali", key]), 1, "{log}");
    assert_eq!(
        count(&["outcome=failed", "reason=refused", key]),
        1,
        "{log}"
    );
    assert!(!log.contains("person"), "{log}");
    Ok(())
}

#[tokio::test]
async fn over_http_an_action_without_a_login_needs_a_flag() -> anyhow::Result<()> {
    let folder = lab::temp::TempDir::new("admin-open")?;
    let file = folder.path().join("web.yml");
    std::fs::write(&file, "basic_auth_users: {}\n")?;
    let empty = format!("--web.config.file={}", file.display());
    for flags in [
        &["--web.enable-admin-api"][..],
        &["--web.enable-admin-api", &empty],
    ] {
        let output = run(flags.iter().map(|&flag| flag.to_owned()).collect()).await?;
        let said = crate::harness::said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        for word in [
            "--web.enable-admin-api",
            "basic_auth_users",
            "--web.admin-api-insecure",
        ] {
            assert!(said.contains(word), "{said}");
        }
    }
    Ok(())
}
