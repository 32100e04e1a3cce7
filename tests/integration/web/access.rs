//! Who is let in: TLS, client certificates and users from a web configuration file, and what happens when it changes.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use lab::temp::TempDir;
use tokio::io::AsyncReadExt as _;

use crate::certificates::certificates;
use crate::harness::{Exporter, PATIENCE, Scrape, client, client_builder, run, said};
use crate::repository::example;

/// Cheap, so that tests that are no tests of bcrypt do not wait for it.
const COST: u32 = 4;

pub(crate) fn users(users: &[(&str, &str)]) -> anyhow::Result<String> {
    let mut lines = vec!["basic_auth_users:".to_owned()];
    for (user, password) in users {
        lines.push(format!("  {user}: {}", bcrypt::hash(password, COST)?));
    }
    Ok(lines.join("\n"))
}

/// An exporter with this web configuration file. Nothing that it would observe is there, which nothing here needs.
pub(crate) async fn exporter(file: &Path) -> anyhow::Result<Exporter> {
    let flag = format!("--web.config.file={}", file.display());
    Exporter::start(&[flag, "--log.level=debug".to_owned()]).await
}

/// A client that trusts `ca` and shows `identity`.
pub(crate) fn tls_client(ca: &str, identity: Option<[&str; 2]>) -> anyhow::Result<reqwest::Client> {
    tls_client_of(client_builder(), ca, identity)
}

pub(crate) fn tls_client_of(
    builder: reqwest::ClientBuilder,
    ca: &str,
    identity: Option<[&str; 2]>,
) -> anyhow::Result<reqwest::Client> {
    let authorities = reqwest::Certificate::from_pem(&std::fs::read(ca)?)?;
    let mut client = builder.tls_certs_only([authorities]);
    if let Some([chain, key]) = identity {
        let pem = [std::fs::read(chain)?, std::fs::read(key)?].concat();
        client = client.identity(reqwest::Identity::from_pem(&pem)?);
    }
    Ok(client.build()?)
}

pub(crate) async fn status(request: reqwest::RequestBuilder) -> anyhow::Result<u16> {
    Ok(request.send().await?.status().as_u16())
}

#[tokio::test]
async fn users_log_in_and_passwords_change_without_a_restart() -> anyhow::Result<()> {
    let folder = TempDir::new("users")?;
    let file = folder.path().join("web.yml");
    std::fs::write(&file, users(&[("prometheus", "old"), ("ann", "her own")])?)?;
    let exporter = exporter(&file).await?;
    let client = client()?;
    let get = |path: &str| client.get(format!("http://{}{path}", exporter.address));
    for path in [
        "/",
        "/metrics",
        "/-/healthy",
        "/-/ready",
        "/api/v1/violations",
        "/api/v1/observation",
        "/api/v1/actions",
        "/nowhere",
    ] {
        let answer = get(path).send().await?;
        assert_eq!(answer.status(), 401, "{path}");
        let challenge = answer.headers()["www-authenticate"].to_str()?;
        assert!(challenge.starts_with("Basic realm="), "{challenge}");
        assert_eq!(answer.text().await?, "unauthorized\n", "{path}");
    }
    let login = |user: &str, password: &str| {
        let request = get("/-/healthy").basic_auth(user, Some(password));
        status(request)
    };
    assert_eq!(login("prometheus", "old").await?, 200);
    assert_eq!(login("ann", "her own").await?, 200);
    for (user, password) in [
        ("prometheus", "new"),
        ("ann", "old"),
        ("bob", "old"),
        ("", ""),
    ] {
        assert_eq!(login(user, password).await?, 401, "{user}");
    }
    assert_eq!(status(get("/-/healthy").bearer_auth("old")).await?, 401);

    // Ann leaves, Prometheus gets a new password. The same connection notices.
    std::fs::write(&file, users(&[("prometheus", "new")])?)?;
    assert_eq!(login("prometheus", "new").await?, 200);
    assert_eq!(login("prometheus", "old").await?, 401);
    assert_eq!(login("ann", "her own").await?, 401);

    // Broken, empty as a file that is being written, gone: nothing changes, and the log says so, once each.
    let count = |what: &str| exporter.log().matches(what).count();
    std::fs::write(&file, "basic_auth_users:\n  prometheus: new\n")?;
    for _ in 0..3 {
        assert_eq!(login("prometheus", "new").await?, 200);
        assert_eq!(login("prometheus", "old").await?, 401);
    }
    assert_eq!(count("stays in force"), 1, "{}", exporter.log());
    assert_eq!(count("expected a bcrypt hash"), 1);
    std::fs::write(&file, "")?;
    assert_eq!(login("prometheus", "old").await?, 401);
    assert_eq!(login("prometheus", "new").await?, 200);
    assert_eq!(count("basic_auth_users is weaker"), 1);
    std::fs::remove_file(&file)?;
    assert_eq!(login("prometheus", "new").await?, 200);
    assert_eq!(count("stays in force"), 3, "{}", exporter.log());
    std::fs::write(&file, users(&[("prometheus", "newest")])?)?;
    assert_eq!(login("prometheus", "newest").await?, 200);
    assert_eq!(login("prometheus", "new").await?, 401);
    Ok(())
}

#[tokio::test]
async fn refused_logins_are_counted_whatever_is_read_again() -> anyhow::Result<()> {
    let folder = TempDir::new("refused")?;
    let file = folder.path().join("web.yml");
    std::fs::write(&file, users(&[("ann", "right")])?)?;
    let mut exporter = exporter(&file).await?;
    let client = client()?;
    let address = exporter.address.clone();
    let get = |path: &str| client.get(format!("http://{address}{path}"));
    let counted = async || {
        let metrics = get("/metrics").basic_auth("ann", Some("right"));
        let scrape = Scrape::parse(metrics.send().await?.text().await?)?;
        let count = |credentials| {
            let name = "ratelimiter_exporter_http_requests_unauthorized_total";
            scrape.value(name, &[("credentials", credentials)])
        };
        anyhow::Ok((count("missing"), count("wrong")))
    };
    assert_eq!(counted().await?, (Some(0.0), Some(0.0)));
    for request in [
        get("/metrics"),
        get("/nowhere"),
        get("/").basic_auth("ann", Some("wrong")),
        get("/").basic_auth("bob", Some("right")),
        get("/-/ready").bearer_auth("right"),
    ] {
        assert_eq!(status(request).await?, 401);
    }
    assert_eq!(counted().await?, (Some(2.0), Some(3.0)));

    // Other users, and a whole other configuration: what was counted stays, and is counted on.
    std::fs::write(&file, users(&[("ann", "right"), ("bob", "his own")])?)?;
    exporter.process.hang_up()?;
    let read = lab::wait_for(PATIENCE, || async {
        exporter.log().contains("the new configuration is in force")
    });
    read.await.with_context(|| exporter.log())?;
    let bob = get("/").basic_auth("bob", Some("right"));
    assert_eq!(status(bob).await?, 401);
    assert_eq!(counted().await?, (Some(2.0), Some(4.0)));
    let probe = get("/probe?target=default").basic_auth("ann", Some("right"));
    let probe = probe.send().await?.text().await?;
    assert!(probe.contains("ratelimiter_redis_up") && !probe.contains("unauthorized"));
    Ok(())
}

#[tokio::test]
async fn password_guessing_does_not_block_other_users() -> anyhow::Result<()> {
    let folder = TempDir::new("guessers")?;
    let file = folder.path().join("web.yml");
    let (ann, bob) = (bcrypt::hash("right", 9)?, bcrypt::hash("his own", 9)?);
    std::fs::write(
        &file,
        format!("basic_auth_users: {{ann: {ann}, bob: {bob}}}\n"),
    )?;
    let exporter = exporter(&file).await?;
    let url = format!("http://{}/-/healthy", exporter.address);
    let client = client()?;
    let login = |user: &str, password: &str| {
        let request = client.get(&url).basic_auth(user, Some(password));
        status(request)
    };
    assert_eq!(login("ann", "right").await?, 200);
    let mut guesses = tokio::task::JoinSet::new();
    for number in 0..60 {
        let user = if number % 2 == 0 { "ann" } else { "nobody" };
        guesses.spawn(login(user, &number.to_string()));
    }
    // They have begun, and take long: two at a time, in the order in which they came.
    let first = guesses.join_next().await.context("no guess")??;
    assert_eq!(first?, 401);
    // Ann logged in before. Bob waits his turn, once for many requests.
    assert_eq!(login("ann", "right").await?, 200);
    let waiting = guesses.len();
    assert!(
        waiting > 20,
        "all but {waiting} guesses were verified first"
    );
    for answer in join_all((0..20).map(|_| login("bob", "his own"))).await {
        assert_eq!(answer?, 200);
    }
    while let Some(guess) = guesses.join_next().await {
        assert_eq!(guess??, 401);
    }
    let metrics = client.get(url.replace("/-/healthy", "/metrics"));
    let metrics = metrics.basic_auth("ann", Some("right")).send().await?;
    let scrape = Scrape::parse(metrics.text().await?)?;
    let name = "ratelimiter_exporter_http_requests_unauthorized_total";
    scrape.assert_is(name, &[("credentials", "wrong")], 60);
    Ok(())
}

#[tokio::test]
async fn a_handshake_that_never_ends_delays_nobody() -> anyhow::Result<()> {
    let folder = TempDir::new("handshake")?;
    let [ca, cert, key] = certificates(folder.path(), "own")?;
    let file = folder.path().join("web.yml");
    std::fs::write(
        &file,
        format!("tls_server_config: {{cert_file: {cert}, key_file: {key}}}\n"),
    )?;
    let exporter = exporter(&file).await?;
    let mut silent = tokio::net::TcpStream::connect(&exporter.address).await?;
    let url = format!("https://{}/-/healthy", exporter.address);
    assert_eq!(status(tls_client(&ca, None)?.get(url)).await?, 200);
    // And is let go.
    let mut nothing = [0; 1];
    let read = silent.read(&mut nothing);
    let read = tokio::time::timeout(Duration::from_secs(20), read).await?;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    Ok(())
}

#[tokio::test]
async fn mistakes_in_the_web_configuration_are_one_line() -> anyhow::Result<()> {
    let folder = TempDir::new("web-mistakes")?;
    let file = folder.path().join("web.yml");
    let flag = format!("--web.config.file={}", file.display());
    for (text, expected) in [
        ("basic_auth_usrs: {}\n", &["basic_auth_usrs", "line 1"][..]),
        (
            "tls_server_config:\n  cert_file: nowhere.pem\n  key_file: nowhere.key\n",
            &["cert_file", "nowhere.pem", "No such file"],
        ),
        (
            "http_server_config: {http2: true}\n",
            &["http_server_config", "line 1"],
        ),
        (
            "basic_auth_users:\n\n  ann: secret\n",
            &["ann", "line 3", "bcrypt"],
        ),
    ] {
        std::fs::write(&file, text)?;
        for words in [
            vec![flag.clone()],
            vec![flag.clone(), "--config.check".to_owned()],
        ] {
            let output = run(words).await?;
            let said = said(&output);
            assert_eq!(output.status.code(), Some(2), "{said}");
            assert_eq!(said.lines().count(), 1, "{said}");
            for word in expected.iter().chain(&["--web.config.file", "expected"]) {
                assert!(said.contains(word), "{word:?} is not in: {said}");
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_documented_file_is_valid_here_and_for_prometheus() -> anyhow::Result<()> {
    let folder = TempDir::new("documented")?;
    let [ca, cert, key] = certificates(folder.path(), "own")?;
    for (from, to) in [
        (ca, "clients.pem"),
        (cert, "server.pem"),
        (key, "server.key"),
    ] {
        std::fs::copy(from, folder.path().join(to))?;
    }
    let file = folder.path().join("web.yml");
    std::fs::write(
        &file,
        example("docs/CONFIGURATION.md", "tls_server_config:")?,
    )?;
    let flag = format!("--web.config.file={}", file.display());
    let words = ["--web.enable-admin-api", "--config.check"].map(str::to_owned);
    let output = run([&[flag], &words[..]].concat()).await?;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let mut promtool = tokio::process::Command::new("promtool");
    let promtool = promtool.args(["check", "web-config"]).arg(&file);
    let output = promtool.kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE, output).await??;
    assert!(output.status.success(), "{}", said(&output));
    Ok(())
}
