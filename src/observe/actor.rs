//! The limiter's actions, through its management API. There is no `update_limit` yet: not every limiter enforces stored
//! limits.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Url;
use serde_json::Value;

use crate::observation::{KeyLabel, Reason};
use crate::observe::http::access::HttpAccess;
use crate::observe::http::client::Http;
use crate::observe::http::management_api::ManagementApi;
use crate::subject::{
    Act, ActionDefinition, ActionError, Actor, Parameter, ParameterType, Parameters, Risk,
};

/// The action that empties a key's window.
pub const RESET_COUNTER: &str = "reset_counter";

/// The parameter of [`RESET_COUNTER`].
pub const KEY: &str = "key";

/// Acts on a limiter. Connects only when an action is called.
#[derive(Clone, Debug)]
pub struct LimiterActor {
    /// Base URLs of nodes. The first that accepts an action executes it. `None` for a kind of limiter without such an API.
    pub(in crate::observe) urls: Option<Vec<Url>>,
    pub(in crate::observe) access: HttpAccess,
    /// The timeout of one request.
    pub(in crate::observe) timeout: Duration,
    /// How keys are logged.
    pub(in crate::observe) key_label: KeyLabel,
}

impl LimiterActor {
    /// `POST /api/counters/KEY/reset` at the first of the configured URLs that accepts it.
    async fn reset_counter(&self, key: &str) -> Result<(), ActionError> {
        let failed = |message: String| ActionError {
            reason: Reason::Network,
            message,
        };
        let http = Http::new(self.timeout, self.access.clone()).map_err(failed)?;
        let Some(urls) = &self.urls else {
            let why = "this kind of limiter has no API that resets a counter";
            return Err(failed(format!("reset_counter: {why}")));
        };
        let mut last = failed("reset_counter: no --ratelimiter.url is configured".to_owned());
        for url in urls {
            match ManagementApi::new(&http, url.clone())
                .reset_counter(key)
                .await
            {
                Ok(()) => return Ok(()),
                Err(error) => {
                    last = ActionError {
                        reason: error.reason,
                        message: error.message,
                    };
                }
            }
        }
        Err(last)
    }
}

impl Actor for LimiterActor {
    fn actions(&self) -> Vec<ActionDefinition> {
        let key = Parameter {
            kind: ParameterType::String,
            description: "The rate limit key, as the limiter's callers name it.",
            required: true,
        };
        vec![ActionDefinition {
            name: RESET_COUNTER,
            description: "Deletes the counter of a key through the management API, so that its window starts empty. \
                          Fire and forget: it does not verify that the counter was cleared.",
            parameters: BTreeMap::from([(KEY, key)]),
            risk_level: Risk::Low,
            requires_approval: false,
        }]
    }

    fn about(&self, parameters: &Parameters) -> String {
        let key = parameters.get(KEY).and_then(Value::as_str);
        key.map_or(String::new(), |key| self.key_label.of(key.as_bytes()))
    }

    fn act<'a>(&'a self, name: &'a str, parameters: &'a Parameters) -> Act<'a> {
        Box::pin(async move {
            match (name, parameters.get(KEY)) {
                (RESET_COUNTER, Some(Value::String(key))) => self.reset_counter(key).await,
                _ => Err(ActionError {
                    reason: Reason::Unexpected,
                    message: format!("expected {RESET_COUNTER} with a {KEY}"),
                }),
            }
        })
    }
}
