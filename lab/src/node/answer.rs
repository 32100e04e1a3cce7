//! The answers of a node: the ordinary ones, and the bodies of a node that misbehaves.
//!
//! `api` chooses one; here is its form on the wire.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame};
use hyper::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, LOCATION};
use hyper::{Response, StatusCode};
use serde::Serialize;
use tokio::time::Sleep;

/// An answer of a node.
pub(super) type Answer = Response<BoxBody<Bytes, io::Error>>;

/// Where a body without end ends after all, should a client read on and on.
const ENDLESS_BYTES: u64 = 12_000_000_000;

/// Long enough for what was sent before the end to arrive before the end.
const TRUNCATE_AFTER: Duration = Duration::from_millis(20);

pub(super) const JSON: &str = "application/json";
pub(super) const PLAIN: &str = "text/plain; charset=utf-8";
/// As recorded: the client library of a real limiter announces this version of the format.
pub(super) const METRICS: &str = "text/plain; version=1.0.0; charset=utf-8";

pub(super) fn with_type(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let body = Full::new(body).map_err(|never: Infallible| match never {});
    let mut answer = Response::new(body.boxed());
    *answer.status_mut() = status;
    answer.headers_mut().insert(
        CONTENT_TYPE,
        hyper::header::HeaderValue::from_static(content_type),
    );
    answer
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    match serde_json::to_vec(value) {
        Ok(body) => with_type(status, JSON, body.into()),
        Err(_) => internal_error(),
    }
}

/// `{"NAME":[…]}`, each item with its fields in the order of the struct.
pub(super) fn list(name: &str, items: &[impl Serialize]) -> Answer {
    match serde_json::to_string(items) {
        Ok(items) => {
            let body = format!(r#"{{"{name}":{items}}}"#);
            with_type(StatusCode::OK, JSON, body.into())
        }
        Err(_) => internal_error(),
    }
}

/// What a real node answers to any error of its own.
pub(super) fn internal_error() -> Answer {
    let body = Bytes::from_static(b"Internal Server Error");
    with_type(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, body)
}

pub(super) fn not_found() -> Answer {
    detail(StatusCode::NOT_FOUND, "Not Found")
}

pub(super) fn method_not_allowed(allow: &'static str) -> Answer {
    let mut answer = detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    let allow = hyper::header::HeaderValue::from_static(allow);
    answer.headers_mut().insert(ALLOW, allow);
    answer
}

/// The request was read and makes no sense.
pub(super) fn unprocessable(why: &str) -> Answer {
    detail(StatusCode::UNPROCESSABLE_ENTITY, why)
}

pub(super) fn redirect(location: &str) -> Answer {
    let Ok(location) = hyper::header::HeaderValue::from_str(location) else {
        return not_found();
    };
    let mut answer = with_type(StatusCode::TEMPORARY_REDIRECT, PLAIN, Bytes::new());
    answer.headers_mut().remove(CONTENT_TYPE);
    answer.headers_mut().insert(LOCATION, location);
    answer
}

fn detail(status: StatusCode, detail: &str) -> Answer {
    json(status, &serde_json::json!({ "detail": detail }))
}

/// The answer with half of its body missing: the header promises all of it.
pub(super) fn truncated(status: StatusCode, body: &Bytes) -> Answer {
    let mut answer = Response::new(
        Truncated {
            half: Some(body.slice(..body.len() / 2)),
            end: Box::pin(tokio::time::sleep(TRUNCATE_AFTER)),
        }
        .boxed(),
    );
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(JSON));
    // At least one byte more than is sent, also for an empty body.
    headers.insert(CONTENT_LENGTH, (body.len() as u64 + 1).into());
    answer
}

/// An answer that begins like JSON and goes on for as long as anyone listens.
pub(super) fn endless(status: StatusCode, beginning: Bytes) -> Answer {
    let mut answer = Response::new(
        Endless {
            beginning: Some(beginning),
            left: ENDLESS_BYTES,
            chunk: Bytes::from(vec![b' '; 64 * 1024]),
        }
        .boxed(),
    );
    *answer.status_mut() = status;
    let json = hyper::header::HeaderValue::from_static(JSON);
    answer.headers_mut().insert(CONTENT_TYPE, json);
    answer
}

struct Truncated {
    half: Option<Bytes>,
    end: Pin<Box<Sleep>>,
}

impl Body for Truncated {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(half) = self.half.take().filter(|half| !half.is_empty()) {
            return Poll::Ready(Some(Ok(Frame::data(half))));
        }
        // An error makes hyper close the connection without another byte.
        let cut = self.end.as_mut().poll(cx);
        cut.map(|()| Some(Err(io::Error::other("cut off on purpose"))))
    }
}

struct Endless {
    beginning: Option<Bytes>,
    left: u64,
    chunk: Bytes,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(beginning) = self.beginning.take() {
            return Poll::Ready(Some(Ok(Frame::data(beginning))));
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left = self.left.saturating_sub(self.chunk.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(self.chunk.clone()))))
    }
}
