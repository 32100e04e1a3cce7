//! Who waits for a password to be verified: few per network, so that whoever guesses fills his own queue and not that of
//! others; and once for the same credentials, so that many requests of one user take one place.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

/// How many different credentials of one network may wait. Several users behind one proxy may log in first at the same
/// moment; a guesser gets no further.
pub(super) const MOST_WAITING: usize = 4;

/// What tells credentials apart without being them.
pub(super) type Fingerprint = [u8; 32];

/// The credentials that are waited for.
#[derive(Default)]
pub(super) struct Queue(Mutex<BTreeMap<IpAddr, Vec<Waiting>>>);

struct Waiting {
    credentials: Fingerprint,
    verdict: Arc<OnceCell<bool>>,
    /// Clients who wait for it; it goes with the last.
    clients: usize,
}

/// A client's place, given up on drop.
pub(super) struct Place<'a> {
    queue: &'a Queue,
    network: IpAddr,
    credentials: Fingerprint,
    verdict: Arc<OnceCell<bool>>,
}

impl Queue {
    /// A place for these credentials, or `None` if too many others of the same network wait already.
    pub(super) fn enter(&self, peer: SocketAddr, credentials: Fingerprint) -> Option<Place<'_>> {
        let network = network(peer.ip());
        let mut networks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = networks.entry(network).or_default();
        let same = |one: &&mut Waiting| one.credentials == credentials;
        let verdict = if let Some(there) = waiting.iter_mut().find(same) {
            there.clients += 1;
            Arc::clone(&there.verdict)
        } else if waiting.len() < MOST_WAITING {
            let verdict = Arc::default();
            waiting.push(Waiting {
                credentials,
                verdict: Arc::clone(&verdict),
                clients: 1,
            });
            verdict
        } else {
            return None;
        };
        Some(Place {
            queue: self,
            network,
            credentials,
            verdict,
        })
    }
}

impl Place<'_> {
    /// What `verify` says, which is asked by one of those who wait with the same credentials. If that one goes away
    /// meanwhile, another asks.
    pub(super) async fn verdict(&self, verify: impl Future<Output = bool>) -> bool {
        *self.verdict.get_or_init(|| verify).await
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut networks = self.queue.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(waiting) = networks.get_mut(&self.network) else {
            return;
        };
        for one in waiting.iter_mut() {
            if one.credentials == self.credentials {
                one.clients -= 1;
            }
        }
        waiting.retain(|one| one.clients > 0);
        if waiting.is_empty() {
            networks.remove(&self.network);
        }
    }
}

/// The address, of IPv6 the first half: whoever has one address has all of its network.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let bits = address.to_bits() & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
        four @ IpAddr::V4(_) => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 1)
    }

    #[test]
    fn different_credentials_of_one_network_are_bounded_and_the_same_take_one_place() {
        let queue = Queue::default();
        let of = |network, number| queue.enter(peer(network), [number; 32]);
        let mut places: Vec<_> = (0..4).map(|number| of("10.0.0.1", number)).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(of("10.0.0.1", 9).is_none());
        assert!(of("::ffff:10.0.0.1", 9).is_none());
        for _ in 0..100 {
            places.push(of("10.0.0.1", 3));
            assert!(places.last().is_some_and(Option::is_some));
        }
        assert!(of("10.0.0.2", 9).is_some());
        // The last of them gives its place up.
        drop(places.remove(0));
        assert!(of("10.0.0.1", 9).is_some());
        drop(places);
        assert!(queue.0.lock().unwrap().is_empty());
    }

    #[test]
    fn networks_are_told_apart() {
        for (one, other, same) in [
            ("10.0.0.1", "10.0.0.2", false),
            ("2001:db8::1", "2001:db8::ffff:0:0:1", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
        ] {
            let [one, other] = [one, other].map(|text| network(text.parse().unwrap()));
            assert_eq!(one == other, same, "{one} {other}");
        }
    }
}
