//! Where the nodes and the management API are asked: configured URLs, the addresses of their names, and registered addresses.

use reqwest::Url;

use super::NodeReader;
use crate::observation::{Failure, Node};
use crate::observe::deadline::Deadline;
use crate::observe::http::management_api::{address_of, base_of, configured_address};

/// How many base URLs are tried for the management API in one collection.
const API_TRIES: usize = 4;

impl NodeReader {
    /// Resolves the configured names to nodes. Returns the failures of names that do not resolve.
    pub(super) async fn find_nodes(&mut self, deadline: &Deadline) -> Vec<Failure> {
        let Some(discovery) = &mut self.discovery else {
            return Vec::new();
        };
        let found = discovery.nodes_of(&self.urls, self.http.timeout());
        let Some((urls, failures)) = deadline.cut(found).await else {
            return Vec::new();
        };
        self.memory.set_statics(urls.iter().filter_map(address_of));
        self.node_urls = urls;
        failures
    }

    /// The base URLs to try for the API. The one that answered last comes first.
    pub(super) fn api_bases(&self) -> Vec<Url> {
        if !self.has_api {
            return Vec::new();
        }
        let known = self.memory.addresses();
        let candidates = self
            .last_api
            .iter()
            .chain(&self.urls)
            .cloned()
            .chain(known.iter().filter_map(|address| base_of(address)));
        let mut bases: Vec<Url> = Vec::new();
        for url in candidates {
            if !bases.contains(&url) {
                bases.push(url);
            }
        }
        bases.truncate(API_TRIES);
        bases
    }

    /// The URLs of registered nodes, those that answer first.
    pub(in crate::observe) fn registered_urls(&self, nodes: &[Node]) -> Vec<Url> {
        if self.requests.registry.is_none() {
            return Vec::new();
        }
        let mut nodes: Vec<&Node> = nodes.iter().collect();
        nodes.sort_by_key(|node| (!node.is_up(), node.probe_seconds.is_none()));
        let addresses = nodes.iter().filter_map(|node| node.address.as_deref());
        addresses
            .filter_map(|address| self.url_of(address))
            .collect()
    }

    /// Whether a failed probe of `address` means that a node is down. Then it is probed again first.
    pub(in crate::observe) fn matters(&self, address: &str) -> bool {
        let discovery = self.discovery.as_ref();
        self.memory.was_reached(address) && !discovery.is_some_and(|it| it.is_unserved(address))
    }

    /// Gives the nodes at a URL of the configuration the address by which that URL is known.
    pub(super) fn name_configured<'a>(&self, addresses: impl Iterator<Item = &'a mut String>) {
        for address in addresses {
            if let Some(known) = configured_address(address, &self.node_urls) {
                *address = known;
            }
        }
    }

    /// The URL to ask at `address`. A configured one may have another scheme and a path.
    pub(in crate::observe) fn url_of(&self, address: &str) -> Option<Url> {
        let mut statics = self.node_urls.iter();
        let found = statics.find(|url| address_of(url).as_deref() == Some(address));
        found.cloned().or_else(|| base_of(address))
    }

    pub(in crate::observe) fn targets<'a>(
        &self,
        addresses: impl IntoIterator<Item = &'a String>,
    ) -> Vec<(String, Url)> {
        addresses
            .into_iter()
            .filter_map(|address| Some((address.clone(), self.url_of(address)?)))
            .collect()
    }
}
