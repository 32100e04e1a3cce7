//! SIGINT and SIGTERM, which end what runs until then.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives both signals, instead of the process being ended by them.
#[derive(Debug)]
pub(crate) struct StopSignals([Signal; 2]);

impl StopSignals {
    pub(crate) fn new() -> io::Result<Self> {
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self([interrupt, signal(SignalKind::terminate())?]))
    }

    /// Waits for the next one.
    pub(crate) async fn recv(&mut self) {
        let [interrupt, terminate] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}
