//! What a reason means or what to do about it, in one line. docs/INVARIANTS.md has more.

/// The line for the reason of a verdict that is unknown or inconclusive.
pub(super) fn advice(reason: &str) -> &'static str {
    match reason {
        "first_sample" => "the next collection can compare",
        "no_samples" => "the node checked nothing within --latency.window",
        "histogram_never_counts" => {
            "the node exports a latency histogram but never counts in it: name another with --latency.metric"
        }
        "no_histogram" => {
            "the node exports no latency histogram that is known: name it with --latency.metric"
        }
        "invalid_histogram" => {
            "a bucket of the node's latency histogram is no number: look at the node's /metrics"
        }
        "prometheus_no_series" => {
            "the server of --prometheus.url has no such series with the node's id as node_id, or of other kinds than the \
             reference limiter with its address as instance"
        }
        "bucket_too_coarse" => {
            "the threshold lies inside the histogram bucket that holds the p99: name a finer histogram with \
             --latency.metric, or move the threshold to a bucket's edge"
        }
        "no_default_limit" => {
            "GET /api/limits did not answer yet: keys without a limit of their own cannot be judged"
        }
        "redis_down" => "Redis does not answer the exporter",
        "replica_stale" => "the replica lost its primary: see what was not read",
        "redis_just_returned" | "redis_restarted" => {
            "nodes get the time of two heartbeats to return"
        }
        "redis_was_out_of_memory" => {
            "Redis has memory again: nodes get the time of two heartbeats to renew their registrations"
        }
        "canary_unanswered" => {
            "the node did not answer the canary: see what was not read of the canary"
        }
        "no_metrics" => "the node's /metrics was not read: see what was not read",
        "never_reached" => {
            "the node is known by its registration alone: let the exporter reach the nodes' addresses"
        }
        "not_registered" | "deregistered" => {
            "the node answers but has no registration: look at its log"
        }
        "registration_lost" => {
            "the registration is missing, and neither expired nor was deleted by the node: look at its log"
        }
        "registration_without_ttl" => "nothing renews this registration: find out who wrote it",
        "registry_unreadable" => "the registrations could not be read from Redis",
        "deadline" => "the collection ended first: give the scrape more time",
        "not_probed" => "no probe was made: see --probe.nodes, and what was not read",
        _ => "see what was not read",
    }
}
