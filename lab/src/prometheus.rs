//! A real Prometheus, on a free port of loopback.
//!
//! It scrapes targets, evaluates rules, and sends its alerts to one Alertmanager. Its data are removed with it. For anything
//! else, start it with a configuration file.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::process::on_path;
use crate::web_server::{Config, Program, WebServer};

/// The longest a scrape may take; the documentation recommends the same.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(10);

/// Its service discovery takes five seconds, also for targets that its configuration names.
const DISCOVERY_PATIENCE: Duration = Duration::from_secs(30);

/// What a Prometheus is started with.
#[derive(Debug, Clone)]
pub struct PrometheusOptions {
    /// Between two scrapes of a target, and between two evaluations of a rule.
    pub interval: Duration,
    /// What it scrapes.
    pub targets: Vec<Target>,
    /// The rules that it evaluates; files as they are.
    pub rule_files: Vec<PathBuf>,
    /// Where it sends alerts, `IP:PORT`.
    pub alertmanager: Option<String>,
}

/// Something that is scraped at `/metrics`.
#[derive(Debug, Clone)]
pub struct Target {
    /// The value of the label `job`.
    pub job: String,
    /// Where it is, `IP:PORT`.
    pub address: String,
    /// Further labels of its series.
    pub labels: Vec<(String, String)>,
}

/// A running `prometheus`, killed on drop.
#[derive(Debug)]
pub struct Prometheus {
    /// The process.
    pub server: WebServer,
}

impl Prometheus {
    /// Whether there is one to start: the first `prometheus` on the `PATH`.
    pub fn installed() -> Option<PathBuf> {
        on_path(&["prometheus"])
    }

    /// Starts it in a folder of its own in `base`, and waits until it is ready and knows its
    /// Alertmanager: alerts that fire earlier arrive only a minute later, when Prometheus sends them again.
    pub async fn start_in(base: &Path, options: &PrometheusOptions) -> anyhow::Result<Self> {
        let config = Config::Text("prometheus.yml", config(options)?);
        let prometheus = Self::launch(base, config).await?;
        if options.alertmanager.is_some() {
            crate::wait_for(DISCOVERY_PATIENCE, || async {
                let known = prometheus.server.ask("/api/v1/alertmanagers").await;
                known.is_ok_and(|known| known["data"]["activeAlertmanagers"][0].is_object())
            })
            .await
            .context("Prometheus does not find its Alertmanager")?;
        }
        Ok(prometheus)
    }

    /// Starts it in the system's folder for temporary files, with a file as it is, and waits until it is ready.
    pub async fn start_as_configured(file: &Path) -> anyhow::Result<Self> {
        Self::launch(&std::env::temp_dir(), Config::File(file)).await
    }

    async fn launch(base: &Path, config: Config<'_>) -> anyhow::Result<Self> {
        let program = Program {
            path: Self::installed().context("prometheus is not on the PATH")?,
            config,
            data_flag: "--storage.tsdb.path",
            further_args: &[],
            says_ready: "Server is ready to receive web requests",
        };
        let server = WebServer::start_in(base, &program).await?;
        Ok(Self { server })
    }

    /// The value of an instant query that yields one series; none where it yields nothing.
    pub async fn value(&self, query: &str) -> anyhow::Result<Option<f64>> {
        let query = utf8_percent_encode(query, NON_ALPHANUMERIC);
        let answer = self
            .server
            .ask(&format!("/api/v1/query?query={query}"))
            .await?;
        let value = answer["data"]["result"][0]["value"][1].as_str();
        Ok(value.map(str::parse).transpose()?)
    }

    /// Its pending and firing alerts, from its API.
    pub async fn alerts(&self) -> anyhow::Result<Vec<Value>> {
        let mut answer = self.server.ask("/api/v1/alerts").await?;
        let alerts = answer["data"]["alerts"].take();
        serde_json::from_value(alerts).context("no list of alerts")
    }
}

/// The configuration as JSON, which is also YAML.
fn config(options: &PrometheusOptions) -> anyhow::Result<String> {
    let duration = |duration: Duration| format!("{}ms", duration.as_millis());
    let jobs: Vec<Value> = options
        .targets
        .iter()
        .map(|target| {
            let labels: serde_json::Map<String, Value> = target
                .labels
                .iter()
                .map(|(name, value)| (name.clone(), Value::from(value.clone())))
                .collect();
            json!({
                "job_name": target.job,
                "static_configs": [{ "targets": [target.address], "labels": labels }],
            })
        })
        .collect();
    let mut config = json!({
        "global": {
            "scrape_interval": duration(options.interval),
            "scrape_timeout": duration(SCRAPE_TIMEOUT.min(options.interval)),
            "evaluation_interval": duration(options.interval),
        },
        "rule_files": options.rule_files,
        "scrape_configs": jobs,
    });
    if let Some(address) = &options.alertmanager {
        config["alerting"] = json!({
            "alertmanagers": [{ "static_configs": [{ "targets": [address] }] }],
        });
    }
    Ok(serde_json::to_string_pretty(&config)?)
}
