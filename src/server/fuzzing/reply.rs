//! The answers on a connection, parsed without hyper, and what must hold for each.

use std::collections::BTreeMap;
use std::io::Read as _;

use crate::assertions::{harmless_html, valid_exposition};

/// The headers that an answer may have: a request cannot add one.
const HEADERS: [&str; 13] = [
    "allow",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-security-policy",
    "content-type",
    "date",
    "referrer-policy",
    "transfer-encoding",
    "vary",
    "www-authenticate",
    "x-content-type-options",
];

/// One answer.
pub(super) struct Reply<'a> {
    pub(super) status: &'a str,
    headers: BTreeMap<String, &'a str>,
    /// Empty for HEAD.
    pub(super) body: &'a [u8],
}

impl<'a> Reply<'a> {
    /// Panics unless `bytes` are whole answers.
    pub(super) fn all(mut bytes: &'a [u8]) -> Vec<Self> {
        let mut answers = Vec::new();
        while !bytes.is_empty() {
            let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
            let end = end.expect("a head without an end");
            let head = std::str::from_utf8(&bytes[..end]).expect("a head that is no text");
            let mut lines = head.split("\r\n");
            let status = lines.next().and_then(|line| {
                let (version, rest) = line.split_once(' ')?;
                assert!(matches!(version, "HTTP/1.1" | "HTTP/1.0"), "{line:?}");
                rest.split(' ').next()
            });
            let headers = lines.map(|line| {
                let (name, value) = line.split_once(": ").expect("not a header");
                (name.to_ascii_lowercase(), value)
            });
            let headers: BTreeMap<_, _> = headers.collect();
            bytes = &bytes[end + 4..];
            let length = headers.get("content-length");
            let length = length.map_or(0, |length| length.parse().expect("not a length"));
            // No body of the exporter begins like this: the request was a HEAD, and the next answer follows.
            let none = bytes.is_empty() || bytes.starts_with(b"HTTP/1.");
            let (body, rest) = bytes
                .split_at_checked(if none { 0 } else { length })
                .expect("less than the promised length");
            bytes = rest;
            answers.push(Self {
                status: status.expect("an answer without a status"),
                headers,
                body,
            });
        }
        answers
    }

    /// An answer of hyper, to bytes that are no request or before a body: it has no body itself.
    pub(super) fn is_hypers_own(&self) -> bool {
        matches!(self.status, "100" | "400" | "414" | "431")
            && !self.headers.contains_key("content-type")
    }

    /// Panics unless the answer is one of the routes, or of hyper.
    pub(super) fn is_right(&self) {
        let status = self.status;
        for name in self.headers.keys() {
            assert!(HEADERS.contains(&&**name), "{status} with {name}");
        }
        if self.is_hypers_own() {
            return assert!(self.body.is_empty());
        }
        let known = [
            "200", "202", "400", "401", "403", "404", "405", "408", "413", "415", "503",
        ];
        assert!(known.contains(&status), "{status}");
        let challenged = self.headers.contains_key("www-authenticate");
        assert_eq!(challenged, status == "401");
        let kind = *self.headers.get("content-type").expect("without a type");
        if self.body.is_empty() {
            return;
        }
        let mut unpacked = Vec::new();
        let body = if self.headers.contains_key("content-encoding") {
            let mut gzip = flate2::read::GzDecoder::new(self.body);
            gzip.read_to_end(&mut unpacked).expect("not gzip");
            &unpacked
        } else {
            self.body
        };
        let text = std::str::from_utf8(body).expect("a body that is no text");
        match kind {
            "application/json" => {
                serde_json::from_str::<serde_json::Value>(text).expect("not JSON");
            }
            "text/html; charset=utf-8" => harmless_html(text),
            "text/plain; version=0.0.4; charset=utf-8" => valid_exposition(body),
            "text/plain; charset=utf-8" => {
                assert_eq!(text.lines().count(), 1, "{text:?}");
                assert!(!text.trim_end().contains(char::is_control), "{text:?}");
            }
            other => panic!("a body of the type {other}"),
        }
    }
}
