//! The page for people at `/`: what is violated, what could not be evaluated, and what to do about that. It shows the last
//! finished collection and never starts one, so it costs the limiter nothing.
//!
//! The page is one document, made anew for each request. Without JavaScript it reloads itself. With JavaScript, a short script
//! fetches the page and replaces the sections that changed, so that the reader keeps his place.

mod advice;
mod format;
mod headline;
mod tables;
mod violations;

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use maud::{Markup, PreEscaped, html};
use once_cell::sync::OnceCell;
use sha2::{Digest as _, Sha256};

use crate::snapshot::Snapshot;
use crate::subject::DEFAULT_TARGET;
use headline::{Headline, look};

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// The data of the page.
#[derive(Debug)]
pub(super) struct Page<'a> {
    /// The name of the target that the page shows.
    pub(super) target: &'a str,
    /// The last collection of that target.
    pub(super) snapshot: Option<&'a Snapshot>,
    /// The names of all targets, with their last collections.
    pub(super) targets: Vec<(&'a str, Option<Arc<Snapshot>>)>,
    /// The path of the metrics.
    pub(super) telemetry_path: &'a str,
    /// The URL of the runbooks; without it, the page shows their names.
    pub(super) runbook_url: Option<&'a str>,
    /// The present time.
    pub(super) now: Timestamp,
}

/// What a browser may load for the page: the page's own style and script, and answers of this server. It runs no script that
/// gets past the escaping.
pub(super) fn content_security_policy() -> &'static str {
    static POLICY: OnceCell<String> = OnceCell::new();
    POLICY.get_or_init(|| {
        let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
        format!(
            "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            hash(STYLE),
            hash(SCRIPT)
        )
    })
}

/// The query that chooses a target: none for the default one.
fn query_of(target: &str) -> String {
    if target == DEFAULT_TARGET {
        String::new()
    } else {
        format!("?target={target}")
    }
}

/// The targets with their states.
fn targets(page: &Page<'_>) -> Markup {
    html! {
        nav id="limiters" aria-label="limiters" {
            @for (name, snapshot) in &page.targets {
                @let (class, sign, word) = look(Headline::of(snapshot.as_deref(), page.now).overall);
                @let current = (*name == page.target).then_some("page");
                a id={ "limiter-" (name) } href={ "./" (query_of(name)) } aria-current=[current] {
                    i class=(class) aria-hidden="true" { (sign) } " " (name) span class="hidden" { ": " (word) }
                }
            }
        }
    }
}

/// The document.
pub(super) fn render(page: &Page<'_>) -> String {
    let headline = Headline::of(page.snapshot, page.now);
    let (class, sign, word) = look(headline.overall);
    let several = page.targets.len() > 1;
    let about = if several { page.target } else { "rate limiter" };
    let query = query_of(page.target);
    let metrics = if query.is_empty() {
        page.telemetry_path.trim_start_matches('/').to_owned()
    } else {
        format!("probe{query}")
    };
    let document = html! {
        (PreEscaped("<!doctype html>"))
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                link rel="icon" href="data:,";
                noscript { meta http-equiv="refresh" content="15"; }
                title { (sign) " " (word) " · " (about) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                nav {
                    b { "ratelimiter-exporter" } " " (env!("CARGO_PKG_VERSION")) " "
                    a href=(metrics) { "metrics" } " "
                    span {
                        "JSON: " a href={ "api/v1/violations" (query) } { "violations" }
                        " · " a href={ "api/v1/observation" (query) } { "observation" }
                        " · " a href="api/v1/actions" { "actions" }
                    }
                }
                p id="lost" role="alert" hidden {}
                main {
                    @if several { (targets(page)) }
                    header id="verdict" class=(class) {
                        h1 { i aria-hidden="true" { (sign) } " " (headline.line) }
                        p { (headline.below) }
                    }
                    @if let Some(snapshot) = page.snapshot {
                        (violations::violations(page, snapshot))
                        (violations::unknown(snapshot))
                        (tables::unread(snapshot))
                        (tables::nodes(snapshot))
                        (tables::keys(snapshot))
                        (tables::redis(page.now, snapshot))
                        (tables::invariants(snapshot))
                        (tables::sources(snapshot))
                    }
                }
                script { (PreEscaped(SCRIPT)) }
            }
        }
        "\n"
    };
    document.into_string()
}

#[cfg(test)]
mod tests;
