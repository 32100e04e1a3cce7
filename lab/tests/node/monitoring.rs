//! A Prometheus, an Alertmanager and a receiver, put together: an alert that is there arrives.

use std::time::Duration;

use lab::alertmanager::{Alertmanager, AlertmanagerConfig};
use lab::prometheus::{Prometheus, PrometheusOptions, Target};
use lab::temp::TempDir;
use lab::webhook::{Status, Webhook};

use super::SOON;

const RULES: &str = r#"
groups:
  - name: test
    rules:
      - alert: SeesItself
        expr: up{job="itself", place="here"} == 1
        labels: {subject: it}
"#;

const ROUTES: &str = r"
route: {receiver: one, group_wait: 0s}
receivers: [{name: one, webhook_configs: [{url: 'http://192.0.2.1/'}]}]
";

#[tokio::test]
async fn an_alert_goes_through_prometheus_and_alertmanager_to_its_receiver() {
    let folder = TempDir::new("monitoring").unwrap();
    let file = |name: &str, text| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (rules, routes) = (file("rules.yml", RULES), file("alertmanager.yml", ROUTES));
    let webhook = Webhook::start().await.unwrap();
    let config = AlertmanagerConfig::redirected(&routes, |name| webhook.url(name)).unwrap();
    let alertmanager = Alertmanager::start_in(folder.path(), &config)
        .await
        .unwrap();
    // It can only scrape something that is there: the Alertmanager.
    let target = Target {
        job: "itself".to_owned(),
        address: alertmanager.server.address().to_owned(),
        labels: vec![("place".to_owned(), "here".to_owned())],
    };
    let options = PrometheusOptions {
        interval: Duration::from_millis(500),
        targets: vec![target],
        rule_files: vec![rules],
        alertmanager: Some(alertmanager.server.address().to_owned()),
    };
    let prometheus = Prometheus::start_in(folder.path(), &options).await.unwrap();

    let mut inbox = webhook.inbox();
    let arrived = inbox.wait_for(|inbox| !inbox.notifications.is_empty());
    let arrived = tokio::time::timeout(2 * SOON, arrived)
        .await
        .unwrap()
        .unwrap();
    let notification = &arrived.notifications[0];
    assert_eq!(notification.receiver, "one");
    let alert = &notification.alerts[0];
    assert_eq!((alert.name(), alert.subject()), ("SeesItself", "it"));
    assert_eq!(alert.status, Status::Firing);

    assert_eq!(prometheus.value("sum(up)").await.unwrap(), Some(1.0));
    assert_eq!(prometheus.value("no_such_metric").await.unwrap(), None);
    let alerts = prometheus.alerts().await.unwrap();
    assert_eq!(alerts[0]["state"], "firing");
    assert_eq!(alerts[0]["labels"]["alertname"], "SeesItself");
    let held = alertmanager.alerts().await.unwrap();
    assert_eq!(held[0]["status"]["state"], "active");
    assert_eq!(held[0]["labels"]["alertname"], "SeesItself");
}
