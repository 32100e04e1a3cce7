//! The output of the demo: plain lines, printed by one thread.
//!
//! A reader that stops reading, or goes away, must not hold up the demo's orderly end: so the
//! demo never waits for the terminal, and takes a broken one as a request to stop.

use std::io::{self, Write as _};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How long the last lines may take to be read.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Screen {
    lines: Sender<String>,
    /// Closed by the printing thread when it ends; behind a lock only to be shareable.
    done: Mutex<Receiver<()>>,
}

impl Screen {
    /// Cancels `stop` when nobody reads the output any more.
    pub(super) fn new(stop: CancellationToken) -> Self {
        let (lines, queue) = channel::<String>();
        let (printing, done) = channel::<()>();
        // The only thread that is not joined: it may sit in a write that never returns.
        std::thread::spawn(move || {
            let _printing = printing;
            let mut out = io::stdout().lock();
            for line in queue {
                if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                    stop.cancel();
                    return;
                }
            }
        });
        Self {
            lines,
            done: Mutex::new(done),
        }
    }

    pub(super) fn say(&self, line: String) {
        // Without a printing thread, nobody reads it.
        let _ = self.lines.send(line);
    }

    /// Waits a moment for everything to be printed.
    pub(super) fn close(self) {
        drop(self.lines);
        if let Ok(done) = self.done.lock() {
            let _ = done.recv_timeout(CLOSE_PATIENCE);
        }
    }
}
