//! What must hold for any bytes on a connection, for any text as a web configuration file, and for every answer about any
//! collection.

mod reply;

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::header::HeaderValue;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use reply::Reply;

use super::admin::Admin;
use super::api::{self, Findings};
use super::basic_auth::Login;
use super::caller::Caller;
use super::connection::Serving;
use super::guard::Guard;
use super::page::{self, Page};
use super::routes::{App, ReloadRequest};
use super::web_file::WebFile;
use crate::assertions::harmless_html;
use crate::clock::Clock;
use crate::collect::Collect;
use crate::export::Reload;
use crate::invariants::{Checker, CheckerConfig};
use crate::observation::Observation;
use crate::snapshot::Snapshot;
use crate::subject::{
    Act, ActionDefinition, Actor, InvariantChecker, Parameter, ParameterType, Parameters, Risk,
    Subject,
};

/// The web configuration of the server with users.
const USERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/web.yml");

/// The user and password of that file, encoded for a header.
const LOGIN: &str = "YWxpOm9wZW4gc2VzYW1l";

/// How many turns every task gets before no further answer is expected.
const TURNS: usize = 32;

/// Every answer is whole and one of the routes', and its body is of its type. As many actions are carried out as answers say.
/// Where there are users, nothing is answered or carried out without a password.
pub fn request(data: &[u8]) {
    thread_local! {
        static SERVED: OnceCell<(Runtime, [Served; 2])> = const { OnceCell::new() };
    }
    SERVED.with(|served| {
        let (runtime, servers) = served.get_or_init(|| {
            let runtime = Builder::new_current_thread().enable_time().build();
            let runtime = runtime.expect("no runtime");
            let servers = runtime
                .block_on(async { [Served::new(None).await, Served::new(Some(USERS)).await] });
            (runtime, servers)
        });
        for served in servers {
            let answered = runtime.block_on(async {
                let exchange = served.exchange(data);
                let answered = tokio::time::timeout(Duration::from_secs(5), exchange).await;
                answered.expect("a connection hangs")
            });
            served.is_right(data, &answered);
        }
    });
}

/// A server that records its actions and reloads.
struct Served {
    serving: Arc<Serving<Nothing, Checker>>,
    actor: Arc<Recorded>,
    reloads: Arc<AtomicUsize>,
    has_users: bool,
}

impl Served {
    async fn new(web_file: Option<&str>) -> Self {
        let guard = Guard::unwatched(web_file.map(Path::new)).expect("no users");
        let guard = Arc::new(guard);
        if let Some(users) = &guard.terms().await.users {
            // From here on the login is remembered. A first one takes longer than `exchange` waits.
            let login = HeaderValue::from_str(&format!("Basic {LOGIN}")).expect("no header");
            let admitted = users.login(Some(&login)).await;
            assert!(matches!(admitted, Login::Admitted(_)), "a wrong password");
        }
        let clock = Clock::start();
        let collect = || {
            let checker = Checker::new(CheckerConfig::default());
            Arc::new(Collect::new(Nothing, checker, clock.clone(), None))
        };
        let actor = Arc::<Recorded>::default();
        let reloads = Arc::<AtomicUsize>::default();
        let reloaded = Arc::clone(&reloads);
        let (ask_to_reload, mut requests) = mpsc::channel::<ReloadRequest>(16);
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                reloaded.fetch_add(1, Ordering::Relaxed);
                let _ = request.send(Ok(()));
            }
        });
        let acts = Arc::clone(&actor) as Arc<dyn Actor>;
        let actions = acts.actions().into_iter();
        let app = App {
            targets: BTreeMap::from(["default", "eu"].map(|name| (name.to_owned(), collect()))),
            telemetry_path: "/metrics".to_owned(),
            timeout_offset: Duration::from_millis(500),
            actions: actions.map(ActionDefinition::with_target).collect(),
            admin: Some(Admin {
                actors: BTreeMap::from([("default".to_owned(), acts)]),
                read_timeout: Duration::from_secs(1),
                anybody: web_file.is_none(),
            }),
            runbook_url: None,
            guard: Arc::clone(&guard),
            reload: watch::Sender::new(Reload {
                ok: true,
                at: clock.now().wall,
            })
            .subscribe(),
            ask_to_reload: Some(ask_to_reload),
            ending: CancellationToken::new(),
            clock,
        };
        let serving = Arc::new(Serving {
            app: watch::Sender::new(Arc::new(app)).subscribe(),
            guard,
            read_timeout: Duration::from_secs(1),
            shutdown: CancellationToken::new(),
        });
        Self {
            serving,
            actor,
            reloads,
            has_users: web_file.is_some(),
        }
    }

    /// Sends everything, reads the answers, and disconnects when no more come. Requests without an answer are dropped then.
    async fn exchange(&self, data: &[u8]) -> Vec<u8> {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let caller = Caller::at(([127, 0, 0, 1], 1).into());
        let serving = Arc::clone(&self.serving).speak(Box::pin(server), caller);
        let (mut from, mut to) = tokio::io::split(client);
        let received = Cell::new(0);
        let send = async {
            // The server may have closed the connection, if this is no request.
            let _ = to.write_all(data).await;
            let mut before = None;
            while before != Some(received.get()) {
                before = Some(received.get());
                for _ in 0..TURNS {
                    tokio::task::yield_now().await;
                }
            }
            let _ = to.shutdown().await;
        };
        let read = async {
            let mut answers = Vec::new();
            while from.read_buf(&mut answers).await.expect("memory fails") > 0 {
                received.set(answers.len());
            }
            answers
        };
        let ((), (), answers) = tokio::join!(serving, send, read);
        answers
    }

    fn is_right(&self, data: &[u8], answered: &[u8]) {
        let asked = String::from_utf8_lossy(data);
        let answers = Reply::all(answered);
        answers.iter().for_each(Reply::is_right);
        let resets = std::mem::take(&mut *self.actor.0.lock().expect("a reset panicked"));
        let reloads = self.reloads.swap(0, Ordering::Relaxed);
        let count = |which: fn(&Reply<'_>) -> bool| answers.iter().filter(|it| which(it)).count();
        assert_eq!(resets.len(), count(|it| it.status == "202"), "{resets:?}");
        assert_eq!(reloads, count(|it| it.body == b"reloaded\n"));
        if !resets.is_empty() {
            assert!(asked.contains("POST ") && asked.contains("/api/v1/actions/reset_counter"));
            assert!(asked.to_ascii_lowercase().contains("application/json"));
        }
        if reloads > 0 {
            assert!(asked.contains("POST ") && asked.contains("/-/reload"));
        }
        if self.has_users && !asked.contains(LOGIN) {
            let unknown = |it: &Reply<'_>| it.status == "401" || it.is_hypers_own();
            assert!(answers.iter().all(unknown), "served without a password");
        }
    }
}

/// For any text as a web configuration file: an error is one line and names a line that the file has.
pub(crate) fn web_config(text: &str) {
    let Err(error) = WebFile::parse(text, Path::new("/etc")) else {
        return;
    };
    assert!(!error.contains(char::is_control), "{error:?}");
    assert!(error.len() < 16 * 1024, "{} bytes of error", error.len());
    if error.starts_with("tls_server_config: ") {
        // An error about several lines names none.
        return;
    }
    let numbers = error.split("line ").skip(1).filter_map(|rest| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse::<usize>().ok()
    });
    let lines = text.replace("\r\n", "\n").split(['\r', '\n']).count();
    let there = numbers.filter(|number| (1..=lines).contains(number));
    assert!(there.count() > 0, "{error}");
}

/// The page and the JSON of `snapshot` are well-formed.
pub(crate) fn shown(snapshot: &Snapshot) {
    harmless_html(&page::render(&Page {
        target: "default",
        snapshot: Some(snapshot),
        targets: Vec::new(),
        telemetry_path: "/metrics",
        runbook_url: None,
        now: snapshot.report.at.wall,
    }));
    serde_json::to_vec(&Findings::from(snapshot)).expect("violations are not JSON");
    let subjects = snapshot.report.violations.first().into_iter();
    let subjects = subjects.map(|violation| violation.subject.clone());
    for subject in subjects.chain(["redis".to_owned()]) {
        serde_json::to_vec(&api::explained(snapshot, &subject)).expect("not JSON");
    }
}

/// A subject with nothing to observe.
#[derive(Debug)]
struct Nothing;

impl Subject for Nothing {
    async fn observe<C: InvariantChecker>(
        &mut self,
        _deadline: watch::Receiver<Instant>,
        _checker: &mut C,
    ) -> Observation {
        Observation::default()
    }

    async fn glance(&mut self) -> Duration {
        Duration::MAX
    }

    fn remember(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn recall(&mut self, _memory: serde_json::Value) -> Result<(), String> {
        Ok(())
    }

    fn take_over(&mut self, _before: Self) -> bool {
        true
    }

    fn actor(&self) -> Arc<dyn Actor> {
        Arc::<Recorded>::default()
    }
}

/// Records the keys of its resets.
#[derive(Debug, Default)]
struct Recorded(Mutex<Vec<String>>);

impl Actor for Recorded {
    fn actions(&self) -> Vec<ActionDefinition> {
        let key = Parameter {
            kind: ParameterType::String,
            description: "A key.",
            required: true,
        };
        vec![ActionDefinition {
            name: "reset_counter",
            description: "Remembers the key.",
            parameters: BTreeMap::from([("key", key)]),
            risk_level: Risk::Low,
            requires_approval: false,
        }]
    }

    fn about(&self, parameters: &Parameters) -> String {
        parameters["key"].to_string()
    }

    fn act<'a>(&'a self, name: &'a str, parameters: &'a Parameters) -> Act<'a> {
        assert_eq!(name, "reset_counter");
        let keys = self.0.lock();
        keys.expect("a reset panicked").push(self.about(parameters));
        Box::pin(std::future::ready(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_route_needs_the_login() {
        let served = Served::new(Some(USERS)).await;
        let login = format!("Authorization: Basic {LOGIN}\r\n");
        let reset = "Content-Type: application/json\r\nContent-Length: 11\r\n\r\n{\"key\":\"a\"}";
        for (line, headers, status) in [
            ("GET /metrics", "\r\n", "200"),
            ("GET /probe?target=eu", "\r\n", "200"),
            ("GET /", "\r\n", "200"),
            ("POST /-/reload", "\r\n", "200"),
            ("POST /api/v1/actions/reset_counter", reset, "202"),
        ] {
            for (login, status) in [(&*login, status), ("", "401")] {
                let asked = format!("{line} HTTP/1.1\r\n{login}{headers}");
                let answered = served.exchange(asked.as_bytes()).await;
                assert_eq!(Reply::all(&answered)[0].status, status, "{asked}");
                served.is_right(asked.as_bytes(), &answered);
            }
        }
    }
}
