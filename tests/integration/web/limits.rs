//! What clients may take of the server: connections, heads, bodies, and their time.

use std::time::Duration;

use anyhow::Context as _;
use lab::temp::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::harness::{Exporter, PATIENCE};

const HEALTHY: &[u8] = b"GET /-/healthy HTTP/1.1\r\nhost: x\r\n\r\n";

async fn exporter(flags: &[&str]) -> anyhow::Result<Exporter> {
    let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
    Exporter::start(&flags).await
}

/// The first line of what comes back, empty if the server hangs up.
async fn first_line(stream: &mut TcpStream) -> anyhow::Result<String> {
    let mut answer = Vec::new();
    let read = async {
        let mut byte = [0];
        // A connection that is reset has ended as well.
        while !answer.ends_with(b"\r\n") && stream.read(&mut byte).await.unwrap_or(0) > 0 {
            answer.push(byte[0]);
        }
    };
    tokio::time::timeout(PATIENCE, read).await?;
    Ok(String::from_utf8(answer)?.trim_end().to_owned())
}

async fn exchange(exporter: &Exporter, request: &[u8]) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(&exporter.address).await?;
    // The server may answer and hang up before it has taken all of it.
    let _ = stream.write_all(request).await;
    first_line(&mut stream).await
}

#[tokio::test]
async fn heads_that_are_too_large_are_refused() -> anyhow::Result<()> {
    let exporter = exporter(&[]).await?;
    let head = |headers: &str| format!("GET /-/healthy HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    let long = |length: usize| head(&format!("cookie: {}\r\n", "x".repeat(length)));
    let many = |lines: usize| head(&"x: y\r\n".repeat(lines));
    for (request, expected) in [
        (long(16 * 1024), "HTTP/1.1 200 OK"),
        (
            long(1024 * 1024),
            "HTTP/1.1 431 Request Header Fields Too Large",
        ),
        (many(90), "HTTP/1.1 200 OK"),
        (many(200), "HTTP/1.1 431 Request Header Fields Too Large"),
    ] {
        let line = exchange(&exporter, request.as_bytes()).await?;
        assert_eq!(line, expected, "{} bytes", request.len());
    }
    let path = format!(
        "GET /{} HTTP/1.1\r\nhost: x\r\n\r\n",
        "x".repeat(1024 * 1024)
    );
    let line = exchange(&exporter, path.as_bytes()).await?;
    assert!(line.starts_with("HTTP/1.1 4"), "{line}");
    Ok(())
}

#[tokio::test]
async fn bodies_that_are_too_large_or_do_not_come_are_refused() -> anyhow::Result<()> {
    let exporter = exporter(&[
        "--web.enable-admin-api",
        "--web.admin-api-insecure",
        "--web.read-timeout=1s",
    ])
    .await?;
    let head = |length: usize| {
        format!(
            "POST /api/v1/actions/reset_counter HTTP/1.1\r\nhost: x\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    let large = head(100_000) + &" ".repeat(100_000);
    for (request, expected) in [
        (large, "HTTP/1.1 413 Payload Too Large"),
        (head(10), "HTTP/1.1 408 Request Timeout"),
    ] {
        let line = exchange(&exporter, request.as_bytes()).await?;
        assert_eq!(line, expected);
    }
    Ok(())
}

#[tokio::test]
async fn a_client_that_sends_nothing_or_single_bytes_is_disconnected() -> anyhow::Result<()> {
    let exporter = exporter(&["--web.read-timeout=1s"]).await?;
    let mut silent = TcpStream::connect(&exporter.address).await?;
    let mut idle = TcpStream::connect(&exporter.address).await?;
    idle.write_all(HEALTHY).await?;
    let mut slow = TcpStream::connect(&exporter.address).await?;
    slow.set_nodelay(true)?;
    slow.write_all(b"GET /-/healthy HTTP/1.1\r\nx: ").await?;
    let endless = async {
        // Until it is hung up on, which writing notices.
        while slow.write_all(b"y").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, endless).await?;
    for stream in [&mut silent, &mut idle] {
        let mut rest = Vec::new();
        // To the end: the server has closed it.
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await?;
        assert!(read.is_ok() || rest.is_empty(), "{read:?}");
    }
    Ok(())
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_one_ends() -> anyhow::Result<()> {
    let exporter = exporter(&["--web.max-connections=4"]).await?;
    let mut served = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(&exporter.address).await?;
        stream.write_all(HEALTHY).await?;
        assert_eq!(first_line(&mut stream).await?, "HTTP/1.1 200 OK");
        served.push(stream);
    }
    let mut waiting = TcpStream::connect(&exporter.address).await?;
    waiting.write_all(HEALTHY).await?;
    let mut byte = [0];
    let early = tokio::time::timeout(Duration::from_millis(300), waiting.peek(&mut byte));
    assert!(early.await.is_err(), "served beyond the limit");
    served.pop();
    assert_eq!(first_line(&mut waiting).await?, "HTTP/1.1 200 OK");
    Ok(())
}

#[tokio::test]
async fn idle_connections_are_closed_when_all_are_taken() -> anyhow::Result<()> {
    let exporter = exporter(&["--web.max-connections=4", "--web.read-timeout=1s"]).await?;
    let mut held = Vec::new();
    for _ in 0..20 {
        held.push(TcpStream::connect(&exporter.address).await?);
    }
    assert_eq!(exchange(&exporter, HEALTHY).await?, "HTTP/1.1 200 OK");
    drop(held);
    Ok(())
}

#[tokio::test]
async fn a_client_without_a_login_keeps_a_connection_for_one_answer() -> anyhow::Result<()> {
    let folder = TempDir::new("strangers")?;
    let file = folder.path().join("web.yml");
    let hash = bcrypt::hash("right", 4)?;
    std::fs::write(&file, format!("basic_auth_users: {{ann: {hash}}}\n"))?;
    let flag = format!("--web.config.file={}", file.display());
    let exporter = exporter(&[&flag, "--web.max-connections=2"]).await?;
    let wrong = b"GET / HTTP/1.1\r\nhost: x\r\nauthorization: Basic bm8=\r\n\r\n";
    let missing = b"POST /-/reload HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\n{}";
    let mut strangers = Vec::new();
    for request in [HEALTHY, &wrong[..], &missing[..], HEALTHY] {
        let mut stream = TcpStream::connect(&exporter.address).await?;
        stream.write_all(request).await?;
        let mut answer = String::new();
        // To the end, although none of them asked for that.
        let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer));
        read.await.context("the connection stays open")??;
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
        strangers.push(stream);
    }
    // All of them are still open on the client's side.
    let ann = b"GET /-/healthy HTTP/1.1\r\nhost: x\r\nauthorization: Basic YW5uOnJpZ2h0\r\n\r\n";
    assert_eq!(exchange(&exporter, ann).await?, "HTTP/1.1 200 OK");
    drop(strangers);
    Ok(())
}
