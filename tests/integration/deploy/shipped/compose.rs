//! The compose file: what it mounts is there and fits together as the containers will see it, and what it runs is accepted.
//! No container is started.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use lab::temp::TempDir;
use serde_json::{Value, json};

use super::{PORT, accepted, image, items, known_to_the_lab, place, texts};
use crate::repository::{path, run_tool, text, yaml};

const FOLDER: &str = "deploy/compose";

/// Its services by name.
fn services() -> anyhow::Result<BTreeMap<String, Value>> {
    let file: Value = yaml(&format!("{FOLDER}/compose.yml"))?;
    Ok(serde_json::from_value(file["services"].clone())?)
}

fn service(name: &str) -> anyhow::Result<Value> {
    services()?
        .remove(name)
        .with_context(|| format!("no {name}"))
}

/// What of the repository a service mounts, and where: all of it read-only.
fn mounts(name: &str) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let mut mounts = Vec::new();
    for volume in texts(&service(name)?["volumes"])? {
        let parts: Vec<&str> = volume.split(':').collect();
        let [source, target, "ro"] = parts.as_slice() else {
            anyhow::bail!("{name}: not SOURCE:TARGET:ro: {volume}");
        };
        let source = path(FOLDER).join(source).canonicalize();
        let source = source.with_context(|| volume.clone())?;
        mounts.push((source, (*target).to_owned()));
    }
    Ok(mounts)
}

/// That a `HOST:PORT` is a service and the port it listens on.
fn reachable(address: &str, port: u64) -> anyhow::Result<()> {
    let (host, asked) = address.rsplit_once(':').context("no port")?;
    service(host)?;
    anyhow::ensure!(asked == port.to_string(), "{address}: expected port {port}");
    Ok(())
}

#[tokio::test]
async fn the_exporter_and_the_lab_accept_their_command_lines() -> anyhow::Result<()> {
    let exporter = texts(&service("exporter")?["command"])?;
    accepted(exporter.clone()).await?;
    let mut watched = Vec::new();
    for argument in &exporter {
        if let Some(urls) = argument.strip_prefix("--ratelimiter.url=") {
            watched.extend(urls.split(',').map(str::to_owned));
        }
    }
    let mut nodes = Vec::new();
    for (name, service) in services()? {
        if service["image"] != image("ratelimiter-lab") {
            continue;
        }
        let command = texts(&service["command"])?;
        known_to_the_lab(&command)?;
        if command[0] == "node" {
            assert!(command.contains(&format!("--id={name}")), "{command:?}");
            assert!(
                command.contains(&format!("--advertise={name}:8000")),
                "{command:?}"
            );
            assert!(
                command.contains(&"--listen=0.0.0.0:8000".to_owned()),
                "{command:?}"
            );
            nodes.push(format!("http://{name}:8000"));
        }
    }
    assert_eq!(watched, nodes);
    Ok(())
}

#[test]
fn what_is_built_is_a_target_of_the_dockerfile_and_confined() -> anyhow::Result<()> {
    let dockerfile = text("Dockerfile")?;
    let mut built = 0;
    for (name, service) in services()? {
        let ours = service["image"]
            .as_str()
            .is_some_and(|image| image.starts_with("ratelimiter-"));
        if !ours {
            continue;
        }
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(service["cap_drop"], json!(["ALL"]), "{name}");
        assert_eq!(
            service["security_opt"],
            json!(["no-new-privileges:true"]),
            "{name}"
        );
        let Some(target) = service["build"]["target"].as_str() else {
            continue;
        };
        assert!(
            dockerfile.contains(&format!(" AS {target}\n")),
            "{name}: {target}"
        );
        let context =
            path(FOLDER).join(service["build"]["context"].as_str().context("no context")?);
        assert_eq!(context.canonicalize()?, path("").canonicalize()?);
        built += 1;
    }
    assert_eq!(built, 4);
    assert_eq!(service("exporter")?["image"], image("ratelimiter-exporter"));
    Ok(())
}

#[test]
fn nothing_is_published_beyond_this_machine() -> anyhow::Result<()> {
    for (name, service) in services()? {
        for port in items(&service["ports"]) {
            let port = port.as_str().context("a port is no text")?;
            assert!(port.starts_with("127.0.0.1:"), "{name}: {port}");
        }
    }
    let port = format!("127.0.0.1:{PORT}:{PORT}");
    assert_eq!(service("exporter")?["ports"], json!([port]));
    Ok(())
}

#[test]
fn prometheus_finds_its_rules_the_exporter_and_alertmanager() -> anyhow::Result<()> {
    let folder = TempDir::new("compose")?;
    for (source, target) in mounts("prometheus")? {
        let target = folder.path().join(target.trim_start_matches('/'));
        place(&target, &std::fs::read_to_string(source)?)?;
    }
    let config = folder.path().join("etc/prometheus/prometheus.yml");
    let checked = run_tool(
        "promtool",
        &["check", "config", &config.display().to_string()],
    )?;
    assert!(checked.contains("rules found"), "{checked}");

    let config: Value = yaml(&format!("{FOLDER}/prometheus.yml"))?;
    let targets = |configs: &Value| texts(&configs[0]["static_configs"][0]["targets"]);
    for (configs, port) in [
        (&config["scrape_configs"], PORT),
        (&config["alerting"]["alertmanagers"], 9093),
    ] {
        for target in targets(configs)? {
            reachable(&target, port)?;
        }
    }
    assert_eq!(config["scrape_configs"][0]["job_name"], "ratelimiter");
    Ok(())
}

#[test]
fn alertmanager_takes_its_configuration() -> anyhow::Result<()> {
    let mounts = mounts("alertmanager")?;
    let [(source, target)] = mounts.as_slice() else {
        anyhow::bail!("not one mount");
    };
    // The path in its image.
    assert_eq!(target, "/etc/alertmanager/alertmanager.yml");
    run_tool("amtool", &["check-config", &source.display().to_string()])?;
    Ok(())
}

#[test]
fn grafana_finds_its_dashboards_and_prometheus() -> anyhow::Result<()> {
    let mounts: BTreeMap<String, PathBuf> = mounts("grafana")?
        .into_iter()
        .map(|(source, target)| (target, source))
        .collect();
    let provisioned = &mounts["/etc/grafana/provisioning"];
    assert_eq!(*provisioned, path("grafana/provisioning").canonicalize()?);
    let provider: Value = yaml("grafana/provisioning/dashboards/ratelimiter.yml")?;
    let folder = provider["providers"][0]["options"]["path"].as_str();
    let dashboards = &mounts[folder.context("no folder")?];
    assert_eq!(*dashboards, path("grafana/dashboards").canonicalize()?);
    let sources: Value = yaml("grafana/provisioning/datasources/prometheus.yml")?;
    let url = sources["datasources"][0]["url"]
        .as_str()
        .context("no URL")?;
    reachable(url.trim_start_matches("http://"), 9090)?;
    Ok(())
}
