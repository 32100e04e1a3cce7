//! The page for people at `/`: what is violated, what could not be seen, and what to do about that. Shows the last
//! finished collection and never starts one: looking at it costs the limiter nothing.
//!
//! One document with everything in it, made anew for each request. It works without JavaScript, by reloading itself; with
//! it, a short script fetches the page and replaces the sections that changed, so that the reader's place is kept.

mod advice;
mod html;
mod tables;
mod verdict;
mod violations;

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::config::DEFAULT_TARGET;
use crate::snapshot::Snapshot;
use html::Link;
use verdict::{Verdict, look};

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Writes into a `String`, which cannot fail.
macro_rules! put {
    ($out:expr, $($text:tt)+) => {{
        use std::fmt::Write as _;
        let _ = write!($out, $($text)+);
    }};
}
use put;

/// What the page is made from.
#[derive(Debug)]
pub(super) struct Page<'a> {
    /// The limiter that it is about.
    pub(super) limiter: &'a str,
    /// Its last collection, if there was one.
    pub(super) snapshot: Option<&'a Snapshot>,
    /// All limiters by name, this one among them, and their last collections.
    pub(super) limiters: Vec<(&'a str, Option<Arc<Snapshot>>)>,
    /// The path of the metrics.
    pub(super) telemetry_path: &'a str,
    /// Where the runbooks are; without it, their names are shown.
    pub(super) runbook_url: Option<&'a str>,
    /// The present time.
    pub(super) now: Timestamp,
}

/// What a browser may do with the page: use its own style and script, and ask this server. Whatever gets past the escaping
/// is not run.
pub(super) fn content_security_policy() -> String {
    let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
}

impl Page<'_> {
    /// Whether the reader must be told which limiter it is about.
    fn is_one_of_several(&self) -> bool {
        self.limiters.len() > 1
    }

    /// The query that leads to this limiter: none to the default one.
    fn query(&self) -> String {
        query_of(self.limiter)
    }
}

/// Names of limiters hold nothing that would have to be escaped.
fn query_of(limiter: &str) -> String {
    if limiter == DEFAULT_TARGET {
        String::new()
    } else {
        format!("?target={limiter}")
    }
}

/// The limiters and how each stands.
fn limiters(out: &mut String, page: &Page<'_>) {
    put!(out, "<nav id=\"limiters\" aria-label=\"limiters\">");
    for (name, snapshot) in &page.limiters {
        let standing = Verdict::of(snapshot.as_deref(), page.now).standing;
        let (class, sign, word) = look(standing);
        let current = if *name == page.limiter {
            " aria-current=\"page\""
        } else {
            ""
        };
        put!(
            out,
            "<a id=\"limiter-{name}\" href=\"./{query}\"{current}><i class=\"{class}\" aria-hidden=\"true\">{sign}</i> \
             {name}<span class=\"hidden\">: {word}</span></a>",
            query = query_of(name),
        );
    }
    put!(out, "</nav>");
}

/// The document.
pub(super) fn render(page: &Page<'_>) -> String {
    let verdict = Verdict::of(page.snapshot, page.now);
    let (class, sign, word) = look(verdict.standing);
    let query = page.query();
    let (metrics, about) = if page.is_one_of_several() {
        let metrics = match page.limiter {
            DEFAULT_TARGET => page.telemetry_path.to_owned(),
            other => format!("probe?target={other}"),
        };
        (metrics, page.limiter)
    } else {
        (page.telemetry_path.to_owned(), "rate limiter")
    };
    let mut out = String::with_capacity(32 * 1024);
    put!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><link rel=\"icon\" href=\"data:,\">\
         <noscript><meta http-equiv=\"refresh\" content=\"15\"></noscript>\
         <title>{sign} {word} · {about}</title><style>{STYLE}</style></head><body>\
         <nav><b>ratelimiter-exporter</b> {version} <a href=\"{metrics}\">metrics</a> \
         <span>JSON: <a href=\"api/v1/violations{query}\">violations</a> · \
         <a href=\"api/v1/observation{query}\">observation</a> · <a href=\"api/v1/actions\">actions</a></span></nav>\
         <p id=\"lost\" role=\"alert\" hidden></p><main>",
        version = env!("CARGO_PKG_VERSION"),
        metrics = Link(metrics.trim_start_matches('/')),
    );
    if page.is_one_of_several() {
        limiters(&mut out, page);
    }
    put!(
        out,
        "<header id=\"verdict\" class=\"{class}\"><h1><i aria-hidden=\"true\">{sign}</i> {line}</h1><p>{below}</p>\
         </header>",
        line = verdict.line,
        below = verdict.below,
    );
    if let Some(snapshot) = page.snapshot {
        violations::reported(&mut out, page, snapshot);
        violations::pending(&mut out, page, snapshot);
        violations::unknown(&mut out, snapshot);
        tables::unread(&mut out, snapshot);
        tables::nodes(&mut out, snapshot);
        tables::keys(&mut out, snapshot);
        tables::redis(&mut out, page, snapshot);
        tables::invariants(&mut out, snapshot);
        tables::sources(&mut out, snapshot);
    }
    put!(out, "</main><script>{SCRIPT}</script></body></html>\n");
    out
}

#[cfg(test)]
mod tests;
