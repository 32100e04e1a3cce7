//! The Kubernetes manifests: what refers to one another matches, what the pod runs is accepted by the exporter, and its
//! probes are answered. No API server judges them here.

use std::collections::BTreeSet;

use anyhow::Context as _;
use lab::redis_server::RedisServer;
use lab::temp::TempDir;
use serde_json::{Value, json};

use super::{PORT, accepted, image, items, place, texts};
use crate::harness::Exporter;
use crate::repository::{path, run_tool, text, yaml};

const FOLDER: &str = "deploy/kubernetes";

fn manifest(name: &str) -> anyhow::Result<Value> {
    yaml(&format!("{FOLDER}/{name}.yml"))
}

/// The pod of the Deployment.
fn pod() -> anyhow::Result<Value> {
    Ok(manifest("deployment")?["spec"]["template"].clone())
}

/// The one container of the pod.
fn container() -> anyhow::Result<Value> {
    let pod = pod()?;
    let containers = pod["spec"]["containers"].as_array();
    let [container] = containers.context("no containers")?.as_slice() else {
        anyhow::bail!("not one container");
    };
    Ok(container.clone())
}

/// Whether everything that `selector` asks for is among `labels`.
fn selects(selector: &Value, labels: &Value) -> bool {
    let asked = selector.as_object();
    asked.is_some_and(|asked| {
        !asked.is_empty() && asked.iter().all(|(key, value)| &labels[key] == value)
    })
}

/// The container's arguments, with its files as they stand in the repository and a password in `folder`.
fn arguments(folder: &TempDir) -> anyhow::Result<Vec<String>> {
    let password = folder.path().join("password");
    let configuration = text(&format!("{FOLDER}/config.yml"))?.replace(
        "/etc/ratelimiter-exporter/secrets/password",
        &password.display().to_string(),
    );
    place(&password, "secret\n")?;
    place(&folder.path().join("config.yml"), &configuration)?;
    let below = folder.path().display().to_string();
    let arguments = texts(&container()?["args"])?.into_iter().map(|argument| {
        argument
            .replace("/etc/ratelimiter-exporter", &below)
            .replace("/var/lib/ratelimiter-exporter", &below)
    });
    Ok(arguments.collect())
}

#[test]
fn every_manifest_is_listed_and_says_what_it_is() -> anyhow::Result<()> {
    let kustomization: Value = yaml(&format!("{FOLDER}/kustomization.yaml"))?;
    let mut listed = texts(&kustomization["resources"])?;
    for generator in items(&kustomization["configMapGenerator"]) {
        listed.extend(texts(&generator["files"])?);
    }
    let mut there = BTreeSet::new();
    for entry in std::fs::read_dir(path(FOLDER))? {
        there.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    there.remove("kustomization.yaml");
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), there);
    for (name, kind, version) in [
        ("deployment", "Deployment", "apps/v1"),
        ("service", "Service", "v1"),
        ("networkpolicy", "NetworkPolicy", "networking.k8s.io/v1"),
        (
            "servicemonitor",
            "ServiceMonitor",
            "monitoring.coreos.com/v1",
        ),
        (
            "prometheusrule",
            "PrometheusRule",
            "monitoring.coreos.com/v1",
        ),
    ] {
        let manifest = manifest(name)?;
        assert_eq!(manifest["kind"], kind);
        assert_eq!(manifest["apiVersion"], version);
        assert!(manifest["metadata"]["name"].is_string(), "{name}");
    }
    Ok(())
}

#[test]
fn selectors_ports_and_volumes_find_what_they_name() -> anyhow::Result<()> {
    let (pod, container) = (pod()?, container()?);
    let labels = &pod["metadata"]["labels"];
    let service = manifest("service")?;
    let monitor = manifest("servicemonitor")?;
    let policy = manifest("networkpolicy")?;
    let deployment = manifest("deployment")?;
    assert!(selects(
        &deployment["spec"]["selector"]["matchLabels"],
        labels
    ));
    assert!(selects(&service["spec"]["selector"], labels));
    assert!(selects(
        &policy["spec"]["podSelector"]["matchLabels"],
        labels
    ));
    assert!(selects(
        &monitor["spec"]["selector"]["matchLabels"],
        &service["metadata"]["labels"]
    ));
    let port = json!([{"name": "metrics", "containerPort": PORT}]);
    assert_eq!(container["ports"], port);
    let port = json!([{"name": "metrics", "port": PORT, "targetPort": "metrics"}]);
    assert_eq!(service["spec"]["ports"], port);
    assert_eq!(monitor["spec"]["endpoints"][0]["port"], "metrics");
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(container[probe]["httpGet"]["port"], "metrics", "{probe}");
    }
    let names = |list: &Value| -> BTreeSet<String> {
        let names = items(list).filter_map(|item| item["name"].as_str().map(str::to_owned));
        names.collect()
    };
    let mounted = names(&container["volumeMounts"]);
    assert_eq!(mounted, names(&pod["spec"]["volumes"]));
    assert_eq!(container["image"], image("ratelimiter-exporter"));
    Ok(())
}

#[test]
fn the_network_policy_lets_through_what_the_configuration_needs() -> anyhow::Result<()> {
    let policy = manifest("networkpolicy")?;
    let ports = |direction: &str| -> BTreeSet<u64> {
        items(&policy["spec"][direction])
            .flat_map(|rule| items(&rule["ports"]))
            .filter_map(|port| port["port"].as_u64())
            .collect()
    };
    assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
    assert_eq!(ports("ingress"), BTreeSet::from([PORT]));
    let configuration = manifest("config")?;
    let mut needed = BTreeSet::from([53]);
    for url in [
        &configuration["redis"]["url"],
        &configuration["ratelimiter"]["url"],
    ] {
        let url = url::Url::parse(url.as_str().context("no URL")?)?;
        needed.insert(url.port().context("no port")?.into());
    }
    assert_eq!(ports("egress"), needed);
    Ok(())
}

#[test]
fn the_pod_may_do_no_more_than_it_must() -> anyhow::Result<()> {
    let (pod, container) = (pod()?["spec"].clone(), container()?);
    assert_eq!(pod["automountServiceAccountToken"], false);
    // Else Kubernetes sets RATELIMITER_EXPORTER_PORT and the like.
    assert_eq!(pod["enableServiceLinks"], false);
    let context = &pod["securityContext"];
    assert_eq!(context["runAsNonRoot"], true);
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    let user = context["runAsUser"].as_u64().context("no user")?;
    assert!(text("Dockerfile")?.contains(&format!("USER {user}:{user}")));
    let confined = json!({
        "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true,
        "capabilities": {"drop": ["ALL"]},
    });
    assert_eq!(container["securityContext"], confined);
    for (kind, what) in [
        ("requests", "cpu"),
        ("requests", "memory"),
        ("limits", "memory"),
    ] {
        assert!(
            container["resources"][kind][what].is_string(),
            "{kind} {what}"
        );
    }
    // What is mounted and not read-only is where the state goes.
    let written: Vec<&str> = items(&container["volumeMounts"])
        .filter(|mount| mount["readOnly"] != true)
        .filter_map(|mount| mount["mountPath"].as_str())
        .collect();
    assert_eq!(written, ["/var/lib/ratelimiter-exporter"]);
    Ok(())
}

#[tokio::test]
async fn what_the_pod_runs_is_accepted_and_answers_its_probes() -> anyhow::Result<()> {
    let folder = TempDir::new("pod")?;
    let mut arguments = arguments(&folder)?;
    accepted(arguments.clone()).await?;
    // The same, but with servers that there are.
    let redis = RedisServer::start(&["--requirepass", "secret"]).await?;
    arguments.push(format!("--redis.url={}", redis.url()));
    arguments.push(format!(
        "--ratelimiter.url=http://127.0.0.1:{}",
        lab::ports::free_port()
    ));
    // As the harness reads it.
    arguments.push("--log.format=logfmt".to_owned());
    arguments.retain(|argument| argument != "--log.format=json");
    let exporter = Exporter::start(&arguments).await?;
    let container = container()?;
    let probes = ["startupProbe", "livenessProbe", "readinessProbe"];
    let mut paths: Vec<Value> = probes
        .iter()
        .map(|probe| container[probe]["httpGet"]["path"].clone())
        .collect();
    paths.push(manifest("servicemonitor")?["spec"]["endpoints"][0]["path"].clone());
    for path in &paths {
        let path = path.as_str().context("no path")?;
        let answered = lab::wait_for(crate::harness::PATIENCE, || async {
            exporter
                .get(path)
                .await
                .is_ok_and(|answer| answer.status == 200)
        });
        answered.await.with_context(|| path.to_owned())?;
    }
    assert!(exporter.scrape().await?.is("ratelimiter_redis_up", &[], 1));
    assert!(folder.path().join("state.json").exists());
    Ok(())
}

#[test]
fn the_rules_for_the_operator_are_those_of_alerts() -> anyhow::Result<()> {
    let current = run_tool("scripts/prometheus-rule", &[])?;
    let file = text(&format!("{FOLDER}/prometheusrule.yml"))?;
    assert!(
        current == file,
        "prometheusrule.yml is stale: run make rules"
    );
    let alerts: Value = yaml("alerts/ratelimiter.rules.yml")?;
    assert_eq!(manifest("prometheusrule")?["spec"], alerts);
    Ok(())
}

#[test]
fn the_service_monitor_scrapes_as_often_as_the_rules_rely_on() -> anyhow::Result<()> {
    let endpoint = manifest("servicemonitor")?["spec"]["endpoints"][0].clone();
    assert_eq!(endpoint["interval"], "15s");
    assert_eq!(endpoint["scrapeTimeout"], "10s");
    Ok(())
}
