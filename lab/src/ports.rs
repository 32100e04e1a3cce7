//! Free ports on loopback.
//!
//! A port is only free until somebody takes it: who binds it next must be ready to try another.

use std::net::{Ipv4Addr, TcpListener};

/// A port of 127.0.0.1 that was free a moment ago.
///
/// # Panics
///
/// When the machine has no port left.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("no free port on 127.0.0.1");
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    address.port()
}
