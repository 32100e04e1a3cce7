//! Which path answers what. Every answer has a proper Content-Type: Prometheus 3 refuses a scrape without.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, HeaderMap, HeaderValue, REFERRER_POLICY, RETRY_AFTER, VARY, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::admin::{Admin, own_site};
use super::api::{self, Standing};
use super::connection::Caller;
use super::guard::Guard;
use super::page::{self, Page};
use super::target::NoTarget;
use crate::clock::Clock;
use crate::collect::Collect;
use crate::export::{Exporter, Reload, render};
use crate::snapshot::Snapshot;
use crate::subject::{ActionDefinition, Subject};

/// What a scrape may take if the client does not say: Prometheus's own default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) type Answer = Response<Full<Bytes>>;
type ActionFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// How the configuration is read anew, when that is allowed over HTTP: an error says what is wrong with it.
pub type ReloadNow = Box<dyn Fn() -> ActionFuture + Send + Sync>;

/// What is served, as of one configuration.
pub struct App<S> {
    /// Runs the collections of the default target.
    pub collect: Arc<Collect<S>>,
    /// Those of every target by name, the default one among them.
    pub targets: BTreeMap<String, Arc<Collect<S>>>,
    /// The path of the metrics.
    pub telemetry_path: String,
    /// Taken off the client's timeout.
    pub timeout_offset: Duration,
    /// The actions there are.
    pub actions: &'static [ActionDefinition],
    /// `None` unless the admin API is on.
    pub admin: Option<Admin>,
    /// Where the runbooks are, for the page's links.
    pub runbook_url: Option<String>,
    /// The time, for the page.
    pub clock: Clock,
    /// Tells how often somebody was not let in.
    pub guard: Guard,
    /// How loading the configuration went last.
    pub reload: watch::Receiver<Reload>,
    /// `None` unless the configuration may be read anew over HTTP.
    pub reload_now: Option<ReloadNow>,
    /// Cancelled once the end was asked for.
    pub ending: CancellationToken,
}

impl<S> fmt::Debug for App<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("telemetry_path", &self.telemetry_path)
            .finish_non_exhaustive()
    }
}

impl<S: Subject + 'static> App<S> {
    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>, caller: &Caller) -> Answer {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let read = matches!(parts.method, Method::GET | Method::HEAD);
        let known_get = path == self.telemetry_path
            || matches!(
                path,
                "/" | "/probe"
                    | "/-/healthy"
                    | "/-/ready"
                    | "/api/v1/violations"
                    | "/api/v1/observation"
                    | "/api/v1/actions"
            );
        if path == "/api/v1/actions/reset_counter" {
            if parts.method == Method::POST {
                self.reset(&parts.headers, body, caller).await
            } else {
                not_allowed("POST")
            }
        } else if path == "/-/reload" {
            if parts.method == Method::POST {
                self.reload(&parts.headers, caller).await
            } else {
                not_allowed("POST")
            }
        } else if known_get && !read {
            not_allowed("GET, HEAD")
        } else if known_get {
            let answer = self.get(path, parts.uri.query(), &parts.headers).await;
            answer.unwrap_or_else(|(status, message)| {
                if path.starts_with("/api/") {
                    error(status, &message)
                } else {
                    text(status, &format!("{message}\n"))
                }
            })
        } else {
            text(StatusCode::NOT_FOUND, "not found\n")
        }
    }

    async fn get(
        &self,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Answer, NoTarget> {
        Ok(match path {
            "/probe" => self.probe(query, headers).await?,
            "/-/healthy" => self.healthy(),
            "/-/ready" if self.ending.is_cancelled() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "not ready: stopping\n")
            }
            "/-/ready" if self.collect.last().is_some() => text(StatusCode::OK, "ready\n"),
            "/-/ready" => {
                // Where only what is ready gets scraped, the first collection would wait for itself for ever.
                self.collect.start(Instant::now() + DEFAULT_TIMEOUT);
                text(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "not ready: no collection has finished yet\n",
                )
            }
            "/api/v1/actions" => json(StatusCode::OK, &self.actions),
            "/" => {
                let (limiter, collect) = self.about(query)?;
                let targets = self.targets.iter();
                page(&Page {
                    limiter,
                    snapshot: collect.last().as_deref(),
                    limiters: targets.map(|(name, it)| (&**name, it.last())).collect(),
                    telemetry_path: &self.telemetry_path,
                    runbook_url: self.runbook_url.as_deref(),
                    now: self.clock.now().wall,
                })
            }
            "/api/v1/violations" => {
                let snapshot = self.snapshot(query, headers).await?;
                match api::subject(query) {
                    Some(subject) => json(StatusCode::OK, &api::explained(&snapshot, &subject)),
                    None => json(StatusCode::OK, &Standing::from(&*snapshot)),
                }
            }
            "/api/v1/observation" => {
                let snapshot = self.snapshot(query, headers).await?;
                json(StatusCode::OK, &snapshot.observation)
            }
            _ => {
                if let Some((name, _)) = self.named(query)? {
                    // Else the default limiter's metrics would be taken for another's.
                    let message = format!("the metrics of one target are at /probe?target={name}");
                    return Err((StatusCode::BAD_REQUEST, message));
                }
                let snapshot = self.snapshot(None, headers).await?;
                exposition(render(&snapshot, self.itself()), headers)
            }
        })
    }

    /// A collection of the limiter that the query names.
    pub(super) async fn snapshot(
        &self,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Arc<Snapshot>, NoTarget> {
        let (_, collect) = self.about(query)?;
        let snapshot = collect.snapshot(Instant::now() + self.time_for(headers));
        snapshot.await.ok_or_else(|| {
            let message = "the collection failed, or is stuck".to_owned();
            (StatusCode::INTERNAL_SERVER_ERROR, message)
        })
    }

    /// What the exporter tells of itself at this moment.
    fn itself(&self) -> Exporter {
        let mut reload = *self.reload.borrow();
        // The file with TLS and users is configuration, too, although it is read again without being asked for.
        reload.ok &= self.guard.is_up_to_date();
        Exporter {
            reload,
            unauthorized: self.guard.unauthorized(),
        }
    }

    /// Alive, and worth being kept alive: a collection that is stuck does not come loose by itself.
    fn healthy(&self) -> Answer {
        let now = Instant::now();
        let stuck = self.targets.iter().find_map(|(name, target)| {
            let overdue = target.overdue(now)?;
            Some(format!(
                "stuck: a collection of the target {name} is overdue by {overdue:.0?}\n"
            ))
        });
        match stuck {
            None => text(StatusCode::OK, "healthy\n"),
            Some(message) => text(StatusCode::SERVICE_UNAVAILABLE, &message),
        }
    }

    async fn reload(&self, headers: &HeaderMap, caller: &Caller) -> Answer {
        let Some(reload_now) = &self.reload_now else {
            let message = "reloading over HTTP needs --web.enable-lifecycle; SIGHUP always works\n";
            return text(StatusCode::FORBIDDEN, message);
        };
        if let Err((status, message)) = own_site(headers, caller.is_known()) {
            return text(status, &format!("{message}\n"));
        }
        match reload_now().await {
            Ok(()) => text(StatusCode::OK, "reloaded\n"),
            Err(message) => {
                let message = format!("not reloaded: {message}\n");
                text(StatusCode::INTERNAL_SERVER_ERROR, &message)
            }
        }
    }

    /// How long a collection for this client may take.
    pub(super) fn time_for(&self, headers: &HeaderMap) -> Duration {
        let told = headers
            .get("x-prometheus-scrape-timeout-seconds")
            .and_then(|value| value.to_str().ok()?.parse::<f64>().ok())
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .filter(|told| !told.is_zero() && *told < Duration::from_secs(3600))
            .unwrap_or(DEFAULT_TIMEOUT);
        // An offset that leaves nothing is worse than one that is too small.
        told.saturating_sub(self.timeout_offset).max(told / 2)
    }

    async fn reset(&self, headers: &HeaderMap, body: Incoming, caller: &Caller) -> Answer {
        let Some(admin) = &self.admin else {
            return error(StatusCode::FORBIDDEN, "actions need --web.enable-admin-api");
        };
        admin.reset_counter(headers, body, caller).await
    }
}

/// Rendered metrics as an answer, packed if the client takes that.
pub(super) fn exposition(
    rendered: Result<Vec<u8>, prometheus::Error>,
    headers: &HeaderMap,
) -> Answer {
    let gzip = accepts_gzip(headers);
    let body = rendered.map_err(|error| error.to_string());
    let body = body.and_then(|body| {
        if gzip {
            compress(&body).map_err(|error| error.to_string())
        } else {
            Ok(body)
        }
    });
    match body {
        Ok(body) => {
            let mut answer = with_type(StatusCode::OK, METRICS, body);
            let vary = HeaderValue::from_static("accept-encoding");
            answer.headers_mut().insert(VARY, vary);
            if gzip {
                let gzip = HeaderValue::from_static("gzip");
                answer.headers_mut().insert(CONTENT_ENCODING, gzip);
            }
            answer
        }
        Err(error) => {
            tracing::error!("cannot encode the metrics: {error}");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "cannot encode the metrics\n",
            )
        }
    }
}

/// Whether the client takes gzip: named, or any, and not with a quality of zero.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter();
    let codings = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    codings.into_iter().any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = matches!(parts.next(), Some("gzip" | "x-gzip" | "*"));
        let refused = parts.any(|part| {
            let quality = part.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok());
            quality.is_some_and(|quality| quality <= 0.0)
        });
        named && !refused
    })
}

fn compress(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

fn with_type(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let content_type = HeaderValue::from_static(content_type);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

/// The page for people, and what its browser may do with it.
fn page(page: &Page<'_>) -> Answer {
    let mut answer = with_type(StatusCode::OK, HTML, page::render(page).into_bytes());
    let headers = answer.headers_mut();
    // Base64 and plain words: always a header value.
    if let Ok(policy) = HeaderValue::from_str(&page::content_security_policy()) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    answer
}

pub(super) fn text(status: StatusCode, body: &str) -> Answer {
    with_type(status, TEXT, body.as_bytes().to_vec())
}

pub(super) fn json(status: StatusCode, value: &impl serde::Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => with_type(status, JSON, body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

pub(super) fn error(status: StatusCode, message: &str) -> Answer {
    json(status, &serde_json::json!({"error": message}))
}

/// For who is not known: browsers ask for user and password then. The connection ends, so that a stranger holds one for no
/// longer than one answer.
pub(super) fn unauthorized() -> Answer {
    let mut answer = text(StatusCode::UNAUTHORIZED, "unauthorized\n");
    let challenge = HeaderValue::from_static("Basic realm=\"ratelimiter-exporter\"");
    let headers = answer.headers_mut();
    headers.insert(WWW_AUTHENTICATE, challenge);
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// For who waits with too many credentials at once to have them verified. The next try may do, which is soon.
pub(super) fn too_many_logins() -> Answer {
    let mut answer = text(
        StatusCode::TOO_MANY_REQUESTS,
        "too many logins at once from this address\n",
    );
    let headers = answer.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn not_allowed(allow: &'static str) -> Answer {
    let mut answer = text(
        StatusCode::METHOD_NOT_ALLOWED,
        &format!("allowed here: {allow}\n"),
    );
    answer
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allow));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_when_it_is_asked_for() {
        for (value, expected) in [
            ("gzip", true),
            ("deflate, gzip;q=0.5", true),
            ("*", true),
            ("gzip;q=0", false),
            ("br", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(value));
            assert_eq!(accepts_gzip(&headers), expected, "{value}");
        }
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
