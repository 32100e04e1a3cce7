//! Every metric, declared once: name, kind, labels, help. A test checks the metric reference in `docs/` against this.

/// What kind of metric it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up, apart from restarts.
    Counter,
    /// A distribution in cumulative buckets.
    Histogram,
}

/// A metric's declaration.
#[derive(Debug)]
pub struct Definition {
    /// The name.
    pub name: &'static str,
    /// The kind.
    pub kind: Kind,
    /// The label names, in the order of the values.
    pub labels: &'static [&'static str],
    /// The HELP text.
    pub help: &'static str,
}

macro_rules! definitions {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(
            #[doc = concat!("`", $name, "`")]
            pub(super) static $constant: Definition = Definition {
                name: $name,
                kind: Kind::$kind,
                labels: &[$($label),*],
                help: $help,
            };
        )+

        /// Every metric that the exporter itself declares; `process_*` comes from the client library.
        pub static DEFINITIONS: &[&Definition] = &[$(&$constant),+];
    };
}

definitions! {
    VIOLATION = Gauge "invariant_violation" ["name", "severity", "subject"]
        "1 while the invariant is violated for the subject and the grace period is over, else 0.";
    PENDING = Gauge "ratelimiter_invariant_pending" ["name", "subject"]
        "1 while the invariant is violated for the subject inside its grace period.";
    DRAINING = Gauge "ratelimiter_invariant_draining_seconds" ["name", "subject"]
        "For how long a count that was legal before its limit fell may still drain: it is pending until then.";
    ACTIVE_SINCE = Gauge "ratelimiter_invariant_active_since_timestamp_seconds" ["name", "subject"]
        "When the pending or reported violation was first seen, as Unix time in seconds.";
    VIOLATIONS = Gauge "ratelimiter_invariant_violations" ["name", "severity"]
        "Subjects in reported violation, those without a series of their own included.";
    STARTED = Counter "ratelimiter_invariant_violations_started_total" ["name", "severity"]
        "Violations that were reported since the exporter started.";
    DROPPED = Gauge "ratelimiter_invariant_subjects_dropped" ["name"]
        "Violating subjects without a series of their own, because of --keys.max-series.";
    EVALUABLE = Gauge "ratelimiter_invariant_evaluable" ["name"]
        "1 if every subject of the invariant could be evaluated in this collection, else 0.";
    GRACE = Gauge "ratelimiter_invariant_grace_period_seconds" ["name"]
        "How long a violation must last before it is reported, in seconds.";
    THRESHOLD_SECONDS = Gauge "ratelimiter_invariant_threshold_seconds" ["name"]
        "The threshold of high_latency, in seconds.";
    THRESHOLD_RATIO = Gauge "ratelimiter_invariant_threshold_ratio" ["name"]
        "The threshold of counter_drift, as a share of the limit.";
    UP = Gauge "ratelimiter_up" []
        "1 if the limiter's API (the management API, or the one that its limits are in) answered without an error, else 0.";
    NODES = Gauge "ratelimiter_nodes" []
        "Nodes that are known, up or not.";
    NODE_UP = Gauge "ratelimiter_node_up" ["node_id"]
        "1 if the node's state is Up, 0 if it is anything else; absent while it is unknown.";
    NODE_INFO = Gauge "ratelimiter_node_info" ["node_id", "address"]
        "1, with the node's address.";
    NODE_TTL = Gauge "ratelimiter_node_heartbeat_ttl_seconds" ["node_id"]
        "Time until the node's registration expires, in seconds.";
    NODE_PROBE = Gauge "ratelimiter_node_probe_duration_seconds" ["node_id"]
        "Time the node took to answer the request for its health, in seconds.";
    NODE_REDIS = Gauge "ratelimiter_node_redis_connected" ["node_id"]
        "1 if the node reaches Redis, 0 if not; absent without evidence.";
    NODE_P99 = Gauge "ratelimiter_node_latency_p99_seconds" ["node_id"]
        "99th percentile of the node's check latency over --latency.window, in seconds; absent without samples, and where \
         the threshold lies inside the histogram bucket that holds the p99.";
    NODE_CHECKS = Histogram "ratelimiter_node_check_duration_seconds" ["node_id"]
        "Check latency in seconds, as the node reports it.";
    NODE_CHECKED = Counter "ratelimiter_node_requests_checked_total" ["node_id", "result"]
        "Requests checked, as the node reports them.";
    NODE_ERRORS = Counter "ratelimiter_node_check_errors_total" ["node_id"]
        "Checks that failed, as the node reports them: of the reference limiter, 5xx answers to /check.";
    KEYS = Gauge "ratelimiter_keys" []
        "Live counters seen in the last full pass.";
    LIMITER_INFO = Gauge "ratelimiter_limiter_info" ["kind", "counter", "count", "refused"]
        "1 for each kind of counter that is watched: how it counts, and whether refused requests are counted, not_counted \
         or capped, which is the first one of each window.";
    KEYS_WITHOUT_EXPIRY = Gauge "ratelimiter_keys_without_expiry" ["counter"]
        "Keys that should expire and do not, in the last full pass: estimated from a sample of the names.";
    KEYS_FOREIGN = Gauge "ratelimiter_keys_foreign" []
        "Names in the last full pass that fit no counter of the kind.";
    KEYS_EXPORTED = Gauge "ratelimiter_keys_exported" []
        "Keys that have series of their own.";
    KEY_REQUESTS = Gauge "ratelimiter_key_requests" ["key"]
        "Admitted requests inside the key's window; refused ones, too, where ratelimiter_limiter_info has refused=\"counted\".";
    KEY_LIMIT = Gauge "ratelimiter_key_requests_limit" ["key"]
        "Requests allowed per window.";
    KEY_REMAINING = Gauge "ratelimiter_key_requests_remaining" ["key"]
        "Requests left in the window.";
    KEY_WINDOW = Gauge "ratelimiter_key_window_seconds" ["key"]
        "The key's window, in seconds.";
    UTILIZATION = Histogram "ratelimiter_keys_utilization_ratio" []
        "Count divided by limit, over all live counters of the last full pass.";
    REDIS_UP = Gauge "ratelimiter_redis_up" []
        "1 if Redis answered PING in time, else 0.";
    REDIS_SHARD_UP = Gauge "ratelimiter_redis_shard_up" ["shard"]
        "1 if the primary answered PING in time, else 0. One series for each primary of a cluster, or for the single server.";
    REDIS_PING = Gauge "ratelimiter_redis_ping_duration_seconds" []
        "Time Redis took to answer PING, in seconds.";
    REDIS_INFO = Gauge "ratelimiter_redis_info" ["version", "role", "mode"]
        "1, with the version, role and mode that Redis reports.";
    REDIS_EVICTED = Counter "ratelimiter_redis_evicted_keys_total" []
        "Keys that Redis evicted because memory was full: an evicted counter lets requests through.";
    REDIS_MEMORY = Gauge "ratelimiter_redis_memory_used_bytes" []
        "Memory that Redis uses, in bytes.";
    REDIS_MEMORY_MAX = Gauge "ratelimiter_redis_memory_max_bytes" []
        "Memory that Redis may use, in bytes; 0 = no limit.";
    SCAN_COVERAGE = Gauge "ratelimiter_scan_coverage_ratio" []
        "Share of the key space that the pass in progress has covered, 0 to 1; 1 after a full pass.";
    SCAN_LAST = Gauge "ratelimiter_scan_last_full_pass_timestamp_seconds" []
        "When the last full pass over all counters ended, as Unix time in seconds.";
    SCAN_SOURCE = Gauge "ratelimiter_scan_source_info" ["shard", "address", "role"]
        "1, with the server from which the counters of each primary are read: primary or replica.";
    SCAN_COMMANDS = Counter "ratelimiter_scan_commands_total" []
        "Redis commands sent to read counters and limits.";
    SCRAPE_DURATION = Gauge "ratelimiter_scrape_duration_seconds" []
        "Time the collection took, in seconds.";
    COLLECTOR_SUCCESS = Gauge "ratelimiter_scrape_collector_success" ["collector"]
        "1 if the collector read everything that it should, else 0.";
    COLLECTOR_DURATION = Gauge "ratelimiter_scrape_collector_duration_seconds" ["collector"]
        "Time the collector took, in seconds.";
    LAST_SUCCESS = Gauge "ratelimiter_collection_last_success_timestamp_seconds" ["collector"]
        "When the collector last succeeded, as Unix time in seconds.";
    ERRORS = Counter "ratelimiter_exporter_errors_total" ["collector", "reason"]
        "Failures by collector and reason.";
    COALESCED = Counter "ratelimiter_exporter_scrapes_coalesced_total" []
        "Scrapes that shared another scrape's collection.";
    RELOAD_OK = Gauge "ratelimiter_exporter_config_last_reload_successful" []
        "1 if the configuration was last loaded successfully, else 0.";
    RELOAD_AT = Gauge "ratelimiter_exporter_config_last_reload_success_timestamp_seconds" []
        "When the configuration was last loaded successfully, as Unix time in seconds.";
    STATE_WRITTEN = Gauge "ratelimiter_exporter_state_last_write_successful" []
        "1 if the state was last written to --state.file, else 0.";
    UNAUTHORIZED = Counter "ratelimiter_exporter_http_requests_unauthorized_total" ["credentials"]
        "Requests that were refused because their user or password was missing or wrong.";
    BUILD_INFO = Gauge "ratelimiter_exporter_build_info" ["version", "revision", "rustversion"]
        "1, with the version, revision and compiler of this build.";
}
