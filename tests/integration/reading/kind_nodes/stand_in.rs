//! An HTTP server that answers as a limiter does, on the ports that its description names: on an address of loopback of its
//! own, so that tests that run at once do not share them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// What is answered at a port and a path.
#[derive(Clone)]
struct Answer {
    status: u16,
    body: String,
    takes: Duration,
}

type Answers = Arc<Mutex<BTreeMap<(u16, String), Answer>>>;

/// The server.
pub(super) struct StandIn {
    pub(super) ip: String,
    answers: Answers,
    asked: Arc<Mutex<Vec<String>>>,
    ports: BTreeMap<u16, AbortOnDropHandle<()>>,
}

impl StandIn {
    /// One that listens at no port yet.
    pub(super) fn new() -> Self {
        static NUMBER: AtomicU8 = AtomicU8::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        Self::at(&format!(
            "127.{}.{}.{number}",
            64 + process / 250 % 64,
            process % 250
        ))
    }

    /// One at a given address.
    pub(super) fn at(ip: &str) -> Self {
        Self {
            ip: ip.to_owned(),
            answers: Answers::default(),
            asked: Arc::default(),
            ports: BTreeMap::new(),
        }
    }

    pub(super) fn url(&self, port: u16) -> String {
        format!("http://{}", self.address(port))
    }

    pub(super) fn address(&self, port: u16) -> String {
        if self.ip.contains(':') {
            format!("[{}]:{port}", self.ip)
        } else {
            format!("{}:{port}", self.ip)
        }
    }

    /// Listens at `port`, and answers `path` there with `body`.
    pub(super) async fn serve(&mut self, port: u16, path: &str, body: &str) -> anyhow::Result<()> {
        self.answer(port, path, 200, body);
        self.listen(port).await
    }

    /// Listens at `port`.
    pub(super) async fn listen(&mut self, port: u16) -> anyhow::Result<()> {
        if self.ports.contains_key(&port) {
            return Ok(());
        }
        let listener = TcpListener::bind(self.address(port));
        let listener = listener.await.with_context(|| self.address(port))?;
        let (answers, asked) = (Arc::clone(&self.answers), Arc::clone(&self.asked));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
                connections.spawn(async move {
                    // A client that has gone is none of its business.
                    let _ = answer(stream, port, answers, asked).await;
                });
            }
        });
        self.ports.insert(port, AbortOnDropHandle::new(task));
        Ok(())
    }

    /// What is answered at `path` from now on.
    pub(super) fn answer(&self, port: u16, path: &str, status: u16, body: &str) {
        self.answer_late(port, path, status, body, Duration::ZERO);
    }

    /// The same, after `takes`.
    pub(super) fn answer_late(
        &self,
        port: u16,
        path: &str,
        status: u16,
        body: &str,
        takes: Duration,
    ) {
        let answer = Answer {
            status,
            body: body.to_owned(),
            takes,
        };
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.insert((port, path.to_owned()), answer);
    }

    /// Takes no more connections at `port`.
    pub(super) fn stop(&mut self, port: u16) {
        self.ports.remove(&port);
    }

    /// The number of requests with this beginning.
    pub(super) fn asked(&self, begins: &str) -> usize {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.iter().filter(|what| what.starts_with(begins)).count()
    }
}

async fn answer(
    mut stream: TcpStream,
    port: u16,
    answers: Answers,
    asked: Arc<Mutex<Vec<String>>>,
) -> anyhow::Result<()> {
    let mut request = Vec::new();
    let (head, body) = loop {
        let mut some = [0; 4096];
        let read = stream.read(&mut some).await?;
        anyhow::ensure!(read > 0, "no request");
        request.extend_from_slice(&some[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                let is_length = name.eq_ignore_ascii_case("content-length");
                is_length.then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                break (head.to_owned(), body.to_owned());
            }
        }
    };
    let mut words = head.split(' ');
    let (method, path) = (
        words.next().unwrap_or_default().to_owned(),
        words.next().unwrap_or_default().to_owned(),
    );
    asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(format!("{method} {path} {body}"));
    let found = {
        let answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(&(port, path)).cloned()
    };
    let found = found.unwrap_or(Answer {
        status: 404,
        body: "no such path".to_owned(),
        takes: Duration::ZERO,
    });
    tokio::time::sleep(found.takes).await;
    let Answer { status, body, .. } = found;
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await?;
    Ok(())
}
