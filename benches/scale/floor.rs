//! The floor: SCAN COUNT 2000 over everything, then pipelined ZCOUNT of every counter, on raw sockets. Replies are read
//! and counted, nothing else is done with them.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

struct Raw {
    reader: BufReader<TcpStream>,
}

impl Raw {
    fn connect(port: u16) -> std::io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            reader: BufReader::with_capacity(256 * 1024, stream),
        })
    }

    fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// One line without its end.
    fn line(&mut self) -> std::io::Result<Vec<u8>> {
        let mut line = Vec::new();
        self.reader.read_until(b'\n', &mut line)?;
        line.truncate(line.len().saturating_sub(2));
        Ok(line)
    }

    fn number(&mut self) -> std::io::Result<usize> {
        let line = self.line()?;
        let text = std::str::from_utf8(&line[1..]).unwrap_or_default();
        Ok(text.parse().unwrap_or(0))
    }

    fn bulk(&mut self) -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; self.number()? + 2];
        self.reader.read_exact(&mut bytes)?;
        bytes.truncate(bytes.len() - 2);
        Ok(bytes)
    }
}

fn command(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", parts.len()).into_bytes();
    for part in parts {
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
    out
}

/// Seconds for the scan and for the counts.
pub(crate) fn measure(port: u16) -> std::io::Result<f64> {
    let mut raw = Raw::connect(port)?;
    let started = lab::clock::instant();
    let mut cursor = b"0".to_vec();
    let mut names = Vec::new();
    loop {
        raw.send(&command(&[b"SCAN", &cursor, b"COUNT", b"2000"]))?;
        raw.number()?;
        cursor = raw.bulk()?;
        for _ in 0..raw.number()? {
            names.push(raw.bulk()?);
        }
        if cursor == b"0" {
            break;
        }
    }
    let scanned = started.elapsed();
    let counters = names
        .iter()
        .filter(|name| !name.ends_with(b":seq") && !name.starts_with(b"ratelimit:limit:"));
    let counters: Vec<&Vec<u8>> = counters.collect();
    let from = lab::clock::now_ms().to_string();
    let requests: Vec<(Vec<u8>, usize)> = counters
        .chunks(1000)
        .map(|some| {
            let commands = some
                .iter()
                .map(|name| command(&[b"ZCOUNT", name, from.as_bytes(), b"+inf"]));
            (commands.flatten().collect(), some.len())
        })
        .collect();
    let started = lab::clock::instant();
    for (request, answers) in &requests {
        raw.send(request)?;
        for _ in 0..*answers {
            raw.line()?;
        }
    }
    Ok((scanned + started.elapsed()).as_secs_f64())
}
