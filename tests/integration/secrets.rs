//! A password shows nowhere: in no log, no error, no metric, no page.

use lab::redis_server::RedisServer;

use super::harness::{Exporter, run};

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
        let mut shown = exporter.log();
        for path in [
            "/metrics",
            "/",
            "/api/v1/violations",
            "/api/v1/observation",
            "/api/v1/actions",
        ] {
            shown += &exporter.get(path).await?.text();
        }
        assert!(!shown.contains(PASSWORD), "{shown}");
    }
    for mistake in [
        format!("--redis.url=redis://:{PASSWORD}@h:1/not-a-number"),
        format!("--redis.url=http://:{PASSWORD}@h"),
        format!("--ratelimiter.url=ftp://me:{PASSWORD}@h"),
    ] {
        let output = run(vec![mistake, "check".to_owned()]).await?;
        assert_eq!(output.status.code(), Some(2));
        assert!(
            !String::from_utf8_lossy(&output.stderr).contains(PASSWORD),
            "{output:?}"
        );
    }
    Ok(())
}
