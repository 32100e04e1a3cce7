//! Free ports on loopback, below those that the kernel gives to outgoing connections.
//!
//! `127.0.0.1:0` and outgoing connections take ports of the same range. So a server that restarts on its port needs another
//! one: otherwise a client may have taken it meanwhile. Each process takes whole blocks of ports for itself, so that no
//! other process of the tests gets a port between the moment it is chosen and the moment a server binds it.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::{Mutex, PoisonError};

/// The first port that is tried.
const FIRST: u16 = 15_000;

/// How many ports a block has.
const BLOCK: u16 = 100;

/// How many blocks there are. The last port is below 32768, where Linux's ephemeral ports begin.
const BLOCKS: u16 = 170;

/// The blocks of this process.
static OURS: Mutex<Blocks> = Mutex::new(Blocks {
    taken: Vec::new(),
    handed_out: 0,
});

struct Blocks {
    /// Each with the name that keeps other processes off it, until this process ends.
    taken: Vec<(u16, UnixListener)>,
    /// How many ports of the last block were handed out.
    handed_out: u16,
}

impl Blocks {
    /// The next port that was not handed out before. `None` if all blocks are taken.
    fn next(&mut self) -> Option<u16> {
        if self.taken.is_empty() || self.handed_out == BLOCK {
            let free = (0..BLOCKS).find_map(|block| Some((block, reserve(block)?)));
            self.taken.push(free?);
            self.handed_out = 0;
        }
        let (block, _) = self.taken.last()?;
        self.handed_out += 1;
        Some(FIRST + block * BLOCK + self.handed_out - 1)
    }
}

/// Binds the name of a block, which no file has and the kernel gives to one process only.
fn reserve(block: u16) -> Option<UnixListener> {
    let name = format!("ratelimiter-lab-ports-{block}");
    UnixListener::bind_addr(&SocketAddr::from_abstract_name(name).ok()?).ok()
}

/// A port of 127.0.0.1 that was free a moment ago, and that no other process of the tests gets.
///
/// # Panics
///
/// When the machine has no port left.
pub fn free_port() -> u16 {
    let mut ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(port) = ours.next() {
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
        let ports: BTreeSet<u16> = (0..250).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 250);
        assert!(ports.iter().all(|port| *port < 32_768));
    }

    #[test]
    fn two_processes_never_get_the_same_port() {
        let port = free_port();
        // As another process would.
        assert!(reserve((port - FIRST) / BLOCK).is_none());
    }
}
