//! A laboratory for the exporter: a reference rate limiter, real servers, traffic and faults.
//!
//! Everything here runs on loopback and exists to be watched: limiter nodes that behave as the
//! design's table says (and misbehave on request), servers to start, a proxy that cuts the
//! network, counters written behind the limiter's back, and the demo that walks through all of
//! it. It leaves out everything of the exporter itself, which never depends on this crate.
//!
//! | module | what it is for |
//! |---|---|
//! | [`process`], [`temp`], [`ports`] | children that never outlive their parent, folders that go away |
//! | [`redis_server`], [`redis_cluster`], [`sentinels`] | a real Redis, alone, as a cluster, or with replica and sentinels |
//! | [`proxy`], [`link`] | a network to cut, a connection that recovers |
//! | [`node`], [`faults`] | the limiter node: as a process from outside, and what it does wrong on request |
//! | [`application`] | a real application with a real limiter, of `tests/limiters/apps` |
//! | [`prometheus`], [`alertmanager`], [`webhook`] | a real Prometheus and Alertmanager, and a receiver of its notifications |
//! | [`http`], [`traffic`], [`seed`] | requests, steady traffic, counters by the million |
//! | [`jobs`] | long tests side by side |
//! | [`exposition`] | reads Prometheus's text format |
//! | [`demo`] | the guided tour of faults, and `lab fault` that acts on it |

pub mod alertmanager;
pub mod application;
pub mod balancer;
pub mod clock;
pub mod demo;
pub mod exposition;
pub mod faults;
pub mod http;
mod http_server;
pub mod jobs;
pub mod link;
pub mod node;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod redis_cluster;
pub mod redis_server;
pub mod seed;
pub mod sentinels;
pub mod temp;
pub mod traffic;
pub mod web_server;
pub mod webhook;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;

/// Pause between two checks of [`wait_for`]: short beside any deadline, long beside a request.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The `lab` executable that was built beside the running one.
///
/// # Panics
///
/// When it has not been built: the message says how.
pub fn binary() -> PathBuf {
    beside_current_exe("lab").unwrap_or_else(|error| panic!("{error:#}"))
}

/// The `ratelimiter-exporter` executable that was built beside the running one.
///
/// # Panics
///
/// When it has not been built: the message says how.
pub fn exporter_binary() -> PathBuf {
    beside_current_exe("ratelimiter-exporter").unwrap_or_else(|error| panic!("{error:#}"))
}

/// The address that the exporter logs once it listens.
pub fn exporter_address(log: &str) -> Option<String> {
    // The last line may be incomplete.
    let lines = log
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    let mut words = lines.flat_map(str::split_whitespace);
    words.find_map(|word| Some(word.strip_prefix("address=")?.to_owned()))
}

/// Checks the condition again and again until it is true; an error once `timeout` has passed.
///
/// A check that hangs ends at the same deadline.
pub async fn wait_for<F, Fut>(timeout: Duration, mut condition: F) -> anyhow::Result<()>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    wait_for_some(timeout, || {
        let check = condition();
        async move { check.await.then_some(()) }
    })
    .await
}

/// [`wait_for`] for a condition that yields something once it holds.
pub async fn wait_for_some<T, F, Fut>(timeout: Duration, mut condition: F) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let checking = async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    match tokio::time::timeout(timeout, checking).await {
        Ok(found) => Ok(found),
        Err(_) => bail!("what was waited for did not happen within {timeout:?}"),
    }
}

/// Tests run from `target/PROFILE/deps`, binaries from `target/PROFILE`: both lead to the latter.
pub(crate) fn beside_current_exe(name: &str) -> anyhow::Result<PathBuf> {
    let current = std::env::current_exe()?;
    let mut folder = current.parent().unwrap_or(Path::new("."));
    if folder.ends_with("deps") || folder.ends_with("examples") {
        folder = folder.parent().unwrap_or(folder);
    }
    let path = folder.join(name);
    if !path.is_file() {
        bail!("{} is missing: run cargo build --workspace", path.display());
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_ends_with_the_event_or_with_an_error_at_the_deadline() {
        let mut checks = 0;
        wait_for(Duration::from_secs(5), || {
            checks += 1;
            let done = checks == 3;
            async move { done }
        })
        .await
        .unwrap();
        assert_eq!(checks, 3);

        let never = wait_for(Duration::from_millis(30), || async { false }).await;
        assert!(never.unwrap_err().to_string().contains("30ms"));

        let hanging = wait_for(Duration::from_millis(30), std::future::pending::<bool>).await;
        assert!(hanging.is_err());
    }

    #[test]
    fn a_missing_binary_says_how_to_build_it() {
        let error = beside_current_exe("no-such-binary").unwrap_err();
        assert!(error.to_string().contains("cargo build --workspace"));
    }
}
