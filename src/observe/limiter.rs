//! The rate limiter as a [`Subject`]: it reads nodes and keys at the same time, and makes one [`Observation`] of both.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Moment};
use crate::limiters::{Discover, Latency, PlainLog, Unit};
use crate::observation::{
    Collector, CollectorRun, Condition, CounterView, CountersListed, CountersRead, KeyLabel,
    KeyTotals, Limit, LimiterKind, Observation, Reason, RedisReading, decode_key,
};
use crate::observe::actor::LimiterActor;
use crate::observe::config::ObserveConfig;
use crate::observe::counters::api_limits::{ApiLimits, to_set};
use crate::observe::counters::described::{Described, SavedName};
use crate::observe::counters::invalidations::Tracked;
use crate::observe::counters::listed::Listed;
use crate::observe::counters::memory::{CounterMemory, Reading};
use crate::observe::counters::pace::RedisShares;
use crate::observe::counters::reader::{KeyReader, KeysRead, Needs};
use crate::observe::counters::settings::SettingsMemory;
use crate::observe::counters::sink::CounterSink;
use crate::observe::counters::summary::{KeysKept, Summary};
use crate::observe::counters::sweep_result::SweepResult;
use crate::observe::deadline::Deadline;
use crate::observe::http::api_reading::NodeListRequest;
use crate::observe::http::client::{Http, HttpError};
use crate::observe::http::default_limits::DefaultLimits;
use crate::observe::http::management_api::{ManagementApi, address_of};
use crate::observe::http::optional::{ANSWER_WITHIN, OptionalRequest};
use crate::observe::nodes::canary::is_canary;
use crate::observe::nodes::discovery::Discovery;
use crate::observe::nodes::probes::LateProbes;
use crate::observe::nodes::reader::{NodeReader, NodesJudged, NodesRead, RedisWas};
use crate::observe::nodes::requests::NodeRequests;
use crate::observe::nodes::state::NodeMemory;
use crate::observe::redis::deployment::RedisDeployment;
use crate::observe::redis::topology::Topology;
use crate::subject::{Actor, Bulk, InvariantChecker, Subject};

/// A limiter cannot be observed at all: the HTTP client could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client: {0}")]
pub struct SetupError(String);

/// The rate limiter that the exporter observes.
#[derive(Debug)]
pub struct Limiter {
    clock: Clock,
    /// The kind, as observations describe it.
    pub(in crate::observe) kind: LimiterKind,
    pub(in crate::observe) redis: RedisDeployment,
    pub(in crate::observe) nodes: NodeReader,
    pub(in crate::observe) keys: KeyReader,
    /// `GET /api/counters`.
    pub(in crate::observe) counter_list: OptionalRequest,
    pub(in crate::observe) kept: KeysKept,
    max_series: usize,
    recording: bool,
    actor: Arc<LimiterActor>,
}

impl Limiter {
    /// Prepares to observe. Connects to nothing yet.
    pub fn new(mut config: ObserveConfig, clock: Clock) -> Result<Self, SetupError> {
        let description = Arc::clone(&config.description);
        let described_nodes = description.nodes.as_ref();
        let discovers = described_nodes.is_some_and(|it| it.value.discover == Discover::Dns);
        let kind = config.limiter_kind();
        let has_api = description.has_management_api();
        // The default limit of a plain log is that of the management API.
        let log = PlainLog::of(&description).filter(|_| has_api);
        let tracked = Tracked::new(&description, log.as_ref());
        let http = |access| Http::new(config.ratelimiter_timeout, access).map_err(SetupError);
        let read = if let Some(log) = log {
            Reading::Plain(log)
        } else {
            let urls = config.ratelimiter_urls.clone();
            let to_set = to_set(&description, &urls);
            if let Some(expected) = to_set.as_ref().filter(|_| config.limit_rules.is_empty()) {
                tracing::warn!(limiter = description.name, "expected {expected}");
            }
            let api = ApiLimits::new(&description, http(config.ratelimiter_access.clone())?, urls);
            let mut described = Described::new(Arc::clone(&description), api);
            described.to_set = to_set;
            Reading::Described(Box::new(described))
        };
        if !kind.nodes {
            config.ratelimiter_urls.clear();
        }
        let topology = Topology::new(&config.redis, description.first_prefix());
        let access = topology.access();
        let actor = Arc::new(config.actor());
        let mut requests = NodeRequests::new(&description);
        if let Some(metric) = config.latency_metric {
            let unit = Unit::Seconds;
            requests.series.latency = vec![Latency { metric, unit }];
        }
        requests.canary.take_if(|_| !config.probe_canary);
        let statics = config.ratelimiter_urls.iter().filter_map(address_of);
        Ok(Self {
            nodes: NodeReader {
                http: http(config.ratelimiter_access)?,
                memory: NodeMemory::new(statics),
                node_urls: config.ratelimiter_urls.clone(),
                urls: config.ratelimiter_urls,
                has_api,
                discovery: discovers.then(Discovery::default),
                probe: config.probe_nodes,
                prometheus: match config.prometheus_url {
                    Some(url) => Some((http(config.prometheus_access)?, url)),
                    None => None,
                },
                requests: Arc::new(requests),
                window: config.latency_window,
                timing: config.registry,
                clock: clock.clone(),
                topology,
                late_probes: LateProbes::default(),
                default_limits: DefaultLimits::default(),
                histories: BTreeMap::new(),
                read_at: BTreeMap::new(),
                canaries: BTreeMap::new(),
                last_api: None,
                node_list: NodeListRequest::default(),
                redis_was: RedisWas::default(),
            },
            keys: KeyReader {
                access,
                readers: BTreeMap::new(),
                shards: Vec::new(),
                memory: CounterMemory::new(description, read, config.limit_rules),
                tracked,
                collections: 0,
                budget: config.scan_budget,
                share: config.scan_share,
                shares: RedisShares::default(),
                goes_on: false,
                label: config.key_label,
                pass: None,
                behind: false,
                rechecked: None,
                pass_took: Duration::ZERO,
                pass_begun: Instant::now(),
                is_owed: false,
                between: None,
                found_between: SweepResult::default(),
                steady: None,
                commands_total: 0,
                last_full_pass: None,
                passes: 0,
                known_nodes: BTreeSet::new(),
                new_nodes: BTreeSet::new(),
                unreachable: Mutex::default(),
            },
            redis: config.redis,
            counter_list: OptionalRequest::default(),
            kind,
            clock,
            kept: KeysKept::new(Listed::new(config.recording, config.named_keys)),
            max_series: config.max_series,
            recording: config.recording,
            actor,
        })
    }

    /// Continues passes between collections ([`Subject::observe_more`]). All limiters with these `shares` use one budget of
    /// Redis's time.
    #[must_use]
    pub fn with_shares(mut self, shares: &RedisShares) -> Self {
        self.keys.goes_on = true;
        self.keys.shares = shares.clone();
        self
    }

    /// Whether this kind of limiter has anything for `collector` to ask.
    fn asks(&self, collector: Collector) -> bool {
        let has_metrics = self.nodes.requests.metrics.is_some();
        match collector {
            Collector::Redis | Collector::Counters => true,
            Collector::Probes => self.kind.nodes,
            Collector::NodeMetrics => self.kind.nodes && has_metrics,
            Collector::Prometheus => self.nodes.prometheus.is_some(),
            Collector::Canary => self.nodes.requests.canary.is_some(),
            Collector::Registry => self.nodes.requests.registry.is_some(),
            Collector::ManagementApi => self.nodes.has_api,
        }
    }

    fn assemble(
        &self,
        at: Moment,
        read: NodesRead,
        judged: NodesJudged,
        keys: KeysRead,
        counted: KeyTotals,
    ) -> Observation {
        let mut failures = read.failures;
        failures.extend(read.api.failures);
        failures.extend(keys.failures);
        let mut seconds = read.seconds;
        seconds.retain(|collector, _| self.asks(*collector));
        if let Some((_, took)) = keys.api {
            seconds.insert(Collector::ManagementApi, took);
        }
        seconds.insert(Collector::Counters, keys.seconds);
        let success = |collector| {
            let failed = failures
                .iter()
                .any(|failure| failure.collector == collector);
            // A malformed key is counted, but the counters were read all the same.
            match (collector, &keys.read) {
                (Collector::Counters, CountersRead::Full) => true,
                (Collector::Counters, CountersRead::Partial { reason, .. }) => {
                    *reason == Reason::Budget
                }
                (Collector::Counters, CountersRead::Failed { .. }) => false,
                (Collector::ManagementApi, _) if keys.api.is_some() => {
                    keys.api.is_some_and(|(up, _)| up) && read.api_up != Some(false)
                }
                (Collector::Registry, _) => matches!(read.ping, Some(Ok(_))) && !failed,
                (
                    Collector::ManagementApi
                    | Collector::Redis
                    | Collector::Probes
                    | Collector::NodeMetrics
                    | Collector::Prometheus
                    | Collector::Canary,
                    _,
                ) => !failed,
            }
        };
        let collectors = seconds
            .iter()
            .map(|(collector, seconds)| {
                let run = CollectorRun {
                    success: success(*collector),
                    seconds: *seconds,
                };
                (*collector, run)
            })
            .collect();
        // A failure of an optional command is counted, but no collector failed by it.
        failures.extend(read.denied);
        let (redis_connected, ping_seconds, reason) = match &read.ping {
            None => (None, None, None),
            Some(Ok(took)) => (Some(true), Some(took.as_secs_f64()), None),
            Some(Err(failure)) => (Some(false), None, Some(failure.message.clone())),
        };
        let mut shards = read.shards;
        for shard in &mut shards {
            shard.swept_from = keys.sources.get(&shard.address).cloned();
        }
        Observation {
            nodes: judged.nodes,
            counters: Vec::new(),
            node_metrics: judged.metrics,
            latency_window_seconds: self.nodes.window,
            redis_connected,
            observed_at: Some(at.wall),
            steady_at: None,
            keys_hashed: self.keys.label == KeyLabel::Hash,
            redis: RedisReading {
                ping_seconds,
                reason,
                info: read.info,
                shards,
            },
            api_up: match (keys.api, read.api_up) {
                (Some((limits_up, _)), nodes_up) => Some(limits_up && nodes_up != Some(false)),
                (None, nodes_up) => nodes_up,
            },
            default_limit: self.keys.memory.limits.default_limit(),
            counters_read: keys.read,
            unjudged: keys.unjudged,
            limiter: Some(self.kind.clone()),
            totals: Some(KeyTotals {
                coverage: keys.coverage,
                last_full_pass: self.keys.last_full_pass,
                commands_total: self.keys.commands_total,
                without_expiry: self.keys.memory.without_expiry(),
                foreign: self.keys.memory.foreign(),
                ..counted
            }),
            listed: match (self.recording, self.kept.list_is_incomplete()) {
                (false, _) => CountersListed::Fullest,
                (true, false) => CountersListed::AboveLimits,
                (true, true) => CountersListed::TooMany,
            },
            failures,
            collectors,
        }
    }
}

/// While Redis cannot be read, the API's counters are better than none: the first 100, in the API's order. When the API is
/// not asked, there are no counters: earlier counts say nothing about the present.
async fn counters_of_api(
    (http, request): (&Http, &mut OptionalRequest),
    (at, deadline): (Moment, &Deadline),
    read: &NodesRead,
    keys: &mut KeysRead,
    sink: &mut dyn CounterSink,
) {
    let Some(base) = read.api.base.clone() else {
        return;
    };
    if !request.is_due(at.steady) {
        return;
    }
    let patient = http.within(ANSWER_WITHIN);
    let asked = async move { ManagementApi::new(&patient, base).counters().await };
    let asked = request.make(at.steady, http.timeout(), asked);
    let Some(outcome) = deadline.cut(asked).await else {
        return;
    };
    let late = || HttpError::late("GET /api/counters", http.timeout());
    let counters = match outcome.unwrap_or_else(|| Err(late())) {
        Ok(counters) => counters,
        Err(error) => {
            let failure = error.counted(Collector::ManagementApi, "");
            keys.failures.push(failure);
            return;
        }
    };
    let decoded: Vec<(Vec<u8>, u64, u64, u64)> = counters
        .iter()
        .filter_map(|counter| {
            let limit = u64::try_from(counter.limit).ok()?;
            let remaining = u64::try_from(counter.remaining).unwrap_or(0);
            let key = decode_key(&counter.key);
            // The API does not know the limit that the canary request contains.
            (!is_canary(&key)).then_some((key, counter.count, limit, remaining))
        })
        .collect();
    let views: Vec<CounterView<'_>> = decoded
        .iter()
        .map(|(key, count, limit, remaining)| CounterView {
            key,
            count: *count,
            limit: *limit,
            remaining: *remaining,
            window_ms: None,
            fell_from: None,
            condition: Condition::default(),
        })
        .collect();
    sink.recheck(at, &views);
    if let CountersRead::Failed { reason } = keys.read {
        keys.read = CountersRead::Partial {
            gone: Vec::new(),
            reason,
        };
    }
}

/// The memory that survives a restart.
#[derive(Serialize)]
struct Memory<'a> {
    nodes: &'a NodeMemory,
    /// The nodes' default limits, by address.
    defaults: BTreeMap<String, Limit>,
    /// The names of registrations.
    registry: Option<String>,
    last_full_pass: Option<Timestamp>,
    /// The names of counters in violation, which keep their labels.
    names: Vec<SavedName>,
    /// The limits of the configuration.
    settings: &'a SettingsMemory,
}

#[derive(Deserialize)]
struct Recalled {
    nodes: NodeMemory,
    #[serde(default)]
    defaults: BTreeMap<String, Limit>,
    #[serde(default)]
    registry: Option<String>,
    last_full_pass: Option<Timestamp>,
    #[serde(default)]
    names: Vec<SavedName>,
    settings: Option<SettingsMemory>,
}

impl Subject for Limiter {
    async fn observe<C: InvariantChecker>(
        &mut self,
        deadline: watch::Receiver<Instant>,
        checker: &mut C,
    ) -> Observation {
        let at = self.clock.now();
        let deadline = Deadline::new(deadline);
        let (shards_sent, shards) = oneshot::channel();
        let mut watched = checker.watched_keys();
        watched.extend(self.kept.watched().cloned());
        let needs = Needs {
            shards,
            defaults: self.nodes.default_limits.subscribe(),
            nodes: self.nodes.memory.ids().cloned().collect(),
            watched: watched.into_iter().collect(),
        };
        let mut summary = Summary::new(checker, &mut self.kept, self.max_series);
        let (begun, swept) = (Instant::now(), CancellationToken::new());
        let nodes = async {
            let reading = self.nodes.run(at, &deadline, shards_sent);
            let read = reading.await;
            (
                read,
                self.nodes.glance_until(&swept, begun, &deadline).await,
            )
        };
        let keys = async {
            let keys = self.keys.run(&self.clock, &deadline, needs, &mut summary);
            let keys = keys.await;
            swept.cancel();
            keys
        };
        let ((mut read, glances), mut keys) = tokio::join!(nodes, keys);
        let ids = std::mem::take(&mut keys.node_ids);
        self.nodes.add_swept_nodes(&deadline, ids, &mut read).await;
        let judged = self.nodes.judge(at, &deadline, &mut read).await;
        self.nodes.memory.learn_glances(glances);
        let described = self.keys.memory.described.as_mut();
        if let Some(api) = described.and_then(|kind| kind.api.as_mut()) {
            api.set_nodes(self.nodes.registered_urls(&judged.nodes));
        }
        // Of a plain log, as the API has it.
        if matches!(keys.read, CountersRead::Failed { .. }) && self.keys.memory.described.is_none()
        {
            let api = (&self.nodes.http, &mut self.counter_list);
            counters_of_api(api, (at, &deadline), &read, &mut keys, &mut summary).await;
        }
        let (counted, counters) = summary.finish(self.keys.label);
        let mut observation = self.assemble(at, read, judged, keys, counted);
        observation.counters = counters;
        observation
    }

    async fn observe_more<C: InvariantChecker>(
        &mut self,
        checker: &mut C,
        give_way: impl Future<Output = ()> + Send,
    ) -> bool {
        let mut summary = Summary::between(checker, &mut self.kept, self.max_series);
        let more = self.keys.go_on(&self.clock, &mut summary, give_way);
        let more = more.await;
        summary.keep();
        more
    }

    async fn glance(&mut self) -> Duration {
        self.nodes.glance().await;
        self.nodes.timing.glance_every()
    }

    fn remember(&self) -> serde_json::Value {
        let described = self.keys.memory.described.as_ref();
        let memory = Memory {
            nodes: &self.nodes.memory,
            defaults: self.nodes.default_limits.saved(),
            registry: self.nodes.registrations(),
            last_full_pass: self.keys.last_full_pass,
            names: described.map(Described::saved_names).unwrap_or_default(),
            settings: &self.keys.memory.settings,
        };
        // Plain data with text keys always serializes.
        serde_json::to_value(memory).unwrap_or_default()
    }

    fn bulk(&self) -> Option<Bulk> {
        Some(self.keys.memory.bulk())
    }

    fn recall_bulk(&mut self, bulk: &mut dyn Read) -> Result<(), String> {
        let recalled = self.keys.memory.recall(bulk);
        recalled.map_err(|error| error.to_string())
    }

    fn recall(&mut self, memory: serde_json::Value) -> Result<(), String> {
        let recalled: Recalled =
            serde_json::from_value(memory).map_err(|error| error.to_string())?;
        // Registrations that have other names now have not vanished.
        if recalled.registry.is_none() || recalled.registry == self.nodes.registrations() {
            self.nodes.take_memory(recalled.nodes);
            self.nodes.default_limits.recall(recalled.defaults);
        }
        self.keys.last_full_pass = recalled.last_full_pass;
        let memory = &mut self.keys.memory;
        if let Some(settings) = recalled.settings {
            memory.settings.follow(settings, self.clock.now().steady);
        }
        if let Some(described) = &mut memory.described {
            described.recall_names(recalled.names);
        }
        Ok(())
    }

    fn take_over(&mut self, before: Self) -> bool {
        self.go_on_from(before)
    }

    fn actor(&self) -> Arc<dyn Actor> {
        Arc::clone(&self.actor) as Arc<dyn Actor>
    }
}
