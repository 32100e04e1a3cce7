//! What each path answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderMap, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, StatusCode};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::admin::Admin;
use super::answer::{HttpResponse, Refusal, exposition, html, json, refused, text, with_header};
use super::api::{self, Findings};
use super::caller::{Caller, own_site};
use super::guard::Guard;
use super::page::{self, Page};
use super::target::{Named, named, not_one};
use crate::clock::Clock;
use crate::collect::Collect;
use crate::export::{Exporter, Reload, render, render_target};
use crate::snapshot::Snapshot;
use crate::subject::DEFAULT_TARGET;
use crate::subject::{ActionDefinition, InvariantChecker, Subject};

/// How long a scrape may take if the client does not say: Prometheus's default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

const ACTIONS: &str = "/api/v1/actions/";
const RELOAD: &str = "/-/reload";

/// The paths that are read, beside that of the metrics.
const READ: [&str; 7] = [
    "/",
    "/probe",
    "/-/healthy",
    "/-/ready",
    "/api/v1/violations",
    "/api/v1/observation",
    "/api/v1/actions",
];

/// Where the outcome of a reload is sent to the client that asked for it. An error says what is wrong with the configuration.
pub type ReloadRequest = oneshot::Sender<Result<(), String>>;

/// What one configuration serves.
#[derive(Debug)]
pub struct App<S, C> {
    /// The collections of each target by its name, with the default one.
    pub targets: BTreeMap<String, Arc<Collect<S, C>>>,
    /// The path of the exporter's metrics.
    pub telemetry_path: String,
    /// How much earlier than the client's timeout an answer is due.
    pub timeout_offset: Duration,
    /// The actions that exist.
    pub actions: Vec<ActionDefinition>,
    /// `None` unless the admin API is on.
    pub admin: Option<Admin>,
    /// The URL of the runbooks, for links of the page.
    pub runbook_url: Option<String>,
    /// The clock, for the page.
    pub clock: Clock,
    /// The terms on which clients are served, and how many logins were refused.
    pub guard: Arc<Guard>,
    /// The result of the last reload.
    pub reload: watch::Receiver<Reload>,
    /// `None` unless reloads over HTTP are on.
    pub ask_to_reload: Option<mpsc::Sender<ReloadRequest>>,
    /// Cancelled when the shutdown begins.
    pub ending: CancellationToken,
}

impl<S: Subject + 'static, C: InvariantChecker + 'static> App<S, C> {
    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>, caller: &Caller) -> HttpResponse {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let action = path.strip_prefix(ACTIONS);
        let action = action.and_then(|name| self.actions.iter().find(|it| it.name == name));
        let (methods, allow) = if action.is_some() || path == RELOAD {
            (&[Method::POST][..], "POST")
        } else if READ.contains(&path) || path == self.telemetry_path {
            (&[Method::GET, Method::HEAD][..], "GET, HEAD")
        } else {
            return refused(path, &(StatusCode::NOT_FOUND, "not found".to_owned()));
        };
        if !methods.contains(&parts.method) {
            let message = format!("allowed here: {allow}");
            let answer = refused(path, &(StatusCode::METHOD_NOT_ALLOWED, message));
            return with_header(answer, ALLOW, allow);
        }
        let answer = match (path, action) {
            (_, Some(action)) => match &self.admin {
                Some(admin) => admin.act(action, &parts.headers, body, caller).await,
                None => Err((
                    StatusCode::FORBIDDEN,
                    "actions need --web.enable-admin-api".to_owned(),
                )),
            },
            (RELOAD, None) => self.reload(&parts.headers, caller).await,
            (_, None) => self.get(path, parts.uri.query(), &parts.headers).await,
        };
        answer.unwrap_or_else(|refusal| refused(path, &refusal))
    }

    async fn get(
        &self,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<HttpResponse, Refusal> {
        Ok(match path {
            "/" => self.page(query)?,
            "/probe" => {
                named(&self.targets, query)?.ok_or_else(|| not_one(&self.targets))?;
                let snapshot = self.snapshot(query, headers).await?;
                exposition(render_target(&snapshot), headers)?
            }
            "/-/healthy" => self.healthy()?,
            "/-/ready" => self.ready()?,
            "/api/v1/actions" => json(StatusCode::OK, &self.actions),
            "/api/v1/violations" => {
                let snapshot = self.snapshot(query, headers).await?;
                match api::subject(query) {
                    Some(subject) => json(StatusCode::OK, &api::explained(&snapshot, &subject)),
                    None => json(StatusCode::OK, &Findings::from(&*snapshot)),
                }
            }
            "/api/v1/observation" => {
                let snapshot = self.snapshot(query, headers).await?;
                json(StatusCode::OK, &snapshot.observation)
            }
            _ => {
                if let Some((name, _)) = named(&self.targets, query)? {
                    // Otherwise the default target's metrics would look like another's.
                    let message = format!("the metrics of one target are at /probe?target={name}");
                    return Err((StatusCode::BAD_REQUEST, message));
                }
                let snapshot = self.snapshot(None, headers).await?;
                exposition(render(&snapshot, self.itself()), headers)?
            }
        })
    }

    /// The page for people, with the headers that restrict what it may load.
    fn page(&self, query: Option<&str>) -> Result<HttpResponse, Refusal> {
        let (target, collect) = self.about(query)?;
        let targets = self.targets.iter();
        let answer = html(page::render(&Page {
            target,
            snapshot: collect.last().as_deref(),
            targets: targets.map(|(name, it)| (&**name, it.last())).collect(),
            telemetry_path: &self.telemetry_path,
            runbook_url: self.runbook_url.as_deref(),
            now: self.clock.now().wall,
        }));
        // Base64 and plain words: always a header value.
        let answer = with_header(
            answer,
            CONTENT_SECURITY_POLICY,
            page::content_security_policy(),
        );
        let answer = with_header(answer, CACHE_CONTROL, "no-store");
        let answer = with_header(answer, X_CONTENT_TYPE_OPTIONS, "nosniff");
        Ok(with_header(answer, REFERRER_POLICY, "no-referrer"))
    }

    /// The target that the query names, else the default one.
    fn about(&self, query: Option<&str>) -> Result<Named<'_, Arc<Collect<S, C>>>, Refusal> {
        let named = named(&self.targets, query)?;
        // Every configuration has it.
        Ok(named.unwrap_or_else(|| (DEFAULT_TARGET, &self.targets[DEFAULT_TARGET])))
    }

    /// A collection of the target that the query names.
    async fn snapshot(
        &self,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Arc<Snapshot>, Refusal> {
        let (_, collect) = self.about(query)?;
        let snapshot = collect.snapshot(Instant::now() + self.time_for(headers));
        snapshot.await.ok_or_else(|| {
            let message = "the collection failed, or is stuck".to_owned();
            (StatusCode::INTERNAL_SERVER_ERROR, message)
        })
    }

    /// How long a collection for this client may take.
    fn time_for(&self, headers: &HeaderMap) -> Duration {
        let timeout = headers
            .get("x-prometheus-scrape-timeout-seconds")
            .and_then(|value| value.to_str().ok()?.parse::<f64>().ok())
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .filter(|timeout| !timeout.is_zero() && *timeout < Duration::from_secs(3600))
            .unwrap_or(DEFAULT_TIMEOUT);
        // A large offset must leave some time.
        let early = timeout.saturating_sub(self.timeout_offset);
        early.max(timeout / 2)
    }

    /// What the exporter reports about itself.
    fn itself(&self) -> Exporter {
        let mut reload = *self.reload.borrow();
        // The web configuration file counts, too, although it needs no reload.
        reload.ok &= self.guard.is_up_to_date();
        Exporter {
            reload,
            unauthorized: self.guard.unauthorized(),
        }
    }

    /// 200, unless a collection is stuck: it does not recover by itself, so the process should be restarted.
    fn healthy(&self) -> Result<HttpResponse, Refusal> {
        let now = Instant::now();
        for (name, target) in &self.targets {
            if let Some(overdue) = target.overdue(now) {
                return Err(unavailable(format!(
                    "stuck: a collection of the target {name} is overdue by {overdue:.0?}"
                )));
            }
        }
        Ok(text(StatusCode::OK, "healthy\n"))
    }

    fn ready(&self) -> Result<HttpResponse, Refusal> {
        if self.ending.is_cancelled() {
            return Err(unavailable("not ready: stopping".to_owned()));
        }
        let (_, collect) = self.about(None)?;
        if collect.last().is_some() {
            return Ok(text(StatusCode::OK, "ready\n"));
        }
        // Kubernetes sends no scrape before this is ready, and without a scrape there would be no collection.
        collect.start(Instant::now() + DEFAULT_TIMEOUT);
        let message = "not ready: no collection has finished yet".to_owned();
        Err(unavailable(message))
    }

    async fn reload(&self, headers: &HeaderMap, caller: &Caller) -> Result<HttpResponse, Refusal> {
        let Some(ask) = &self.ask_to_reload else {
            let message = "reloading over HTTP needs --web.enable-lifecycle; SIGHUP always works";
            return Err((StatusCode::FORBIDDEN, message.to_owned()));
        };
        own_site(headers, caller.is_known())?;
        let (request, outcome) = oneshot::channel();
        // The other side is gone only when the exporter ends. Then there is no outcome either.
        let _ = ask.send(request).await;
        let stopping = || Err("the exporter is stopping".to_owned());
        outcome
            .await
            .unwrap_or_else(|_| stopping())
            .map_err(|why| {
                let message = format!("not reloaded: {why}");
                (StatusCode::INTERNAL_SERVER_ERROR, message)
            })?;
        Ok(text(StatusCode::OK, "reloaded\n"))
    }
}

fn unavailable(message: String) -> Refusal {
    (StatusCode::SERVICE_UNAVAILABLE, message)
}
