//! What is answered, without saying to what. Every answer has a proper Content-Type: Prometheus 3 refuses a scrape without.

use std::io::{self, Write as _};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
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

/// Why a request gets nothing of what it asked for: the status, and a line.
pub(super) type Refusal = (StatusCode, String);

fn with_type(status: StatusCode, content_type: &'static str, body: Vec<u8>) -> HttpResponse {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    with_header(answer, CONTENT_TYPE, content_type)
}

/// The answer with one header more.
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

/// A refusal, in the form that `path` answers in.
pub(super) fn refused(path: &str, (status, message): &Refusal) -> HttpResponse {
    if path.starts_with("/api/") {
        json(*status, &serde_json::json!({"error": message}))
    } else {
        text(*status, &format!("{message}\n"))
    }
}

/// For callers who are not known: browsers ask for user and password then. The connection ends, so that a stranger holds
/// one for no longer than one answer.
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
    let failed = |error: String| {
        tracing::error!("cannot encode the metrics: {error}");
        let message = "cannot encode the metrics".to_owned();
        (StatusCode::INTERNAL_SERVER_ERROR, message)
    };
    let body = rendered.map_err(|error| failed(error.to_string()))?;
    let plain = |body| {
        with_header(
            with_type(StatusCode::OK, METRICS, body),
            VARY,
            "accept-encoding",
        )
    };
    if !accepts_gzip(headers) {
        return Ok(plain(body));
    }
    let body = compress(&body).map_err(|error| failed(error.to_string()))?;
    Ok(with_header(plain(body), CONTENT_ENCODING, "gzip"))
}

/// Whether the client takes gzip: named, or any, and not with a quality of zero.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter();
    let mut codings = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    codings.any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let named = matches!(parts.next(), Some("gzip" | "x-gzip" | "*"));
        let refused = parts.any(|part| {
            let quality = part.strip_prefix("q=").and_then(|q| q.parse::<f32>().ok());
            quality.is_some_and(|quality| quality <= 0.0)
        });
        named && !refused
    })
}

fn compress(body: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    encoder.write_all(body)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_when_it_is_asked_for() {
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
