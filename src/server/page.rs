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

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

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
    /// The last collection, if there was one.
    pub(super) snapshot: Option<&'a Snapshot>,
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

/// The document.
pub(super) fn render(page: &Page<'_>) -> String {
    let verdict = Verdict::of(page.snapshot, page.now);
    let (class, sign, word) = look(verdict.standing);
    let mut out = String::with_capacity(32 * 1024);
    put!(
        out,
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><link rel=\"icon\" href=\"data:,\">\
         <noscript><meta http-equiv=\"refresh\" content=\"15\"></noscript>\
         <title>{sign} {word} · rate limiter</title><style>{STYLE}</style></head><body>\
         <nav><b>ratelimiter-exporter</b> {version} <a href=\"{metrics}\">metrics</a> \
         <span>JSON: <a href=\"api/v1/violations\">violations</a> · \
         <a href=\"api/v1/observation\">observation</a> · <a href=\"api/v1/actions\">actions</a></span></nav>\
         <p id=\"lost\" role=\"alert\" hidden></p>\
         <main><header id=\"verdict\" class=\"{class}\"><h1><i aria-hidden=\"true\">{sign}</i> {line}</h1><p>{below}</p>\
         </header>",
        version = env!("CARGO_PKG_VERSION"),
        metrics = Link(page.telemetry_path.trim_start_matches('/')),
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
