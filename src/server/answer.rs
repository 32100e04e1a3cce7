//! The forms of answers: text, HTML, JSON, metrics. Each has a Content-Type: Prometheus 3 refuses a scrape without one.

use std::io::Read as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::bufread::GzEncoder;
use http_body_util::Full;
use hyper::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName,
    HeaderValue, VARY, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) type HttpResponse = Response<Full<Bytes>>;

/// Why a request is refused: the status, and one line.
pub(super) type Refusal = (StatusCode, String);

fn with_type(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> HttpResponse {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    with_header(answer, CONTENT_TYPE, content_type)
}

/// Adds a header to the answer.
pub(super) fn with_header(
    mut answer: HttpResponse,
    name: HeaderName,
    value: &'static str,
) -> HttpResponse {
    let headers = answer.headers_mut();
    headers.insert(name, HeaderValue::from_static(value));
    answer
}

pub(super) fn text(status: StatusCode, body: &str) -> HttpResponse {
    with_type(status, TEXT, body.as_bytes().to_vec())
}

pub(super) fn html(body: String) -> HttpResponse {
    with_type(StatusCode::OK, HTML, body.into_bytes())
}

pub(super) fn json(status: StatusCode, value: &impl serde::Serialize) -> HttpResponse {
    match serde_json::to_vec(value) {
        Ok(body) => with_type(status, JSON, body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

/// A refusal, in the form of the answers of `path`.
pub(super) fn refused(path: &str, (status, message): &Refusal) -> HttpResponse {
    if path.starts_with("/api/") {
        json(*status, &serde_json::json!({"error": message}))
    } else {
        text(*status, &format!("{message}\n"))
    }
}

/// The answer without a login: it makes a browser ask for user and password. The connection ends with it, so that a client
/// that does not log in holds one for a single answer.
pub(super) fn unauthorized() -> HttpResponse {
    let answer = text(StatusCode::UNAUTHORIZED, "unauthorized\n");
    let challenge = "Basic realm=\"ratelimiter-exporter\"";
    let answer = with_header(answer, WWW_AUTHENTICATE, challenge);
    with_header(answer, CONNECTION, "close")
}

/// Rendered metrics, compressed if the client accepts that.
pub(super) fn exposition(
    rendered: Result<Vec<u8>, prometheus::Error>,
    headers: &HeaderMap,
) -> Result<HttpResponse, Refusal> {
    let body = rendered.map_err(|error| {
        tracing::error!("cannot encode the metrics: {error}");
        let message = "cannot encode the metrics".to_owned();
        (StatusCode::INTERNAL_SERVER_ERROR, message)
    })?;
    let compressed = accepts_gzip(headers);
    let body = if compressed { compress(&body) } else { body };
    let mut answer = with_type(StatusCode::OK, METRICS, body);
    if compressed {
        answer = with_header(answer, CONTENT_ENCODING, "gzip");
    }
    Ok(with_header(answer, VARY, "accept-encoding"))
}

/// Whether the client accepts gzip: it names it, or any coding, and not with a quality of zero.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter();
    let mut codings = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    codings.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = matches!(parts.next(), Some("gzip" | "*"));
        let refused = parts.any(|part| {
            let quality = part.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok());
            quality.is_some_and(|quality| quality <= 0.0)
        });
        named && !refused
    })
}

fn compress(body: &[u8]) -> Vec<u8> {
    let mut compressed = Vec::with_capacity(body.len() / 8);
    // Reading from memory and writing to it cannot fail.
    let _ = GzEncoder::new(body, Compression::fast()).read_to_end(&mut compressed);
    compressed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_when_the_client_accepts_it() {
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
