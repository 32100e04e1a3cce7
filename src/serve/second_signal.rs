//! The second signal ends the process, whatever its threads wait for. `serve` sees to that itself unless all of them hang,
//! as in a system call about a file on a network disk that is dead: then nobody is left to hear a signal but a thread that
//! does nothing else.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// How long the ordinary end may take after the second signal: there is nothing that it waits for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Starts the thread, which ends with the process.
pub(super) fn ends_the_process() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // From here on, not from when the thread runs.
    let inside = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    drop(inside);
    let wait = async move {
        for _ in 0..2 {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        tokio::time::sleep(PATIENCE).await;
    };
    let thread = std::thread::Builder::new().name("second-signal".to_owned());
    thread.spawn(move || {
        runtime.block_on(wait);
        // Nothing is logged: that may be what hangs.
        std::process::exit(0)
    })?;
    Ok(())
}
