//! Addresses of servers: `host:port`, or the path of a Unix socket.

/// Whether an address is the path of a Unix socket rather than a `host:port`.
pub(in crate::observe) fn is_socket(address: &str) -> bool {
    address.starts_with('/')
}

/// The host of an address. A server behind a Unix socket is on this machine.
pub(in crate::observe) fn host_of(address: &str) -> &str {
    if is_socket(address) {
        return "127.0.0.1";
    }
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}

/// `host:port`, with brackets around an IPv6 address.
pub(in crate::observe) fn join(host: &str, port: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_ipv6_have_brackets() {
        assert_eq!(join("::1", "6379"), "[::1]:6379");
        assert_eq!(join("redis", "6379"), "redis:6379");
    }
}
