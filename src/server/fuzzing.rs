//! A connection that sends any bytes.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::App;
use super::Guard;
use super::admin::Admin;
use super::connection::Caller;
use crate::clock::Clock;
use crate::collect::{Collect, Keep};
use crate::export::Reload;
use crate::invariants::{Checker, CheckerConfig};
use crate::observation::{KeyLabel, Observation};
use crate::subject::{ACTIONS, ActionDefinition, CounterSink, Subject};

/// The keys that a connection asked to reset.
type Resets = Arc<Mutex<Vec<String>>>;

/// Every answer is one that the routes give, with its type and length; a counter is reset only by a request whose text
/// names the action.
pub fn request(data: &[u8]) {
    thread_local! {
        static SERVED: OnceCell<(Runtime, Arc<App<Nothing>>, Resets)> = const { OnceCell::new() };
    }
    SERVED.with(|served| {
        let (runtime, app, resets) = served.get_or_init(served_app);
        let answers = runtime.block_on(async {
            let served = tokio::time::timeout(Duration::from_secs(5), exchange(app, data));
            served.await.expect("a connection hangs")
        });
        let answers = String::from_utf8_lossy(&answers);
        let reset = resets.lock().expect("a reset panicked").drain(..).count();
        if reset > 0 {
            let text = String::from_utf8_lossy(data);
            assert!(text.contains("POST ") && text.contains("/api/v1/actions/reset_counter"));
            assert!(answers.contains("HTTP/1.1 202 ") || answers.contains("HTTP/1.0 202 "));
        }
        let Some(head) = answers
            .split("\r\n\r\n")
            .next()
            .filter(|head| !head.is_empty())
        else {
            return;
        };
        let status = head.split(' ').nth(1).unwrap_or_default();
        // The last two are hyper's own, for what is no request: they have no body.
        let known = [
            "200", "202", "400", "403", "404", "405", "408", "413", "414", "415", "431",
        ];
        assert!(known.contains(&status) || head.contains("503 "), "{head}");
        let typed = head.to_ascii_lowercase().contains("content-type: ");
        let own = matches!(status, "400" | "414" | "431");
        assert!(typed || own, "{head}");
    });
}

/// Sends everything, ends the sending side, and reads what comes back.
async fn exchange(app: &Arc<App<Nothing>>, data: &[u8]) -> Vec<u8> {
    let (mut client, server) = tokio::io::duplex(64 * 1024);
    let service = service_fn(move |request| {
        let app = Arc::clone(app);
        let caller = Caller::at(([127, 0, 0, 1], 1).into());
        async move { Ok::<_, Infallible>(app.answer(request, &caller).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(server), service);
    let asking = async {
        let mut answers = Vec::new();
        let (mut from, mut to) = tokio::io::split(&mut client);
        let send = async {
            // It may have hung up on what is no request.
            let _ = to.write_all(data).await;
            let _ = to.shutdown().await;
        };
        let ((), read) = tokio::join!(send, from.read_to_end(&mut answers));
        read.expect("reading from memory failed");
        answers
    };
    // That the connection ends with an error is its right.
    let (_, answers) = tokio::join!(connection, asking);
    answers
}

fn served_app() -> (Runtime, Arc<App<Nothing>>, Resets) {
    let clock = Clock::start();
    let checker = Checker::new(CheckerConfig::default(), KeyLabel::Plain);
    let collect = Arc::new(Collect::new(
        Nothing,
        checker,
        clock.clone(),
        Keep::default(),
    ));
    let resets = Resets::default();
    let record = Arc::clone(&resets);
    let app = App {
        targets: BTreeMap::from([("default".to_owned(), Arc::clone(&collect))]),
        collect,
        telemetry_path: "/metrics".to_owned(),
        timeout_offset: Duration::from_millis(500),
        actions: &ACTIONS,
        admin: Some(Admin {
            reset: Box::new(move |key| {
                record.lock().expect("a reset panicked").push(key);
                Box::pin(std::future::ready(Ok(())))
            }),
            key_label: KeyLabel::Plain,
            read_timeout: Duration::from_secs(1),
            anybody: true,
        }),
        runbook_url: None,
        guard: Guard::new(None).expect("no file is read"),
        reload: watch::Sender::new(Reload {
            ok: true,
            at: clock.now().wall,
        })
        .subscribe(),
        reload_now: None,
        ending: CancellationToken::new(),
        clock,
    };
    let runtime = Builder::new_current_thread().enable_time().build();
    (runtime.expect("no runtime"), Arc::new(app), resets)
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
