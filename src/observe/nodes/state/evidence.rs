//! What a collection read of the nodes: the registry, the probes, and what shows whether they reach Redis.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::observation::Reason;
use crate::observe::http::api_reading::NodeList;

/// A registration as it is in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::observe) struct Registration {
    pub(in crate::observe) address: Option<String>,
    pub(in crate::observe) registered_at: Option<String>,
    /// The time until it expires. `None` if it never does.
    pub(in crate::observe) ttl: Option<Duration>,
}

/// The result of probing an address.
#[derive(Clone, Debug)]
pub(in crate::observe) enum Probe {
    /// The node is healthy.
    Answered {
        node_id: Option<String>,
        seconds: f64,
    },
    /// The node did not answer, or is unhealthy.
    Failed(Reason),
    /// The collection ended before there was an answer or a timeout. Proves nothing.
    CutOff,
}

impl Probe {
    /// The id in the answer, if there is one.
    pub(in crate::observe) fn node_id(&self) -> Option<&str> {
        match self {
            Self::Answered { node_id, .. } => node_id.as_deref(),
            Self::Failed(_) | Self::CutOff => None,
        }
    }
}

/// The registry, as this collection read it.
#[derive(Clone, Debug, Default)]
pub(in crate::observe) struct RegistryReading {
    /// The limiter has no registry: nodes are known by their addresses alone.
    pub(in crate::observe) absent: bool,
    /// Whether a registration that is not in `found` does not exist.
    pub(in crate::observe) readable: bool,
    pub(in crate::observe) found: BTreeMap<String, Registration>,
    /// The ids that could not be read, because the server that holds them did not answer.
    pub(in crate::observe) unread: BTreeSet<String>,
    /// When each id was read.
    pub(in crate::observe) times: ReadingTimes,
    /// Since when Redis has answered without a break or a restart.
    pub(in crate::observe) redis_up_since: Option<Timestamp>,
    /// Whether Redis restarted since the registry was last read: then a missing registration was not deleted by
    /// its node.
    pub(in crate::observe) redis_restarted: bool,
    /// Since when Redis accepts writes that need memory again, if it was full before.
    pub(in crate::observe) memory_freed: Option<Timestamp>,
}

/// When the registration of each id was read: when the request was sent, and when the answer was there.
pub(in crate::observe) type ReadingTimes = BTreeMap<String, (Timestamp, Timestamp)>;

/// The known registrations between two judgements, and when reading them began.
pub(in crate::observe) type Glance = (Timestamp, RegistryReading);

impl RegistryReading {
    /// Whether it is known if `id` is registered.
    pub(super) fn covers(&self, id: &str) -> bool {
        self.readable && !self.unread.contains(id)
    }

    /// When reading `id` began. `now` is the time of the collection.
    pub(super) fn begun(&self, id: &str, now: Timestamp) -> Timestamp {
        self.times.get(id).map_or(now, |(begun, _)| *begun)
    }

    /// When `id` was read. If it was missing, it may have expired until then.
    pub(super) fn read_at(&self, id: &str, now: Timestamp) -> Timestamp {
        self.times.get(id).map_or(now, |(_, read_at)| *read_at)
    }

    /// Takes what was read later, at `times`. A registration that was already missing has not expired since.
    pub(in crate::observe) fn read_again(
        &mut self,
        found: BTreeMap<String, Registration>,
        unread: BTreeSet<String>,
        times: ReadingTimes,
    ) {
        for (id, time) in times {
            self.unread.remove(&id);
            if self.found.remove(&id).is_some() || found.contains_key(&id) {
                self.times.insert(id, time);
            } else {
                self.times.entry(id).or_insert(time);
            }
        }
        self.found.extend(found);
        self.unread.extend(unread);
    }
}

/// Whether a node reaches Redis, by its own counters and the canary.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::observe) enum RedisEvidence {
    /// No evidence.
    #[default]
    None,
    /// The canary was answered: the node reaches Redis.
    Works,
    /// The node's health covers Redis, and is good.
    Healthy,
    /// The node does not reach Redis. The text is the evidence.
    Broken(&'static str),
    /// Checks were answered since the last collection, and none failed after that. Overdue heartbeats outweigh this,
    /// because the answers may be older.
    Answered,
    /// As [`Self::Answered`], after a time in which all checks failed. That time began after the given one.
    Returned(Timestamp),
    /// There were errors, but an outage of Redis that is over explains them.
    Inconclusive(&'static str),
    /// The node counts its failures of Redis, and there were none.
    NoFailures,
    /// What would show it was not read, or not often enough. The text is the reason. It does not end what was proved before.
    Unread(&'static str),
}

/// All evidence of one collection.
#[derive(Debug)]
pub(in crate::observe) struct NodeEvidence<'a> {
    pub(in crate::observe) now: Timestamp,
    /// The path whose answer shows whether a node is up.
    pub(in crate::observe) health: &'a str,
    pub(in crate::observe) registry: &'a RegistryReading,
    /// `GET /api/nodes`.
    pub(in crate::observe) api: &'a NodeList,
    /// Probes by address. An address without a probe was not asked.
    pub(in crate::observe) probes: &'a BTreeMap<String, Probe>,
    pub(in crate::observe) redis: &'a BTreeMap<String, RedisEvidence>,
    /// Whether anything shows if nodes of this kind reach Redis.
    pub(in crate::observe) covers_redis: bool,
    /// Whether the canary was refused, by node id.
    pub(in crate::observe) canary_refused: &'a BTreeMap<String, bool>,
}
