//! A real Alertmanager, on a free port of loopback.
//!
//! Its configuration is a file, in which only the URLs and secrets of the receivers may be replaced. It leaves out clusters of
//! Alertmanagers.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::process::on_path;
use crate::web_server::{Config, Program, WebServer};

/// A running Alertmanager, killed on drop.
#[derive(Debug)]
pub struct Alertmanager {
    /// The process.
    pub server: WebServer,
}

impl Alertmanager {
    /// Whether there is one to start: `alertmanager` on the `PATH`, or Debian's name for it.
    pub fn installed() -> Option<PathBuf> {
        on_path(&["alertmanager", "prometheus-alertmanager"])
    }

    /// Starts it in a folder of its own in `base`, and waits until it is ready.
    pub async fn start_in(base: &Path, config: &AlertmanagerConfig) -> anyhow::Result<Self> {
        let text = config.0.to_string();
        Self::launch(base, Config::Text("alertmanager.yml", text)).await
    }

    /// [`Alertmanager::start_in`] the system's folder for temporary files, with a file as it is.
    pub async fn start_as_configured(file: &Path) -> anyhow::Result<Self> {
        Self::launch(&std::env::temp_dir(), Config::File(file)).await
    }

    async fn launch(base: &Path, config: Config<'_>) -> anyhow::Result<Self> {
        let program = Program {
            path: Self::installed().context("alertmanager is not on the PATH")?,
            config,
            data_flag: "--storage.path",
            // An empty address: no cluster, and no port for one.
            further_args: &["--cluster.listen-address="],
            says_ready: "Listening on",
        };
        let server = WebServer::start_in(base, &program).await?;
        Ok(Self { server })
    }

    /// The alerts that it holds, muted ones included, from its API.
    pub async fn alerts(&self) -> anyhow::Result<Vec<Value>> {
        let alerts = self.server.ask("/api/v2/alerts").await?;
        serde_json::from_value(alerts).context("no list of alerts")
    }
}

/// A configuration whose receivers are webhooks on this machine.
#[derive(Debug, Clone)]
pub struct AlertmanagerConfig(Value);

impl AlertmanagerConfig {
    /// Reads a configuration and replaces the URL of every webhook by `url(receiver)`, without its secrets.
    ///
    /// An error where a receiver notifies by other means: it would notify somebody for real.
    pub fn redirected(file: &Path, url: impl Fn(&str) -> String) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read {}", file.display()))?;
        redirected(&text, url).with_context(|| format!("in {}", file.display()))
    }
}

fn redirected(text: &str, url: impl Fn(&str) -> String) -> anyhow::Result<AlertmanagerConfig> {
    let mut config: Value = serde_saphyr::from_str(text)?;
    let receivers = config["receivers"].as_array_mut();
    for receiver in receivers.context("it has no receivers")? {
        let name = receiver["name"]
            .as_str()
            .context("a receiver has no name")?;
        let name = name.to_owned();
        let means = receiver.as_object_mut().into_iter().flatten();
        for (means, configs) in means.filter(|(means, _)| *means != "name") {
            ensure!(means == "webhook_configs", "receiver {name:?} has {means}");
            for webhook in configs.as_array_mut().into_iter().flatten() {
                webhook["url"] = Value::from(url(&name));
                // Its credentials and certificates are files that do not exist here.
                webhook
                    .as_object_mut()
                    .map(|fields| fields.remove("http_config"));
            }
        }
    }
    Ok(AlertmanagerConfig(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_are_redirected_without_their_secrets_and_all_else_stays() {
        let text = r#"
global: {resolve_timeout: 5m}
route: {receiver: nobody, routes: [{matchers: ['severity="critical"'], receiver: pager}]}
receivers:
  - name: nobody
  - name: pager
    webhook_configs:
      - url: https://example.org/
        send_resolved: true
        http_config: {authorization: {credentials_file: /etc/secret}}
"#;
        let AlertmanagerConfig(config) = redirected(text, |name| format!("x/{name}")).unwrap();
        assert_eq!(
            config["receivers"],
            serde_json::json!([
                {"name": "nobody"},
                {"name": "pager", "webhook_configs": [{"url": "x/pager", "send_resolved": true}]},
            ])
        );
        assert_eq!(config["global"]["resolve_timeout"], "5m");
        let matcher = &config["route"]["routes"][0]["matchers"][0];
        assert_eq!(matcher, "severity=\"critical\"");
    }

    #[test]
    fn a_receiver_by_mail_is_an_error() {
        let text = "receivers: [{name: mail, email_configs: [{to: a@example.org}]}]";
        let error = redirected(text, str::to_owned).unwrap_err();
        assert!(error.to_string().contains("email_configs"), "{error}");
    }
}
