//! `/probe?target=NAME`: the metrics of one configured limiter, for Prometheus' multi-target pattern. Only names are taken:
//! whoever could name a URL here would be sent the credentials for it, or have the exporter ask where they cannot.

use std::sync::Arc;

use hyper::{HeaderMap, StatusCode};
use tokio::time::Instant;
use url::form_urlencoded;

use super::routes::{Answer, App, exposition, text};
use crate::collect::Collect;
use crate::export::render_target;
use crate::subject::Subject;

impl<S: Subject + 'static> App<S> {
    /// Answers `/probe`.
    pub(super) async fn probe(&self, query: Option<&str>, headers: &HeaderMap) -> Answer {
        let target = match self.target(query.unwrap_or_default()) {
            Ok(target) => target,
            Err((status, message)) => return text(status, &message),
        };
        let deadline = Instant::now() + self.time_for(headers);
        match target.snapshot(deadline).await {
            Some(snapshot) => exposition(render_target(&snapshot), headers),
            None => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the collection failed, or is stuck\n",
            ),
        }
    }

    /// The target that the query names.
    fn target(&self, query: &str) -> Result<&Arc<Collect<S>>, (StatusCode, String)> {
        let known = || self.targets.keys().cloned().collect::<Vec<_>>().join(", ");
        let mut names = form_urlencoded::parse(query.as_bytes())
            .filter_map(|(name, value)| (name == "target").then_some(value));
        let (Some(name), None) = (names.next(), names.next()) else {
            let message = format!("expected one ?target=NAME, with one of: {}\n", known());
            return Err((StatusCode::BAD_REQUEST, message));
        };
        if let Some(target) = self.targets.get(&*name) {
            return Ok(target);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if !name.chars().all(plain) {
            // Not repeated: it may hold a password.
            let message = format!(
                "target is the name of a limiter in the configuration, not its URL, which would hand credentials to \
                 whoever asks; expected one of: {}\n",
                known()
            );
            return Err((StatusCode::BAD_REQUEST, message));
        }
        let message = format!("no target called {name}; expected one of: {}\n", known());
        Err((StatusCode::NOT_FOUND, message))
    }
}
