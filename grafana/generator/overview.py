"""The overview: what is wrong right now, since when, and where to look further."""

from board import dashboard, row, variables
from monitoring import monitoring
from parts import (
    BLUE,
    GHOST_ALLOWING,
    GREEN,
    GREY,
    HIGH_LATENCY,
    NO_NODES,
    OF_KEYS,
    ORANGE,
    RED,
    YELLOW,
    by_name,
    by_query,
    graph,
    heatmap,
    limit_line,
    mappings,
    query,
    series,
    stat,
    states_of,
    steps,
    table,
    to_key,
    to_node,
)
from violations import violations

# -1 not judged, 0 enforcing, 1 unknown, 2 cannot enforce, 3 over-admitting: the worst that is known.
_VERDICT = f"""
max(
    3 * ({series("ratelimiter_invariant_violations", GHOST_ALLOWING)} > bool 0)
  or
    2 * (1 - {series("ratelimiter_redis_up")} * on (instance) max by (instance) ({series("ratelimiter_node_up")}))
  or
    2 - 3 * {series("ratelimiter_redis_up")}
  or
    1 - {series("ratelimiter_invariant_evaluable", GHOST_ALLOWING)}
)
"""

# -2 where there is no node at all.
_NO_NODES = f"""(-2 * max({series("ratelimiter_limiter_info")}) unless on () {series("ratelimiter_node_info")})"""


def _verdict():
    return row(
        "Right now",
        stat(
            "Limiter",
            "Whether the limiter enforces its limits. Over-admitting: some key has more requests than its limit. "
            "Cannot enforce: Redis does not answer, or no node is up. Unknown: the counters could not be read. Not judged: "
            "refused requests are in all counts of this kind, so that a count says nothing of what was admitted.",
            [query(_VERDICT, "limiter", instant=True)],
            size=(4, 4),
            unit="none",
            defaults={
                "mappings": mappings(
                    [
                        (-1, "Not judged", GREY),
                        (0, "Enforcing", GREEN),
                        (1, "Unknown", GREY),
                        (2, "Cannot enforce", RED),
                        (3, "Over-admitting", RED),
                    ]
                )
            },
        ),
        stat(
            "Violations by severity",
            "Subjects in reported violation: past their grace period. Exact, whatever the caps on series.",
            [
                query(
                    f"sum by (severity) (max by (name, severity) ({series('ratelimiter_invariant_violations')}))",
                    "{{severity}}",
                    instant=True,
                ),
                query(
                    f"count(max by (name, subject) ({series('ratelimiter_invariant_pending')})) "
                    f"or 0 * max({series('ratelimiter_invariant_violations')})",
                    "pending",
                    instant=True,
                ),
            ],
            size=(7, 4),
            unit="short",
            text="value_and_name",
            thresholds=steps((None, GREEN), (1, ORANGE)),
            overrides=[
                by_name("critical", thresholds=steps((None, GREEN), (1, RED))),
                by_name("pending", thresholds=steps((None, GREEN), (1, YELLOW))),
            ],
        ),
        stat(
            "Nodes",
            "Each known node: up, down, or unknown where the evidence proves neither. A click leads to the node. "
            "A library inside applications has no nodes.",
            [
                query(
                    f"max by (node_id) ({series('ratelimiter_node_up')}) "
                    f"or 0 * max by (node_id) ({series('ratelimiter_node_info')}) - 1 or {_NO_NODES}",
                    "{{node_id}}",
                    instant=True,
                )
            ],
            size=(6, 4),
            unit="none",
            text="value_and_name",
            defaults={
                "mappings": mappings(
                    [(1, "Up", GREEN), (0, "Down", RED), (-1, "Unknown", GREY), (-2, "No nodes", GREY)]
                ),
                "links": [to_node("${__field.labels.node_id:percentencode}")],
            },
        ),
        stat(
            "Redis",
            "Whether Redis answers the exporter's PING in time.",
            [query(f"min({series('ratelimiter_redis_up')})", "Redis", instant=True)],
            size=(2, 4),
            unit="none",
            defaults={"mappings": mappings([(1, "Up", GREEN), (0, "Down", RED)])},
        ),
        stat(
            "Age of the oldest reading",
            "How long ago the source that has waited longest was last read in full. Everything else here is as fresh as "
            "that, or fresher.",
            [
                query(
                    "time() - min(max by (collector) "
                    f"({series('ratelimiter_collection_last_success_timestamp_seconds')}))",
                    "oldest",
                    instant=True,
                )
            ],
            size=(3, 4),
            unit="s",
            thresholds=steps((None, GREEN), (60, YELLOW), (300, RED)),
            defaults={"decimals": 0},
        ),
        stat(
            "Exporter",
            "Whether Prometheus reaches the exporter. While it does not, everything else on this page is out of date.",
            [query(f"max({series('up')})", "exporter", instant=True)],
            size=(2, 4),
            unit="none",
            defaults={"mappings": mappings([(1, "Scraped", GREEN), (0, "Down", RED)])},
        ),
    )


def _latency():
    buckets = series("ratelimiter_node_check_duration_seconds_bucket")
    return row(
        "Nodes: latency and traffic",
        graph(
            "Check latency p50 and p99 by node",
            "p99 is the exporter's own figure over --latency.window, the one that is judged; p50 is from the nodes' histogram. "
            "The dashed line is the threshold of high_latency.",
            [
                query(f"max by (node_id) ({series('ratelimiter_node_latency_p99_seconds')})", "{{node_id}} p99"),
                query(
                    f"histogram_quantile(0.5, max by (node_id, le) (rate({buckets}[$__rate_interval])))",
                    "{{node_id}} p50",
                ),
                query(
                    f"max({series('ratelimiter_invariant_threshold_seconds', HIGH_LATENCY)})",
                    "threshold",
                ),
            ],
            size=(14, 8),
            unit="s",
            defaults={"noValue": NO_NODES},
            overrides=[
                by_query("A", links=[to_node("${__field.labels.node_id:percentencode}")]),
                by_query(
                    "B",
                    links=[to_node("${__field.labels.node_id:percentencode}")],
                    custom__lineStyle={"fill": "dash", "dash": [2, 4]},
                    custom__fillOpacity=0,
                ),
                limit_line("C"),
            ],
        ),
        graph(
            "Checks by result",
            "Requests checked per second, by what the nodes answered, and the 5xx answers among them.",
            [
                query(
                    "sum by (result) (max by (node_id, result) "
                    f"(rate({series('ratelimiter_node_requests_checked_total')}[$__rate_interval])))",
                    "{{result}}",
                ),
                query(
                    f"sum(max by (node_id) (rate({series('ratelimiter_node_check_errors_total')}[$__rate_interval])))",
                    "5xx",
                ),
            ],
            size=(10, 8),
            unit="reqps",
            defaults={"noValue": NO_NODES},
            overrides=[by_query("B", color={"mode": "fixed", "fixedColor": RED})],
        ),
    )


def _redis():
    return row(
        "Redis",
        graph(
            "PING",
            "How long Redis took to answer the exporter's PING. A gap means that it did not.",
            [query(f"max({series('ratelimiter_redis_ping_duration_seconds')})", "PING")],
            size=(8, 7),
            unit="s",
        ),
        graph(
            "Memory",
            "What Redis uses, and what it may use. There is no limit line while maxmemory is 0.",
            [
                query(f"max({series('ratelimiter_redis_memory_used_bytes')})", "used"),
                query(f"max({series('ratelimiter_redis_memory_max_bytes')}) > 0", "maxmemory"),
            ],
            size=(8, 7),
            unit="bytes",
            overrides=[limit_line("B")],
        ),
        graph(
            "Evicted keys",
            "Keys per second that Redis evicted because its memory was full. An evicted counter lets requests through uncounted: "
            "anything above 0 is wrong.",
            [
                query(
                    f"max(rate({series('ratelimiter_redis_evicted_keys_total')}[$__rate_interval]))",
                    "evicted",
                )
            ],
            size=(8, 7),
            unit="cps",
        ),
    )


def _keys():
    count = f"max by (key) ({series('ratelimiter_key_requests')})"
    limit = f"max by (key) ({series('ratelimiter_key_requests_limit')})"
    # A request under a limit of 0 is infinitely over it; a bar has to end somewhere.
    used = f"clamp_max({count} / {limit}, 10)"
    top = f"topk(10, {used})"
    # 0 where no violation of the key is pending or reported.
    states = f'label_replace({states_of([OF_KEYS])}, "key", "$1", "subject", "(?s)(.*)")'
    state = f"max by (key) ({states}) and on (key) {top} or on (key) 0 * {top}"

    def also(metric):
        return query(f"max by (key) ({series(metric)}) and on (key) {top}", instant=True, form="table")

    return row(
        "Keys",
        table(
            "Top keys by utilization",
            "The ten exported keys that are fullest: requests in the window against the limit, and whether that is a violation. "
            "Above 100 % without one is demand: refused requests are in the count. A click leads to the key.",
            [
                query(top, instant=True, form="table"),
                also("ratelimiter_key_requests"),
                also("ratelimiter_key_requests_limit"),
                also("ratelimiter_key_requests_remaining"),
                also("ratelimiter_key_window_seconds"),
                query(state, instant=True, form="table"),
            ],
            size=(14, 10),
            unit="short",
            columns={
                "key": "Key",
                "Value #F": "State",
                "Value #A": "Utilization",
                "Value #B": "Count",
                "Value #C": "Limit",
                "Value #D": "Remaining",
                "Value #E": "Window",
            },
            sort="Utilization",
            overrides=[
                by_name("key", links=[to_key("${__data.fields.key:percentencode}")]),
                by_name(
                    "Value #A",
                    unit="percentunit",
                    min=0,
                    max=1.5,
                    decimals=0,
                    thresholds=steps((None, BLUE), (0.9, YELLOW), (1.000001, ORANGE)),
                    custom__cellOptions={"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
                    custom__minWidth=160,
                ),
                by_name("Value #E", unit="s"),
                by_name(
                    "Value #F",
                    mappings=mappings([(0, "ok", GREEN), (2, "pending", ORANGE), (3, "violated", RED)]),
                    custom__width=90,
                    custom__cellOptions={"type": "color-background", "mode": "basic"},
                ),
            ],
        ),
        heatmap(
            "Utilization of all keys",
            "How many keys are how full: every live key of the last full pass, whatever is exported. Each column is a "
            "picture of that moment, not a rate. Above 1 is over the limit: a violation, or demand where refused requests are in "
            "the count.",
            f"max by (le) ({series('ratelimiter_keys_utilization_ratio_bucket')})",
            size=(10, 10),
            unit="percentunit",
            scheme="Blues",
        ),
        table(
            "Counters of the limiter",
            "What is watched: the counters of this kind, how they count, and whether refused requests are in the count (counted), "
            "not in it, or the first of each window (capped). Without expiry: keys that should expire and do not; empty where "
            "that is not read.",
            [
                query(
                    f"max by (kind, counter, count, refused) ({series('ratelimiter_limiter_info')})",
                    instant=True,
                    form="table",
                ),
                query(
                    f"max by (counter) ({series('ratelimiter_keys_without_expiry')})",
                    instant=True,
                    form="table",
                ),
            ],
            size=(14, 7),
            unit="short",
            columns={
                "kind": "Kind",
                "counter": "Counter",
                "count": "Method",
                "refused": "Refused requests",
                "Value #B": "Without expiry",
            },
            sort="Counter",
        ),
        graph(
            "Keys without expiry",
            "Keys that should expire and do not, by counter: they stay in Redis's memory until they are deleted. Estimated from a "
            "sample where there are many.",
            [query(f"max by (counter) ({series('ratelimiter_keys_without_expiry')})", "{{counter}}")],
            size=(10, 7),
            unit="short",
            defaults={"noValue": "not read for this kind of limiter"},
        ),
    )


def build():
    """The dashboard as plain data."""
    return dashboard(
        "ratelimiter-overview",
        "Rate limiter / Overview",
        "Whether the rate limiter enforces its limits, what is violated since when, and what could not be read.",
        variables(),
        [_verdict(), violations(), _latency(), _redis(), _keys(), monitoring()],
    )
