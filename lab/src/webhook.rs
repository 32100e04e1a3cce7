//! A receiver of Alertmanager's webhooks in place of the pager, the chat and the rest.
//!
//! The path names the receiver: `/pager` is the receiver `pager`. It keeps what arrives, in order and with the time of arrival.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::{clock, http_server};

/// Alertmanager truncates nothing by itself; a group of some thousand alerts still fits.
const MAX_BODY: usize = 8 * 1024 * 1024;

/// How many notifications are kept. A tour brings a few dozen; more are refused and counted.
const MAX_KEPT: usize = 10_000;

/// A running receiver; its port closes when it is dropped.
#[derive(Debug)]
pub struct Webhook {
    address: SocketAddr,
    inbox: watch::Receiver<Inbox>,
    _server: AbortOnDropHandle<()>,
}

/// What has arrived.
#[derive(Debug, Default)]
pub struct Inbox {
    /// In the order of arrival.
    pub notifications: Vec<Notification>,
    /// What was not understood, or not kept because there was too much: an error for each.
    pub refused: Vec<String>,
}

/// One notification: a group of alerts that Alertmanager sends to one receiver.
#[derive(Debug, Clone)]
pub struct Notification {
    /// When it arrived.
    pub at: Instant,
    /// The receiver, as the path says.
    pub receiver: String,
    /// The alerts of the group, those that are over among them.
    pub alerts: Vec<Alert>,
}

/// One alert of a notification.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Alert {
    /// Whether it fires or is over.
    pub status: Status,
    /// Its labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// Whether an alert fires or is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It fires.
    Firing,
    /// It is over.
    Resolved,
}

#[derive(Debug, Deserialize)]
struct Body {
    alerts: Vec<Alert>,
}

impl Alert {
    /// The value of a label; empty without one, as Prometheus has it.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }

    /// The label `alertname`.
    pub fn name(&self) -> &str {
        self.label("alertname")
    }

    /// What it is about: the label `subject`.
    pub fn subject(&self) -> &str {
        self.label("subject")
    }
}

impl Webhook {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (sender, inbox) = watch::channel(Inbox::default());
        let sender = Arc::new(sender);
        let server = http_server::serve(listener, move |request| {
            let sender = Arc::clone(&sender);
            async move { take(request, &sender).await }
        });
        Ok(Self {
            address,
            inbox,
            _server: server,
        })
    }

    /// The URL of the receiver with this name.
    pub fn url(&self, receiver: &str) -> String {
        format!("http://{}/{receiver}", self.address)
    }

    /// What has arrived, and a way to wait for more.
    pub fn inbox(&self) -> watch::Receiver<Inbox> {
        self.inbox.clone()
    }
}

async fn take(request: Request<Incoming>, inbox: &watch::Sender<Inbox>) -> (StatusCode, String) {
    let at = clock::instant();
    let outcome = read(request, at).await;
    let mut answer = (StatusCode::OK, String::new());
    inbox.send_modify(|inbox| match outcome {
        Ok(notification) if inbox.notifications.len() < MAX_KEPT => {
            inbox.notifications.push(notification);
        }
        refused => {
            let error = refused.err().map_or_else(
                || format!("more than {MAX_KEPT} notifications"),
                |error| format!("{error:#}"),
            );
            answer = (StatusCode::BAD_REQUEST, error.clone());
            if inbox.refused.len() < MAX_KEPT {
                inbox.refused.push(error);
            }
        }
    });
    answer
}

async fn read(request: Request<Incoming>, at: Instant) -> anyhow::Result<Notification> {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    anyhow::ensure!(method == Method::POST, "{method} {path}: only POST");
    let body = http_server::body(request, MAX_BODY).await?;
    let body: Body = serde_json::from_slice(&body)
        .with_context(|| format!("POST {path}: not a notification of Alertmanager"))?;
    Ok(Notification {
        at,
        receiver: path.trim_matches('/').to_owned(),
        alerts: body.alerts,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn post(webhook: &Webhook, path: &str, body: &str) -> u16 {
        let address = webhook.address.to_string();
        let soon = Duration::from_secs(5);
        let answer = crate::http::request(&address, Method::POST, path, body.to_owned(), soon);
        answer.await.unwrap().status
    }

    #[tokio::test]
    async fn notifications_are_kept_by_receiver_and_what_is_none_is_refused() {
        let webhook = Webhook::start().await.unwrap();
        let body = r#"{"version":"4","status":"firing","receiver":"x","alerts":[
            {"status":"resolved","labels":{"alertname":"A","subject":"node-1"},
             "annotations":{"summary":"text"},"startsAt":"2026-01-27T02:06:57Z"}]}"#;
        assert_eq!(post(&webhook, "/pager", body).await, 200);
        assert_eq!(post(&webhook, "/chat", "{}").await, 400);

        let inbox = webhook.inbox();
        let inbox = inbox.borrow();
        let [notification] = inbox.notifications.as_slice() else {
            panic!("{inbox:?}");
        };
        assert_eq!(notification.receiver, "pager");
        let alert = &notification.alerts[0];
        assert_eq!((alert.name(), alert.subject()), ("A", "node-1"));
        assert_eq!((alert.status, alert.label("job")), (Status::Resolved, ""));
        assert_eq!(alert.annotations["summary"], "text");
        assert_eq!(inbox.refused.len(), 1);
        assert!(inbox.refused[0].contains("POST /chat"), "{inbox:?}");
    }
}
