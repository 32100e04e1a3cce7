//! What a node is reported for stays reported while the evidence cannot be read, also over a restart with a state file.

use hyper::Method;
use lab::faults::Faults;
use lab::http::request;
use lab::node::NodeProcess;
use lab::temp::TempDir;

use crate::harness::{Cluster, Exporter, PATIENCE, base_flags};

/// A node whose exporter has a state file, and the flags to start the exporter again.
async fn remembered() -> anyhow::Result<(Cluster, Vec<String>, TempDir)> {
    let folder = TempDir::new("unread-evidence")?;
    let state = format!("--state.file={}", folder.path().join("state").display());
    let cluster = Cluster::start(1, &[&state]).await?;
    let mut flags = base_flags(&cluster.redis.url(), &cluster.nodes);
    flags.push(state);
    Ok((cluster, flags, folder))
}

async fn restart(cluster: &mut Cluster, flags: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(cluster.exporter.process.terminate().await?.success());
    cluster.exporter = Exporter::start(flags).await?;
    Ok(())
}

/// Sends so many checks that failures among them are proof even if they take a minute.
async fn check(node: &NodeProcess) -> anyhow::Result<()> {
    for number in 0..60 {
        let body = format!("{{\"key\":\"user:{number}\"}}");
        request(&node.address(), Method::POST, "/check", body, PATIENCE).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_node_whose_checks_fail_stays_reported_while_its_metrics_are_not_read()
-> anyhow::Result<()> {
    let (mut cluster, flags, _folder) = remembered().await?;
    let lost = &["redis_disconnected node-1"][..];
    cluster.exporter.scrape().await?.assert_reported(&[]);
    let failing = |metrics_status| Faults {
        check_status: Some(500),
        metrics_status,
        ..Faults::default()
    };
    cluster.nodes[0].set_faults(&failing(None)).await?;
    check(&cluster.nodes[0]).await?;
    cluster.exporter.scrape().await?.assert_reported(lost);

    cluster.nodes[0].set_faults(&failing(Some(500))).await?;
    check(&cluster.nodes[0]).await?;
    for _ in 0..2 {
        let scrape = cluster.exporter.scrape().await?;
        scrape.assert_reported(lost);
        assert_eq!(scrape.evaluable("redis_disconnected"), Some(false));
    }
    restart(&mut cluster, &flags).await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(lost);
    assert_eq!(scrape.evaluable("redis_disconnected"), Some(false));

    // One reading shows no increase.
    restart(&mut cluster, &flags).await?;
    cluster.nodes[0].set_faults(&failing(None)).await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(lost);
    assert_eq!(scrape.evaluable("redis_disconnected"), Some(false));
    check(&cluster.nodes[0]).await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(lost);
    assert_eq!(scrape.evaluable("redis_disconnected"), Some(true));

    cluster.nodes[0].set_faults(&Faults::default()).await?;
    check(&cluster.nodes[0]).await?;
    let scrape = cluster.exporter.scrape().await?;
    scrape.assert_reported(&[]);
    assert_eq!(scrape.evaluable("redis_disconnected"), Some(true));
    Ok(())
}

#[tokio::test]
async fn the_state_that_the_api_gave_a_node_outlives_requests_that_fail() -> anyhow::Result<()> {
    let (mut cluster, flags, _folder) = remembered().await?;
    let down = &["node_down node-1"][..];
    let draining = |api_status| Faults {
        node_state: Some("Draining".to_owned()),
        api_status,
        ..Faults::default()
    };
    cluster.nodes[0].set_faults(&draining(None)).await?;
    cluster.exporter.scrape().await?.assert_reported(down);
    cluster.nodes[0].set_faults(&draining(Some(503))).await?;
    for _ in 0..5 {
        cluster.exporter.scrape().await?.assert_reported(down);
    }
    restart(&mut cluster, &flags).await?;
    cluster.exporter.scrape().await?.assert_reported(down);
    cluster.nodes[0].set_faults(&Faults::default()).await?;
    let well = |scrape: &crate::harness::Scrape| scrape.reported().is_empty();
    cluster.exporter.until("the API says Up", well).await?;
    Ok(())
}
