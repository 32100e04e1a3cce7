//! The admin API: it carries out actions for callers who may ask for them, and logs each attempt.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap};

use super::answer::{HttpResponse, Refusal, json};
use super::caller::{Caller, own_site};
use super::target::find;
use crate::subject::{ActionDefinition, Actor, DEFAULT_TARGET, Parameters};

/// The largest request body: room for an action with a long key.
const MOST_BODY: usize = 64 * 1024;

/// The actions over HTTP.
#[derive(Debug)]
pub struct Admin {
    /// The actor of each target by the target's name, with the default one.
    pub actors: BTreeMap<String, Arc<dyn Actor>>,
    /// How long a body may take to arrive.
    pub read_timeout: Duration,
    /// Whether it serves callers who did not log in.
    pub anybody: bool,
}

impl Admin {
    /// `POST /api/v1/actions/NAME`, for an action that exists.
    pub(super) async fn act(
        &self,
        action: &ActionDefinition,
        headers: &HeaderMap,
        body: Incoming,
        caller: &Caller,
    ) -> Result<HttpResponse, Refusal> {
        let name = action.name;
        self.admits(caller.is_known(), headers)
            .inspect_err(|(_, message)| {
                tracing::warn!(action = name, %caller, outcome = "refused", "{message}");
            })?;
        let request = self.read(action, body).await;
        let found = request.and_then(|(parameters, target)| {
            let (target, actor) = find(&self.actors, &target)?;
            Ok((parameters, target, actor))
        });
        // The message is not logged: it may repeat a parameter.
        let (mut parameters, target, actor) = found.inspect_err(|_| {
            tracing::info!(action = name, %caller, outcome = "refused", "unusable request");
        })?;
        let key = actor.about(&parameters);
        if let Err(failure) = actor.act(name, &parameters).await {
            let reason = failure.reason.name();
            tracing::warn!(action = name, key, limiter = target, %caller, outcome = "failed", reason);
            return Err((StatusCode::BAD_GATEWAY, failure.message));
        }
        tracing::info!(action = name, key, limiter = target, %caller, outcome = "accepted");
        parameters.extend([
            ("action".to_owned(), name.into()),
            (ActionDefinition::TARGET.to_owned(), target.into()),
            ("accepted".to_owned(), true.into()),
        ]);
        Ok(json(StatusCode::ACCEPTED, &parameters))
    }

    /// The start checks that callers log in. This checks it again, because a reload may have changed that.
    fn admits(&self, known: bool, headers: &HeaderMap) -> Result<(), Refusal> {
        if !known && !self.anybody {
            let message = "actions need a login, or --web.admin-api-insecure";
            return Err((StatusCode::FORBIDDEN, message.to_owned()));
        }
        own_site(headers, known)?;
        // A form cannot send this type. A script of another site must ask first, and the exporter does not answer that.
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

    /// The parameters of the action, and the name of its target.
    async fn read(
        &self,
        action: &ActionDefinition,
        body: Incoming,
    ) -> Result<(Parameters, String), Refusal> {
        let body = Limited::new(body, MOST_BODY).collect();
        let body = match tokio::time::timeout(self.read_timeout, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(cause)) if cause.is::<LengthLimitError>() => {
                let message = format!("body: expected at most {MOST_BODY} bytes");
                return Err((StatusCode::PAYLOAD_TOO_LARGE, message));
            }
            Ok(Err(cause)) => return Err((StatusCode::BAD_REQUEST, format!("body: {cause}"))),
            Err(_) => {
                let message = format!("body: expected within {:?}", self.read_timeout);
                return Err((StatusCode::REQUEST_TIMEOUT, message));
            }
        };
        let refused = |cause: String| (StatusCode::BAD_REQUEST, format!("body: {cause}"));
        let parameters = serde_json::from_slice::<Parameters>(&body);
        let mut parameters = parameters.map_err(|cause| {
            let known: Vec<&str> = action.parameters.keys().copied().collect();
            refused(format!(
                "{cause}; expected a JSON object with {}",
                known.join(", ")
            ))
        })?;
        action.check(&parameters).map_err(refused)?;
        let target = parameters.remove(ActionDefinition::TARGET);
        let target = target.as_ref().and_then(serde_json::Value::as_str);
        Ok((parameters, target.unwrap_or(DEFAULT_TARGET).to_owned()))
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
            actors: BTreeMap::new(),
            read_timeout: Duration::from_secs(1),
            anybody,
        };
        let refused = admin.admits(known, &map).err();
        refused.map_or(0, |(status, _)| status.as_u16())
    }

    #[test]
    fn requests_that_a_form_can_send_are_refused() {
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
    fn callers_without_a_login_are_refused_unless_anybody_may_act() {
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
