//! What a node's answer about its health says.

use serde_json::Value;

use crate::limiters::Health;
use crate::observation::Reason;
use crate::observe::http::client::{ClientResponse, HttpError};

/// A node's answer about its health.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::observe) struct HealthReading {
    pub(in crate::observe) node_id: Option<String>,
    /// Whether the node reaches Redis, if its health covers that.
    pub(in crate::observe) redis: Option<bool>,
}

/// Reads an answer about health. If the health covers Redis, a node that answers 5xx is up and does not reach Redis.
/// Any other failure status means that the node is unhealthy.
pub(in crate::observe) fn read_health(
    health: &Health,
    answer: ClientResponse,
) -> Result<HealthReading, HttpError> {
    let fails = !answer.status.is_success();
    let answer = if health.covers_redis && answer.status.is_server_error() {
        answer
    } else {
        answer.ok()?
    };
    let node_id = match &health.id {
        None => None,
        Some(_) if fails => None,
        Some(pointer) => {
            let value: Value = answer.json()?;
            match value.pointer(&pointer.0) {
                None | Some(Value::Null) if value.is_object() || value.is_array() => None,
                Some(Value::String(id)) => Some(id.clone()),
                Some(Value::Number(id)) => Some(id.to_string()),
                _ => {
                    let (what, field) = (&answer.what, &pointer.0);
                    let message = format!("{what}: {field}: expected text or a number");
                    return Err(HttpError::new(Reason::InvalidJson, message));
                }
            }
        }
    };
    Ok(HealthReading {
        node_id,
        redis: health.covers_redis.then_some(!fails),
    })
}

#[cfg(test)]
mod tests {
    use reqwest::StatusCode;

    use super::*;
    use crate::limiters::Description;
    use crate::observe::nodes::requests::NodeRequests;

    fn health(description: &str, status: u16, body: &str) -> Result<HealthReading, Reason> {
        let text = format!(
            "name: own\ntitle: own\ncounters: [{{name: a, key: '^a(?P<key>.+)$', type: string, count: value, \
             refused: counted, expiry: required, without_expiry: leaks}}]\nnodes:\n  health: {description}\n"
        );
        let description = Description::parse(&text).unwrap();
        let health = NodeRequests::new(&description).health.unwrap();
        let answer = ClientResponse {
            what: "GET /".to_owned(),
            status: StatusCode::from_u16(status).unwrap(),
            body: bytes::Bytes::copy_from_slice(body.as_bytes()),
            secrets: Vec::new(),
        };
        read_health(&health, answer).map_err(|error| error.reason)
    }

    #[test]
    fn health_is_text_or_json_with_an_id_and_may_cover_redis() {
        let is = |node_id: Option<&str>, redis| {
            Ok(HealthReading {
                node_id: node_id.map(str::to_owned),
                redis,
            })
        };
        let text = "{path: /healthcheck}";
        assert_eq!(health(text, 200, "OK"), is(None, None));
        assert_eq!(health(text, 500, ""), Err(Reason::HttpStatus));
        assert_eq!(health(text, 302, ""), Err(Reason::HttpStatus));
        let json = "{path: /health, id: /node/id}";
        assert_eq!(
            health(json, 200, r#"{"node":{"id":"a"}}"#),
            is(Some("a"), None)
        );
        assert_eq!(health(json, 200, "{}"), is(None, None));
        assert_eq!(
            health(json, 200, r#"{"node":{"id":1}}"#),
            is(Some("1"), None)
        );
        assert_eq!(
            health(json, 200, r#"{"node":{"id":[]}}"#),
            Err(Reason::InvalidJson)
        );
        assert_eq!(health(json, 200, "OK"), Err(Reason::InvalidJson));
        let covers = "{path: /health, covers_redis: true}";
        assert_eq!(health(covers, 200, ""), is(None, Some(true)));
        assert_eq!(health(covers, 503, ""), is(None, Some(false)));
        assert_eq!(health(covers, 404, ""), Err(Reason::HttpStatus));
    }
}
