//! A password shows nowhere: in no log, no error, no metric, no page.

use lab::redis_server::RedisServer;

use super::harness::{Exporter, run, said};

const PASSWORD: &str = "tr0ub4dor-and-3";

#[tokio::test]
async fn a_password_shows_nowhere() -> anyhow::Result<()> {
    let redis = RedisServer::start(&["--requirepass", PASSWORD]).await?;
    let folder = lab::temp::TempDir::new("secrets")?;
    let file = folder.path().join("password");
    std::fs::write(&file, format!("{PASSWORD}\n"))?;
    let port = redis.port();
    let wrong = format!("--redis.url=redis://:{PASSWORD}-wrong@127.0.0.1:{port}");
    let cases = [
        (
            vec![format!("--redis.url=redis://:{PASSWORD}@127.0.0.1:{port}")],
            true,
        ),
        (
            vec![
                format!("--redis.url={}", redis.url()),
                format!("--redis.password-file={}", file.display()),
            ],
            true,
        ),
        (vec![wrong], false),
        (
            vec![format!(
                "--redis.url=redis://:{PASSWORD}@127.0.0.1:{}",
                lab::ports::free_port()
            )],
            false,
        ),
    ];
    for (mut flags, works) in cases {
        flags.push("--log.level=trace".to_owned());
        let exporter = Exporter::start(&flags).await?;
        let scrape = exporter.scrape().await?;
        assert_eq!(
            scrape.is("ratelimiter_redis_up", &[], 1),
            works,
            "{}",
            exporter.log()
        );
        let mut shown = String::new();
        for path in [
            "/metrics",
            "/",
            "/api/v1/violations",
            "/api/v1/observation",
            "/api/v1/actions",
        ] {
            shown += &exporter.get(path).await?.text();
        }
        shown += &exporter.log();
        assert!(!shown.contains(PASSWORD), "{shown}");
    }
    // The node's own password, where it refuses and where nobody listens.
    let url = format!("http://me:{PASSWORD}@127.0.0.1:{}", redis.port());
    let flags = [
        format!("--ratelimiter.url={url}"),
        format!("--prometheus.url={url}"),
        "--web.enable-admin-api".to_owned(),
        "--web.admin-api-insecure".to_owned(),
        "--log.level=trace".to_owned(),
    ];
    let exporter = Exporter::start(&flags).await?;
    let mut shown = exporter.scrape().await?.text;
    for path in ["/", "/api/v1/violations", "/api/v1/observation"] {
        shown += &exporter.get(path).await?.text();
    }
    let reset = "/api/v1/actions/reset_counter";
    let answer = exporter.send(hyper::Method::POST, reset, "{\"key\":\"k\"}");
    let answer = answer.await?;
    assert_eq!(answer.status, 502, "{}", answer.text());
    shown += &answer.text();
    shown += &exporter.log();
    assert!(!shown.contains(PASSWORD), "{shown}");
    for words in [
        &["check", "--latency-sample=0s"][..],
        &["reset-counter", "k"],
    ] {
        let mut args = flags[..2].to_vec();
        args.push(format!(
            "--redis.url=redis://:{PASSWORD}-wrong@127.0.0.1:{port}"
        ));
        args.extend(words.iter().map(|&word| word.to_owned()));
        let output = run(args).await?;
        let shown = said(&output) + &String::from_utf8_lossy(&output.stdout);
        assert!(!shown.contains(PASSWORD), "{words:?}: {shown}");
    }
    for mistake in [
        format!("--redis.url=redis://:{PASSWORD}@h:1/not-a-number"),
        format!("--redis.url=http://:{PASSWORD}@h"),
        format!("--ratelimiter.url=ftp://me:{PASSWORD}@h"),
    ] {
        let output = run(vec![mistake, "check".to_owned()]).await?;
        assert_eq!(output.status.code(), Some(2));
        assert!(!said(&output).contains(PASSWORD), "{output:?}");
    }
    Ok(())
}
