//! A connection that sends any bytes, a web configuration file of any text, and what is served of any collection.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::admin::Admin;
use super::api::{self, Standing};
use super::connection::{Caller, Serving};
use super::guard::Guard;
use super::page::{self, Page};
use super::routes::App;
use super::web_file::WebFile;
use crate::clock::Clock;
use crate::collect::{Collect, Keep};
use crate::export::Reload;
use crate::fuzzing::{harmless_html, valid_exposition};
use crate::invariants::{Checker, CheckerConfig};
use crate::observation::{KeyLabel, Observation};
use crate::snapshot::Snapshot;
use crate::subject::{ACTIONS, ActionDefinition, CounterSink, Subject};

/// User and password of `fuzz/web.yml`, as a header brings them.
const LOGIN: &str = "YWxpOm9wZW4gc2VzYW1l";

/// What an answer's head may consist of: nothing that a request brings becomes a header.
const HEADERS: [&str; 13] = [
    "allow",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-security-policy",
    "content-type",
    "date",
    "referrer-policy",
    "transfer-encoding",
    "vary",
    "www-authenticate",
    "x-content-type-options",
];

/// Every answer is whole, is one that the routes give, and its body is what its type says. As many actions are done as
/// are said to be done, and where there are users, nothing is said or done without a password.
pub fn request(data: &[u8]) {
    thread_local! {
        static SERVED: OnceCell<(Runtime, [Served; 2])> = const { OnceCell::new() };
    }
    SERVED.with(|served| {
        let (runtime, servers) = served.get_or_init(|| {
            let runtime = Builder::new_current_thread().enable_time().build();
            let users = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/web.yml");
            let servers = [None, Some(&*users)].map(Served::new);
            (runtime.expect("no runtime"), servers)
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

/// A server, and what it was made to do.
struct Served {
    serving: Serving<Nothing>,
    resets: Arc<Mutex<Vec<String>>>,
    reloads: Arc<AtomicUsize>,
    has_users: bool,
}

impl Served {
    fn new(web_file: Option<&Path>) -> Self {
        let clock = Clock::start();
        let collect = || {
            let checker = Checker::new(CheckerConfig::default(), KeyLabel::Plain);
            Arc::new(Collect::new(
                Nothing,
                checker,
                clock.clone(),
                Keep::default(),
            ))
        };
        let resets = Arc::<Mutex<Vec<String>>>::default();
        let reloads = Arc::<AtomicUsize>::default();
        let (reset, reloaded) = (Arc::clone(&resets), Arc::clone(&reloads));
        let default = collect();
        let app = App {
            targets: BTreeMap::from([
                ("default".to_owned(), Arc::clone(&default)),
                ("eu".to_owned(), collect()),
            ]),
            collect: default,
            telemetry_path: "/metrics".to_owned(),
            timeout_offset: Duration::from_millis(500),
            actions: &ACTIONS,
            admin: Some(Admin {
                reset: Box::new(move |key| {
                    reset.lock().expect("a reset panicked").push(key);
                    Box::pin(std::future::ready(Ok(())))
                }),
                key_label: KeyLabel::Plain,
                read_timeout: Duration::from_secs(1),
                anybody: web_file.is_none(),
            }),
            runbook_url: None,
            reload: watch::Sender::new(Reload {
                ok: true,
                at: clock.now().wall,
            })
            .subscribe(),
            reload_now: Some(Box::new(move || {
                reloaded.fetch_add(1, Ordering::Relaxed);
                Box::pin(std::future::ready(Ok(())))
            })),
            ending: CancellationToken::new(),
            clock,
        };
        let serving = Serving {
            app: watch::Sender::new(Arc::new(app)).subscribe(),
            guard: Guard::new(web_file).expect("no users"),
            read_timeout: Duration::from_secs(1),
            shutdown: CancellationToken::new(),
            abort: CancellationToken::new(),
        };
        Self {
            serving,
            resets,
            reloads,
            has_users: web_file.is_some(),
        }
    }

    /// Sends everything, ends the sending side, and reads what comes back.
    async fn exchange(&self, data: &[u8]) -> Vec<u8> {
        let (client, server) = tokio::io::duplex(64 * 1024);
        let caller = Caller::at(([127, 0, 0, 1], 1).into());
        let serving = self.serving.clone().speak(Box::pin(server), caller);
        let asking = async {
            let mut answers = Vec::new();
            let (mut from, mut to) = tokio::io::split(client);
            let send = async {
                // It may have hung up on what is no request.
                let _ = to.write_all(data).await;
                let _ = to.shutdown().await;
            };
            let ((), read) = tokio::join!(send, from.read_to_end(&mut answers));
            read.expect("reading from memory failed");
            answers
        };
        tokio::join!(serving, asking).1
    }

    fn is_right(&self, data: &[u8], answered: &[u8]) {
        let asked = String::from_utf8_lossy(data);
        let answers = Answer::all(answered);
        answers.iter().for_each(Answer::is_right);
        let resets = std::mem::take(&mut *self.resets.lock().expect("a reset panicked"));
        let reloads = self.reloads.swap(0, Ordering::Relaxed);
        let said = |what: fn(&Answer<'_>) -> bool| answers.iter().filter(|it| what(it)).count();
        assert_eq!(resets.len(), said(|it| it.status == "202"), "{resets:?}");
        assert_eq!(reloads, said(|it| it.body == b"reloaded\n"));
        if !resets.is_empty() {
            assert!(asked.contains("POST ") && asked.contains("/api/v1/actions/reset_counter"));
            assert!(asked.to_ascii_lowercase().contains("application/json"));
        }
        if reloads > 0 {
            assert!(asked.contains("POST ") && asked.contains("/-/reload"));
        }
        if self.has_users && !asked.contains(LOGIN) {
            let unknown = |it: &Answer<'_>| it.status == "401" || it.is_hypers_own();
            assert!(answers.iter().all(unknown), "served without a password");
        }
    }
}

/// One answer of those on a connection.
struct Answer<'a> {
    status: &'a str,
    headers: BTreeMap<String, &'a str>,
    /// Empty for HEAD.
    body: &'a [u8],
}

impl<'a> Answer<'a> {
    /// Panics unless `bytes` are whole answers.
    fn all(mut bytes: &'a [u8]) -> Vec<Self> {
        let mut answers = Vec::new();
        while !bytes.is_empty() {
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
            let end = end.expect("a head without an end");
            let head = std::str::from_utf8(&bytes[..end]).expect("a head that is no text");
            let mut lines = head.split("\r\n");
            let status = lines.next().and_then(|line| {
                let (version, rest) = line.split_once(' ')?;
                assert!(matches!(version, "HTTP/1.1" | "HTTP/1.0"), "{line:?}");
                rest.split(' ').next()
            });
            let headers = lines.map(|line| {
                let (name, value) = line.split_once(": ").expect("not a header");
                (name.to_ascii_lowercase(), value)
            });
            let headers: BTreeMap<_, _> = headers.collect();
            bytes = &bytes[end + 4..];
            let length = headers.get("content-length");
            let length = length.map_or(0, |length| length.parse().expect("not a length"));
            // No body of ours begins like this: it was a HEAD, and the next answer follows.
            let none = bytes.is_empty() || bytes.starts_with(b"HTTP/1.");
            let (body, rest) = bytes
                .split_at_checked(if none { 0 } else { length })
                .expect("less than the promised length");
            bytes = rest;
            answers.push(Self {
                status: status.expect("an answer without a status"),
                headers,
                body,
            });
        }
        answers
    }

    /// What hyper says to what is no request, and before a body that was announced: without a body.
    fn is_hypers_own(&self) -> bool {
        matches!(self.status, "100" | "400" | "414" | "431")
            && !self.headers.contains_key("content-type")
    }

    fn is_right(&self) {
        let status = self.status;
        for name in self.headers.keys() {
            assert!(HEADERS.contains(&&**name), "{status} with {name}");
        }
        if self.is_hypers_own() {
            return assert!(self.body.is_empty());
        }
        let known = [
            "200", "202", "400", "401", "403", "404", "405", "408", "413", "415", "503",
        ];
        assert!(known.contains(&status), "{status}");
        let challenged = self.headers.contains_key("www-authenticate");
        assert_eq!(challenged, status == "401");
        let kind = *self.headers.get("content-type").expect("without a type");
        if self.body.is_empty() {
            return;
        }
        let mut unpacked = Vec::new();
        let body = if self.headers.contains_key("content-encoding") {
            let mut gzip = flate2::read::GzDecoder::new(self.body);
            gzip.read_to_end(&mut unpacked).expect("not gzip");
            &unpacked
        } else {
            self.body
        };
        let text = std::str::from_utf8(body).expect("a body that is no text");
        match kind {
            "application/json" => {
                serde_json::from_str::<serde_json::Value>(text).expect("not JSON");
            }
            "text/html; charset=utf-8" => harmless_html(text),
            "text/plain; version=0.0.4; charset=utf-8" => valid_exposition(body),
            "text/plain; charset=utf-8" => {
                assert_eq!(text.lines().count(), 1, "{text:?}");
                assert!(!text.trim_end().contains(char::is_control), "{text:?}");
            }
            other => panic!("a body of the type {other}"),
        }
    }
}

/// A web configuration file of any text: an error is one line with the number of one in the file, and says nothing of a
/// hash.
pub(crate) fn web_config(text: &str) {
    let Err(error) = WebFile::parse(text, Path::new("/etc")) else {
        return;
    };
    assert!(!error.contains(char::is_control), "{error:?}");
    assert!(error.len() < 16 * 1024, "{} bytes of error", error.len());
    if error.starts_with("tls_server_config: ") {
        // About several of its lines.
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

/// What browsers and programs get to see of `snapshot`.
pub(crate) fn shown(snapshot: &Snapshot) {
    harmless_html(&page::render(&Page {
        snapshot: Some(snapshot),
        telemetry_path: "/metrics",
        runbook_url: None,
        now: snapshot.report.at.wall,
    }));
    serde_json::to_vec(&Standing::from(snapshot)).expect("violations are not JSON");
    let subjects = snapshot.report.violations.first().into_iter();
    let subjects = subjects.map(|violation| violation.subject.clone());
    for subject in subjects.chain(["redis".to_owned()]) {
        serde_json::to_vec(&api::explained(snapshot, subject)).expect("not JSON");
    }
}

/// A subject of which nothing is seen, at once.
#[derive(Debug)]
struct Nothing;

impl Subject for Nothing {
    async fn observe(
        &mut self,
        _deadline: watch::Receiver<Instant>,
        _watched: Vec<Box<[u8]>>,
        _sink: &mut dyn CounterSink,
    ) -> Observation {
        Observation::default()
    }

    async fn glance(&mut self) {}

    fn memory(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    fn recall(&mut self, _memory: serde_json::Value) -> Result<(), String> {
        Ok(())
    }

    fn succeed(&mut self, _before: Self) -> bool {
        true
    }

    fn actions(&self) -> &'static [ActionDefinition] {
        &ACTIONS
    }
}
