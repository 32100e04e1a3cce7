//! A web configuration file that changes while the exporter runs: certificates, the required logins, and a file that
//! is not taken.

use anyhow::Context as _;
use lab::temp::TempDir;

use super::access::{exporter, status, tls_client, tls_client_of, users};
use crate::certificates::certificates;
use crate::harness::{Exporter, PATIENCE, Scrape, client, client_builder};

#[tokio::test]
async fn tls_with_client_certificates_that_change_without_a_restart() -> anyhow::Result<()> {
    let folder = TempDir::new("web-tls")?;
    let [ca, cert, key] = certificates(folder.path(), "first")?;
    let [other_ca, other_cert, other_key] = certificates(folder.path(), "second")?;
    let file = folder.path().join("web.yml");
    let tls = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";
    let both = format!(
        "{tls}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: clients.pem\n"
    );
    let place = |from: &str, to: &str| std::fs::copy(from, folder.path().join(to));
    place(&cert, "server.pem")?;
    place(&key, "server.key")?;
    place(&ca, "clients.pem")?;
    std::fs::write(&file, tls)?;
    let exporter = exporter(&file).await?;
    let url = format!("https://{}/-/healthy", exporter.address);
    let get = |client: anyhow::Result<reqwest::Client>| {
        let url = url.clone();
        async move { status(client?.get(url)).await }
    };
    assert_eq!(get(tls_client(&ca, None)).await?, 200);
    assert!(get(tls_client(&other_ca, None)).await.is_err());
    // Plain HTTP is no way round.
    assert!(exporter.get("/-/healthy").await.is_err());

    // A new certificate, written one file after the other: half of it is not taken.
    place(&other_cert, "server.pem")?;
    assert_eq!(get(tls_client(&ca, None)).await?, 200);
    assert!(
        exporter.log().contains("stays in force"),
        "{}",
        exporter.log()
    );
    place(&other_key, "server.key")?;
    assert_eq!(get(tls_client(&other_ca, None)).await?, 200);
    assert!(get(tls_client(&ca, None)).await.is_err());

    // From now on, clients need a certificate.
    std::fs::write(&file, &both)?;
    assert!(get(tls_client(&other_ca, None)).await.is_err());
    let other = Some([&*other_cert, &*other_key]);
    assert!(get(tls_client(&other_ca, other)).await.is_err());
    assert_eq!(get(tls_client(&other_ca, Some([&cert, &key]))).await?, 200);
    // They never stop to, without a restart.
    std::fs::write(&file, tls)?;
    assert!(get(tls_client(&other_ca, None)).await.is_err());
    assert!(exporter.log().contains("client_auth_type is weaker"));
    // Other ones may be asked for.
    place(&other_ca, "clients.pem")?;
    std::fs::write(&file, &both)?;
    assert_eq!(get(tls_client(&other_ca, other)).await?, 200);
    assert!(
        get(tls_client(&other_ca, Some([&cert, &key])))
            .await
            .is_err()
    );
    Ok(())
}

#[tokio::test]
async fn an_older_version_of_tls_is_not_taken_without_a_restart() -> anyhow::Result<()> {
    let folder = TempDir::new("versions")?;
    let [ca, cert, key] = certificates(folder.path(), "own")?;
    let file = folder.path().join("web.yml");
    let versions = |min: &str| {
        let tls = format!("cert_file: {cert}, key_file: {key}, min_version: {min}");
        std::fs::write(&file, format!("tls_server_config: {{{tls}}}\n"))
    };
    versions("TLS13")?;
    let exporter = exporter(&file).await?;
    let url = format!("https://{}/-/healthy", exporter.address);
    let builder = client_builder().tls_version_max(reqwest::tls::Version::TLS_1_2);
    let old = tls_client_of(builder, &ca, None)?;
    assert!(status(old.get(&url)).await.is_err());
    versions("TLS12")?;
    assert!(status(old.get(&url)).await.is_err());
    assert_eq!(status(tls_client(&ca, None)?.get(&url)).await?, 200);
    let log = exporter.log();
    assert_eq!(log.matches("min_version is weaker").count(), 1, "{log}");
    Ok(())
}

#[tokio::test]
async fn a_file_that_is_not_taken_shows_in_the_metrics_and_refuses_reloads() -> anyhow::Result<()> {
    let folder = TempDir::new("not-taken")?;
    let file = folder.path().join("web.yml");
    let valid = users(&[("ann", "right")])?;
    std::fs::write(&file, &valid)?;
    let flags = [
        format!("--web.config.file={}", file.display()),
        "--web.enable-lifecycle".to_owned(),
    ];
    let mut exporter = Exporter::start(&flags).await?;
    let client = client()?;
    let address = exporter.address.clone();
    let ann = |request: reqwest::RequestBuilder| {
        let request = request.basic_auth("ann", Some("right")).send();
        async move { anyhow::Ok(request.await?) }
    };
    let metrics = || client.get(format!("http://{address}/metrics"));
    let reload = || client.post(format!("http://{address}/-/reload"));
    let successful = async || {
        let scrape = Scrape::parse(ann(metrics()).await?.text().await?)?;
        let name = "ratelimiter_exporter_config_last_reload_successful";
        anyhow::Ok(scrape.value(name, &[]))
    };
    assert_eq!(successful().await?, Some(1.0));
    for (text, expected) in [
        ("basic_auth_users: {ann: right}\n", "expected a bcrypt hash"),
        ("", "basic_auth_users is weaker than before"),
    ] {
        // Without a reload, with one, and after it: until the file is mended.
        std::fs::write(&file, text)?;
        assert_eq!(successful().await?, Some(0.0), "{text:?}");
        let refused = ann(reload()).await?;
        assert_eq!(refused.status(), 500, "{text:?}");
        let reason = refused.text().await?;
        assert!(
            reason.contains("web.config.file") && reason.contains(expected),
            "{reason}"
        );
        assert_eq!(successful().await?, Some(0.0), "{text:?}");
        std::fs::write(&file, &valid)?;
        assert_eq!(ann(reload()).await?.status(), 200, "{text:?}");
        assert_eq!(successful().await?, Some(1.0), "{text:?}");

        // Nobody asked for a reload: the file alone is enough to be up to date again.
        std::fs::write(&file, text)?;
        assert_eq!(successful().await?, Some(0.0), "{text:?}");
        std::fs::write(&file, &valid)?;
        assert_eq!(successful().await?, Some(1.0), "{text:?}");
    }
    std::fs::write(&file, "")?;
    exporter.process.hang_up()?;
    let refused = lab::wait_for(PATIENCE, || async {
        exporter.log().matches("not reloaded").count() == 3
    });
    refused.await.with_context(|| exporter.log())?;
    let in_force = exporter
        .log()
        .matches("the new configuration is in force")
        .count();
    assert_eq!(in_force, 2, "{}", exporter.log());
    Ok(())
}
