//! The admin API: who may use it, and what it leaves in the log.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use serde::Deserialize;

use super::answer::{Answer, Refusal, json};
use super::caller::{Caller, own_site};
use super::target::find;
use crate::config::DEFAULT_TARGET;
use crate::observation::KeyLabel;
use crate::subject::ActionError;

/// The largest request body: an action with a long key.
const MOST_BODY: usize = 64 * 1024;

type ResetFuture = Pin<Box<dyn Future<Output = Result<(), ActionError>> + Send>>;

/// How a counter is reset.
pub type ResetCounter = Box<dyn Fn(String) -> ResetFuture + Send + Sync>;

/// A limiter whose counters can be reset.
pub struct Resettable {
    /// What does it.
    pub reset: ResetCounter,
    /// How its keys are shown in the log.
    pub key_label: KeyLabel,
}

/// The actions over HTTP.
#[derive(Debug)]
pub struct Admin {
    /// The limiters by name, the default one among them.
    pub limiters: BTreeMap<String, Resettable>,
    /// How long a body may take to arrive.
    pub read_timeout: Duration,
    /// Whether callers who are not known may use it.
    pub anybody: bool,
}

impl fmt::Debug for Resettable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resettable").finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResetRequest {
    key: String,
    #[serde(default = "default_target")]
    target: String,
}

fn default_target() -> String {
    DEFAULT_TARGET.to_owned()
}

impl Admin {
    /// `POST /api/v1/actions/reset_counter`.
    pub(super) async fn reset_counter(
        &self,
        headers: &HeaderMap,
        body: Incoming,
        caller: &Caller,
    ) -> Result<Answer, Refusal> {
        self.admits(caller.is_known(), headers)
            .inspect_err(|(_, message)| {
                tracing::warn!(action = "reset_counter", %caller, outcome = "refused", "{message}");
            })?;
        let request = self.read(body).await;
        let found = request.and_then(|request| {
            let (target, limiter) = find(&self.limiters, &request.target)?;
            Ok((request.key, target, limiter))
        });
        // Without the message, which may repeat the key as it is.
        let (key, target, limiter) = found.inspect_err(|_| {
            tracing::info!(action = "reset_counter", %caller, outcome = "refused", "unusable request");
        })?;
        let shown = limiter.key_label.of(key.as_bytes());
        if let Err(failure) = (limiter.reset)(key.clone()).await {
            let reason = failure.reason.name();
            tracing::warn!(
                action = "reset_counter", key = shown, limiter = target, %caller, outcome = "failed", reason
            );
            return Err((StatusCode::BAD_GATEWAY, failure.message));
        }
        tracing::info!(action = "reset_counter", key = shown, limiter = target, %caller, outcome = "accepted");
        let accepted = serde_json::json!({
            "action": "reset_counter", "key": key, "target": target, "accepted": true
        });
        Ok(json(StatusCode::ACCEPTED, &accepted))
    }

    /// That callers are known is checked at the start, too. It is checked again here, because what is true of one
    /// configuration need not be of the next.
    fn admits(&self, known: bool, headers: &HeaderMap) -> Result<(), Refusal> {
        if !known && !self.anybody {
            let message = "actions need a login, or --web.admin-api-insecure";
            return Err((StatusCode::FORBIDDEN, message.to_owned()));
        }
        own_site(headers, known)?;
        // A form cannot send this type, and a script of another site not without asking, which is not answered.
        let value = headers
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let essence = value.and_then(|value| value.split(';').next());
        if essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json")) {
            return Ok(());
        }
        let message = "expected the content type application/json";
        Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, message.to_owned()))
    }

    async fn read(&self, body: Incoming) -> Result<ResetRequest, Refusal> {
        let body = Limited::new(body, MOST_BODY).collect();
        let body = match tokio::time::timeout(self.read_timeout, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(cause)) if cause.is::<LengthLimitError>() => {
                let message = format!("body: expected at most {MOST_BODY} bytes");
                return Err((StatusCode::PAYLOAD_TOO_LARGE, message));
            }
            Ok(Err(cause)) => return Err((StatusCode::BAD_REQUEST, format!("body: {cause}"))),
            Err(_) => {
                let message = format!("body: not there within {:?}", self.read_timeout);
                return Err((StatusCode::REQUEST_TIMEOUT, message));
            }
        };
        serde_json::from_slice(&body).map_err(|cause| {
            let message = format!("body: {cause}; expected {{\"key\":\"…\"}}, and \"target\" where another limiter is meant");
            (StatusCode::BAD_REQUEST, message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(known: bool, anybody: bool, headers: &[(&'static str, &str)]) -> u16 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let admin = Admin {
            limiters: BTreeMap::new(),
            read_timeout: Duration::from_secs(1),
            anybody,
        };
        let refused = admin.admits(known, &map).err();
        refused.map_or(0, |(status, _)| status.as_u16())
    }

    #[test]
    fn what_a_form_can_send_is_refused() {
        let json = ("content-type", "Application/JSON; charset=utf-8");
        let form = ("content-type", "application/x-www-form-urlencoded");
        for (headers, expected) in [
            (vec![json], 0),
            (vec![json, ("sec-fetch-site", "cross-site")], 403),
            (vec![], 415),
            (vec![("content-type", "text/plain")], 415),
            (vec![form], 415),
        ] {
            assert_eq!(admits(true, false, &headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn strangers_are_refused_unless_everybody_is_admitted() {
        let json = ("content-type", "application/json");
        for (known, anybody, expected) in [
            (true, false, 0),
            (true, true, 0),
            (false, true, 0),
            (false, false, 403),
        ] {
            assert_eq!(admits(known, anybody, &[json]), expected);
        }
    }
}
