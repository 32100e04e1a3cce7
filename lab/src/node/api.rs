//! The HTTP interface of a node: routes, and the faults that are seen through it.
//!
//! Odd corners are as recorded: paths are decoded before they are split, a trailing slash
//! redirects, and any trouble with Redis is a bare 500.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use super::answer::{self, Answer};
use super::limiter::{CheckRequest, Limit, Limiter, Verdict};
use super::metrics::Metrics;
use super::wire::Hangup;
use crate::clock;
use crate::faults::Faults;

/// The longest request body that is read.
const MAX_BODY: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Api {
    pub(super) node_id: String,
    pub(super) limiter: Arc<Limiter>,
    pub(super) metrics: Metrics,
    /// How many `/check` came.
    pub(super) checks: AtomicU64,
    pub(super) faults: watch::Sender<Arc<Faults>>,
    /// The requests under way: they end with the process.
    pub(super) requests: TaskTracker,
}

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Route {
    Health,
    Metrics,
    Check,
    Nodes,
    Counters,
    Limits,
    Blocks,
    SetLimit(String),
    Reset(String),
    Faults,
    /// A known path with a slash too many: where it should have gone.
    Redirect(String),
    Unknown,
}

impl Route {
    /// The route of a path as it came, and of nothing else.
    fn of(path: &str) -> Self {
        // Decoded first, so that a slash in a key is a slash in the path, however it was sent.
        let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
        if let Some(route) = Self::exact(&decoded) {
            return route;
        }
        let shorter = path.strip_suffix('/');
        let shorter = shorter.filter(|_| {
            let decoded = decoded.strip_suffix('/').unwrap_or(&decoded);
            Self::exact(decoded).is_some()
        });
        shorter.map_or(Self::Unknown, |path| Self::Redirect(path.to_owned()))
    }

    fn exact(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        let route = match parts[..] {
            ["health"] => Self::Health,
            ["metrics"] => Self::Metrics,
            ["check"] => Self::Check,
            ["api", "nodes"] => Self::Nodes,
            ["api", "counters"] => Self::Counters,
            ["api", "limits"] => Self::Limits,
            ["api", "blocks"] => Self::Blocks,
            ["api", "limits", key] if !key.is_empty() => Self::SetLimit(key.to_owned()),
            ["api", "counters", key, "reset"] if !key.is_empty() => Self::Reset(key.to_owned()),
            ["lab", "faults"] => Self::Faults,
            _ => return None,
        };
        Some(route)
    }

    /// The one method it takes, and its name in the metrics.
    fn method_and_handler(&self) -> (&'static str, &'static str) {
        match self {
            Self::Health => ("GET", "/health"),
            Self::Metrics => ("GET", "/metrics"),
            Self::Check => ("POST", "/check"),
            Self::Nodes => ("GET", "/api/nodes"),
            Self::Counters => ("GET", "/api/counters"),
            Self::Limits => ("GET", "/api/limits"),
            Self::Blocks => ("GET", "/api/blocks"),
            Self::SetLimit(_) => ("PUT", "/api/limits/{key}"),
            Self::Reset(_) => ("POST", "/api/counters/{key}/reset"),
            Self::Faults => ("GET, PUT", "/lab/faults"),
            Self::Redirect(_) | Self::Unknown => ("", "none"),
        }
    }

    fn is_api(&self) -> bool {
        self.method_and_handler().1.starts_with("/api/")
    }
}

impl Api {
    /// Answers one request. Never an error: those are answers too.
    pub(super) async fn serve(&self, request: Request<Incoming>, hangup: &Hangup) -> Answer {
        let route = Route::of(request.uri().path());
        let faults = Arc::clone(&self.faults.borrow());
        if route == Route::Faults {
            return self.lab_faults(request).await;
        }
        let mut timer = Timer {
            metrics: &self.metrics,
            method: request.method().clone(),
            handler: route.method_and_handler().1,
            counts_check: route == Route::Check
                && request.method() == Method::POST
                && !faults.histogram_never_counts,
            started: clock::instant(),
            status: None,
        };
        let answer = match self.dispatch(request, route, &faults).await {
            Ok(answer) => answer,
            Err(error) => {
                eprintln!("{} {}: {error:#}", timer.method, timer.handler);
                answer::internal_error()
            }
        };
        timer.status = Some(answer.status().as_u16());
        if answer.status() == StatusCode::INTERNAL_SERVER_ERROR && !faults.keep_open_after_500 {
            hangup.after_this_answer();
        }
        answer
    }

    async fn dispatch(
        &self,
        request: Request<Incoming>,
        route: Route,
        faults: &Faults,
    ) -> anyhow::Result<Answer> {
        let (allowed, _) = route.method_and_handler();
        let known = !matches!(route, Route::Redirect(_) | Route::Unknown);
        if known && request.method().as_str() != allowed {
            return Ok(answer::method_not_allowed(allowed));
        }
        if route.is_api() {
            if faults.api_hang {
                std::future::pending::<()>().await;
            }
            pause(faults.api_delay_ms).await;
            if let Some(answer) = broken_api(faults) {
                return Ok(answer);
            }
        }
        let answer = match route {
            Route::Health => {
                pause(faults.health_delay_ms).await;
                let status = faults.health_status.map_or(Ok(StatusCode::OK), status)?;
                let body = format!(
                    r#"{{"status":"healthy","node_id":{}}}"#,
                    serde_json::to_string(&self.node_id)?
                );
                answer::with_type(status, answer::JSON, body.into())
            }
            Route::Metrics => {
                let status = faults.metrics_status.map_or(Ok(StatusCode::OK), status)?;
                let body = match &faults.metrics_body {
                    Some(body) => body.clone(),
                    None => self.metrics.text()?,
                };
                answer::with_type(status, answer::METRICS, body.into())
            }
            Route::Check => self.check(request, faults).await?,
            Route::Nodes => {
                let mut nodes = self.limiter.nodes().await?;
                if let Some(state) = &faults.node_state {
                    let own = nodes.iter_mut().filter(|node| node.id == self.node_id);
                    own.for_each(|node| node.state.clone_from(state));
                }
                answer::list("nodes", &nodes)
            }
            Route::Counters => {
                let counters = self.limiter.counters().await?;
                self.metrics.set_active_counters(counters.len());
                answer::list("counters", &counters)
            }
            Route::Limits => {
                let (limit, window_ms) = self.limiter.defaults();
                let body =
                    format!(r#"{{"default_limit":{limit},"default_window_ms":{window_ms}}}"#);
                answer::with_type(StatusCode::OK, answer::JSON, body.into())
            }
            Route::Blocks => answer::list("blocked", &self.limiter.blocks().await?),
            Route::SetLimit(key) => match read_json::<Limit>(request).await {
                Ok(limit) => {
                    self.limiter.set_limit(&key, limit).await?;
                    answer::json(StatusCode::OK, &limit)
                }
                Err(why) => answer::unprocessable(&why),
            },
            Route::Reset(key) => {
                self.limiter.reset(&key).await?;
                let key = serde_json::to_string(&key)?;
                let body = format!(r#"{{"key":{key},"reset":true}}"#);
                answer::with_type(StatusCode::OK, answer::JSON, body.into())
            }
            Route::Redirect(path) => {
                let host = request
                    .headers()
                    .get(HOST)
                    .and_then(|host| host.to_str().ok());
                answer::redirect(&format!("http://{}{path}", host.unwrap_or_default()))
            }
            Route::Faults | Route::Unknown => answer::not_found(),
        };
        Ok(answer)
    }

    async fn check(&self, request: Request<Incoming>, faults: &Faults) -> anyhow::Result<Answer> {
        let request: CheckRequest = match read_json(request).await {
            Ok(request) => request,
            Err(why) => return Ok(answer::unprocessable(&why)),
        };
        let number = self.checks.fetch_add(1, Ordering::Relaxed);
        if number.is_multiple_of(faults.check_delay_every.max(1)) {
            pause(faults.check_delay_ms).await;
        }
        if let Some(code) = faults.check_status {
            let status = status(code)?;
            let body = Bytes::from_static(b"Internal Server Error");
            return Ok(answer::with_type(status, answer::PLAIN, body));
        }
        let verdict = match self.limiter.check(&request, faults).await {
            Err(_) if faults.fail_open => Verdict {
                allowed: true,
                current_count: 0,
                remaining: self.limiter.defaults().0.max(0),
                retry_after_seconds: 0,
            },
            verdict => verdict?,
        };
        self.metrics.count_check(verdict.allowed);
        let status = if verdict.allowed {
            StatusCode::OK
        } else {
            StatusCode::TOO_MANY_REQUESTS
        };
        Ok(answer::json(status, &verdict))
    }

    /// The lab's own switchboard, which a real node does not have. Not counted in the metrics.
    async fn lab_faults(&self, request: Request<Incoming>) -> Answer {
        if request.method() == Method::PUT {
            match read_json::<Faults>(request).await {
                Ok(faults) => drop(self.faults.send_replace(Arc::new(faults))),
                Err(why) => return answer::unprocessable(&why),
            }
        } else if request.method() != Method::GET {
            return answer::method_not_allowed("GET, PUT");
        }
        answer::json(StatusCode::OK, &**self.faults.borrow())
    }
}

/// What `/api/*` answers while it is broken on purpose.
fn broken_api(faults: &Faults) -> Option<Answer> {
    let body = faults.api_body.clone().map(Bytes::from);
    let code = faults.api_status.and_then(|code| status(code).ok());
    let status = code.unwrap_or(StatusCode::OK);
    let list = || Bytes::from_static(br#"{"nodes":[]}"#);
    if faults.api_endless {
        let beginning = || Bytes::from_static(br#"{"nodes":["#);
        return Some(answer::endless(status, body.unwrap_or_else(beginning)));
    }
    if faults.api_truncate {
        return Some(answer::truncated(status, &body.unwrap_or_else(list)));
    }
    if let Some(body) = body {
        return Some(answer::with_type(status, answer::JSON, body));
    }
    let reason = code?.canonical_reason().unwrap_or("Error");
    Some(answer::with_type(status, answer::PLAIN, reason.into()))
}

fn status(code: u16) -> anyhow::Result<StatusCode> {
    Ok(StatusCode::from_u16(code)?)
}

async fn pause(milliseconds: u64) {
    if milliseconds > 0 {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
}

async fn read_json<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, String> {
    let body = Limited::new(request.into_body(), MAX_BODY);
    let body = body.collect().await.map_err(|error| error.to_string())?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())
}

/// Counts a request when it ends, however it ends.
struct Timer<'a> {
    metrics: &'a Metrics,
    method: Method,
    handler: &'static str,
    counts_check: bool,
    started: Instant,
    status: Option<u16>,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        if self.counts_check {
            self.metrics.observe_check(elapsed);
        }
        self.metrics
            .observe_request(self.handler, &self.method, self.status, elapsed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_and_slashes_lead_nowhere() {
        let reset = |key: &str| Route::Reset(key.to_owned());
        assert_eq!(Route::of("/api/counters/a%20key/reset"), reset("a key"));
        assert_eq!(
            Route::of("/api/counters/%F0%9F%94%A5key/reset"),
            reset("🔥key")
        );
        assert_eq!(Route::of("/api/counters/a%252Fb/reset"), reset("a%2Fb"));
        assert_eq!(Route::of("/api/counters/a%2Fb/reset"), Route::Unknown);
        assert_eq!(Route::of("/api/counters/a/b/reset"), Route::Unknown);
        assert_eq!(Route::of("/api/counters//reset"), Route::Unknown);
        assert_eq!(
            Route::of("/api/limits/user%3A1"),
            Route::SetLimit("user:1".to_owned())
        );
        assert_eq!(Route::of("/api/limits/a%2Fb"), Route::Unknown);
    }

    #[test]
    fn a_trailing_slash_redirects_to_what_is_there() {
        let redirect = |path: &str| Route::Redirect(path.to_owned());
        assert_eq!(Route::of("/api/nodes/"), redirect("/api/nodes"));
        assert_eq!(Route::of("/api/limits/"), redirect("/api/limits"));
        assert_eq!(Route::of("/nope/"), Route::Unknown);
        assert_eq!(Route::of("/"), Route::Unknown);
        assert_eq!(Route::of("/api/nodes//"), Route::Unknown);
    }

    #[test]
    fn the_broken_api_is_off_by_default() {
        assert!(broken_api(&Faults::default()).is_none());
        let failing = Faults {
            api_status: Some(500),
            ..Faults::default()
        };
        let answer = broken_api(&failing).unwrap();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
