//! Free ports on loopback, below those that the kernel gives to outgoing connections.
//!
//! `127.0.0.1:0` and outgoing connections take ports of the same range. So a server that restarts on its port needs another
//! one: otherwise a client may have taken it meanwhile. A port is free only until another program takes it: be ready to try
//! another one.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// The first port that is tried.
const FIRST: u32 = 15_000;

/// How many there are; the last one is below 32768, where Linux's ephemeral ports begin.
const COUNT: u32 = 17_000;

/// How many were handed out, so that two callers in this process never get the same one.
static HANDED_OUT: AtomicU32 = AtomicU32::new(0);

/// A port of 127.0.0.1 that was free a moment ago.
///
/// # Panics
///
/// When the machine has no port left.
pub fn free_port() -> u16 {
    // Processes that run side by side begin far apart.
    let start = std::process::id().wrapping_mul(7919);
    for _ in 0..COUNT {
        let offset = start.wrapping_add(HANDED_OUT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let port = u16::try_from(FIRST + offset).expect("the range ends below 65536");
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port on 127.0.0.1 from {FIRST} on");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn ports_are_handed_out_once() {
        let ports: BTreeSet<u16> = (0..50).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 50);
        assert!(ports.iter().all(|port| *port < 32_768));
    }
}
