//! Discovers nodes by DNS: a name in the configuration is as many nodes as it has addresses. A name that does not resolve
//! keeps its last addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Url;

use crate::clock::elapsed;
use crate::observation::{Collector, Failure, Node, Reason};
use crate::observe::http::management_api::address_of;

/// How many addresses of one name are used at most.
const MOST_ADDRESSES: usize = 100;

/// How long DNS may be behind: caches return the address of a stopped node for so long.
const BEHIND: Duration = Duration::from_secs(30);

/// The addresses of the configured names.
#[derive(Debug, Default)]
pub(in crate::observe) struct Discovery {
    /// By `host:port` of the configured URL.
    resolved: BTreeMap<String, Vec<Url>>,
    /// When each address last answered, or first appeared.
    last_well: BTreeMap<String, Timestamp>,
    /// The addresses that have answered.
    answered: BTreeSet<String>,
}

impl Discovery {
    /// The URLs of the nodes behind `urls`, and the failures of names that do not resolve.
    pub(in crate::observe) async fn nodes_of(
        &mut self,
        urls: &[Url],
        timeout: Duration,
    ) -> (Vec<Url>, Vec<Failure>) {
        let asked = urls.iter().map(|url| async move {
            let (host, port) = name_of(url)?;
            let lookup = tokio::net::lookup_host((host, port));
            Some(match tokio::time::timeout(timeout, lookup).await {
                Ok(Ok(found)) => Ok(found.collect::<BTreeSet<SocketAddr>>()),
                Ok(Err(error)) => Err((Reason::Dns, error.to_string())),
                Err(_) => Err((Reason::Timeout, format!("no answer within {timeout:?}"))),
            })
        });
        let answers = futures_util::future::join_all(asked).await;
        let (mut nodes, mut failures) = (Vec::new(), Vec::new());
        for (url, answer) in urls.iter().zip(answers) {
            let (Some(answer), Some(name)) = (answer, address_of(url)) else {
                nodes.push(url.clone());
                continue;
            };
            match answer {
                Ok(found) if !found.is_empty() => {
                    let found = found.into_iter().take(MOST_ADDRESSES);
                    let found = found.filter_map(|address| at_address(url, address.ip()));
                    self.resolved.insert(name.clone(), found.collect());
                }
                Ok(_) => failures.push(failed(&name, Reason::Dns, "no addresses")),
                Err((reason, why)) => failures.push(failed(&name, reason, &why)),
            }
            match self.resolved.get(&name) {
                Some(found) => nodes.extend(found.iter().cloned()),
                None => nodes.push(url.clone()),
            }
        }
        let mut seen = BTreeSet::new();
        nodes.retain(|url| seen.insert(address_of(url)));
        (nodes, failures)
    }

    /// Makes the state of nodes unknown that are known by DNS alone and do not answer: they may have been stopped, and DNS
    /// needs time to notice. After [`BEHIND`] they are down. Drops what is no node.
    pub(in crate::observe) fn excuse(&mut self, now: Timestamp, nodes: &mut Vec<Node>) {
        let known: BTreeSet<String> = self
            .resolved
            .values()
            .flatten()
            .filter_map(address_of)
            .collect();
        self.last_well.retain(|address, _| known.contains(address));
        self.answered.retain(|address| known.contains(address));
        for node in nodes.iter_mut() {
            let Some(address) = node.address.clone().filter(|it| known.contains(it)) else {
                continue;
            };
            if node.is_up() {
                self.answered.insert(address.clone());
                self.last_well.insert(address, now);
                continue;
            }
            let last_well = *self.last_well.entry(address).or_insert(now);
            if node.state.is_some() && elapsed(last_well, now) < BEHIND {
                node.state = None;
                node.reason = Some("dns_may_be_behind".to_owned());
                node.redis_reason = node.redis_reason.take().and(node.reason.clone());
            }
        }
        nodes.retain(|node| {
            let address = node.address.as_deref();
            node.is_up() || !address.is_some_and(|address| self.is_unserved(address))
        });
    }

    /// Whether no node listens at addresses of the family of `address`: none of them ever answered, and one of the other
    /// family did. `localhost` has addresses of both families on most machines, and most servers listen at one.
    pub(in crate::observe) fn is_unserved(&self, address: &str) -> bool {
        let is_v6 = |url: &Url| url.host_str().is_some_and(|host| host.starts_with('['));
        let names = self.resolved.values().filter_map(|urls| {
            let mut here = urls.iter();
            let here = here.find(|url| address_of(url).as_deref() == Some(address))?;
            let answers = |v6| {
                let mut family = urls.iter().filter(|url| is_v6(url) == v6);
                let answered = |at| self.answered.contains(&at);
                family.any(|url| address_of(url).is_some_and(answered))
            };
            Some(!answers(is_v6(here)) && answers(!is_v6(here)))
        });
        names.reduce(|one, other| one && other) == Some(true)
    }
}

/// The name and the port of a URL whose host is a name. `None` over TLS, which needs the name for the certificate.
fn name_of(url: &Url) -> Option<(&str, u16)> {
    let name = url.domain().filter(|_| url.scheme() == "http")?;
    Some((name, url.port_or_known_default()?))
}

fn at_address(url: &Url, address: IpAddr) -> Option<Url> {
    let mut url = url.clone();
    url.set_ip_host(address).ok()?;
    Some(url)
}

fn failed(name: &str, reason: Reason, why: &str) -> Failure {
    let message = format!("{name}: expected addresses from DNS: {why}");
    Failure::new(Collector::Probes, name, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn node(address: &str, state: &str) -> Node {
        Node {
            id: address.to_owned(),
            address: Some(address.to_owned()),
            state: Some(state.to_owned()),
            ..Node::default()
        }
    }

    fn urls(texts: &[&str]) -> Vec<Url> {
        texts.iter().map(|text| Url::parse(text).unwrap()).collect()
    }

    fn states(nodes: Vec<Node>) -> Vec<String> {
        let states = nodes.into_iter().map(|node| {
            let reason = node.reason.unwrap_or_default();
            node.state.unwrap_or(reason)
        });
        states.collect()
    }

    #[test]
    fn the_address_of_a_family_that_nothing_listens_on_is_no_node() {
        let (v4, v6) = ("127.0.0.1:8080", "[::1]:8080");
        let mut discovery = Discovery::default();
        let found = urls(&["http://127.0.0.1:8080", "http://[::1]:8080"]);
        discovery
            .resolved
            .insert("localhost:8080".to_owned(), found);
        let mut judged = |second, of_v4: &str, of_v6: &str| {
            let mut nodes = vec![node(v6, of_v6), node(v4, of_v4)];
            discovery.excuse(at(second), &mut nodes);
            states(nodes)
        };
        assert_eq!(judged(0, "Up", "Down"), ["Up"]);
        assert_eq!(judged(40, "Up", "Down"), ["Up"]);
        // The node at the other address dies: it is down, and still alone.
        assert_eq!(judged(80, "Down", "Down"), ["Down"]);
        // What has answered is a node.
        assert_eq!(judged(90, "Down", "Up"), ["Up", "Down"]);
        assert_eq!(judged(130, "Up", "Down"), ["Down", "Up"]);
        // Where nothing ever answered, each address is a node that is down.
        let mut discovery = Discovery::default();
        let found = urls(&["http://127.0.0.1:8080", "http://[::1]:8080"]);
        discovery
            .resolved
            .insert("localhost:8080".to_owned(), found);
        let mut nodes = vec![node(v6, "Down"), node(v4, "Down")];
        discovery.excuse(at(0), &mut nodes);
        discovery.excuse(at(40), &mut nodes);
        assert!(!discovery.is_unserved(v6) && nodes.len() == 2);
    }

    #[test]
    fn a_stopped_node_is_not_down_until_dns_had_time_to_notice() {
        let mut discovery = Discovery::default();
        let found = urls(&["http://10.0.0.1:8080", "http://10.0.0.2:8080"]);
        discovery.resolved.insert("envoy:8080".to_owned(), found);
        let mut judged = |second, state: &str| {
            let mut nodes = vec![node("10.0.0.1:8080", state), node("10.0.0.9:8080", state)];
            discovery.excuse(at(second), &mut nodes);
            states(nodes)
        };
        assert_eq!(judged(0, "Up"), ["Up", "Up"]);
        assert_eq!(judged(29, "Down"), ["dns_may_be_behind", "Down"]);
        assert_eq!(judged(30, "Down"), ["Down", "Down"]);
        assert_eq!(judged(45, "Up"), ["Up", "Up"]);
        assert_eq!(judged(60, "Down"), ["dns_may_be_behind", "Down"]);
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_keeps_its_addresses_and_ip_addresses_are_not_resolved() {
        let mut discovery = Discovery::default();
        let before = urls(&["http://10.0.0.1:81/a"]);
        discovery
            .resolved
            .insert("none.invalid:81".to_owned(), before.clone());
        let given = urls(&[
            "http://none.invalid:81/a",
            "http://127.0.0.1:82",
            "https://x.invalid",
        ]);
        let patience = Duration::from_secs(60);
        let (nodes, failures) = discovery.nodes_of(&given, patience).await;
        assert_eq!(nodes, [&before[..], &given[1..]].concat());
        assert_eq!(failures.len(), 1, "{failures:?}");
        let mut fresh = Discovery::default();
        assert_eq!(fresh.nodes_of(&given, patience).await.0, given);
        let (nodes, failures) = fresh
            .nodes_of(&urls(&["http://localhost:83/b"]), patience)
            .await;
        assert!(failures.is_empty(), "{failures:?}");
        let addresses = nodes
            .iter()
            .all(|url| url.domain().is_none() && url.path() == "/b");
        assert!(addresses && !nodes.is_empty(), "{nodes:?}");
    }
}
