//! A small HTTP server for loopback: plain HTTP/1.1, one function that answers everything.
//!
//! It leaves out TLS, limits on the number of connections, and an orderly end: it ends with its handle, and its connections
//! with it.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Serves on `listener` until the handle is dropped. `answer` is called for every request.
pub(crate) fn serve<F, Fut>(listener: TcpListener, answer: F) -> AbortOnDropHandle<()>
where
    F: Fn(Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = (StatusCode, String)> + Send + 'static,
{
    AbortOnDropHandle::new(tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    let answer = answer.clone();
                    let service = service_fn(move |request| {
                        let answered = answer(request);
                        async move { Ok::<_, Infallible>(response(answered.await)) }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .serve_connection(TokioIo::new(stream), service);
                    connections.spawn(connection);
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }))
}

/// The body of a request, at most `limit` bytes of it.
pub(crate) async fn body(request: Request<Incoming>, limit: usize) -> anyhow::Result<Bytes> {
    let body = Limited::new(request.into_body(), limit).collect().await;
    body.map(http_body_util::Collected::to_bytes)
        .map_err(|error| anyhow::anyhow!("the body is cut off or too long: {error}"))
}

fn response((status, text): (StatusCode, String)) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
