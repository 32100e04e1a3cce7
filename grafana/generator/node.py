"""One node: is it up, does it reach Redis, how fast does it answer, and since when."""

from board import dashboard, row, variable, variables
from parts import (
    BLUE,
    GREEN,
    GREY,
    HIGH_LATENCY,
    NODE,
    NODE_SUBJECT,
    RED,
    STATES,
    YELLOW,
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
    timeline,
)

_UP = [(1, "Up", GREEN), (0, "Down", RED), (-1, "Unknown", GREY)]
_REACHED = [(1, "Reached", GREEN), (0, "Not reached", RED), (-1, "Unknown", GREY)]

# 1, 0, or -1 where there is no evidence: the node is known, and its state is absent.
_KNOWN = f"0 * max({series('ratelimiter_node_info', NODE)}) - 1"
_STATE = f"max({series('ratelimiter_node_up', NODE)}) or {_KNOWN}"
_REDIS = f"max({series('ratelimiter_node_redis_connected', NODE)}) or {_KNOWN}"
_P99 = f"max({series('ratelimiter_node_latency_p99_seconds', NODE)})"
_THRESHOLD = f"max({series('ratelimiter_invariant_threshold_seconds', HIGH_LATENCY)})"
_TTL = f"max({series('ratelimiter_node_heartbeat_ttl_seconds', NODE)})"
_BUCKETS = f"rate({series('ratelimiter_node_check_duration_seconds_bucket', NODE)}[$__rate_interval])"


def _now():
    return row(
        "Node $node_id",
        stat(
            "State",
            "Up, Down, or Unknown where the evidence proves neither.",
            [query(_STATE, "state", instant=True)],
            size=(4, 4),
            unit="none",
            defaults={"mappings": mappings(_UP)},
        ),
        stat(
            "Its way to Redis",
            "Whether the node reaches Redis; Unknown without evidence.",
            [query(_REDIS, "Redis", instant=True)],
            size=(4, 4),
            unit="none",
            defaults={"mappings": mappings(_REACHED)},
        ),
        stat(
            "p99 against the threshold",
            "The node's p99 check latency over --latency.window as a share of the threshold of high_latency: above 100 % is a "
            "violation once the grace period is over.",
            [query(f"{_P99} / {_THRESHOLD}", "p99", instant=True)],
            size=(4, 4),
            unit="percentunit",
            thresholds=steps((None, GREEN), (0.8, YELLOW), (1.000001, RED)),
            defaults={"decimals": 0},
        ),
        stat(
            "Registration runs out in",
            "The TTL of the node's registration. A heartbeat renews it every 10 s to 30 s: below 20 s one is late.",
            [query(_TTL, "TTL", instant=True)],
            size=(4, 4),
            unit="s",
            thresholds=steps((None, RED), (10, YELLOW), (20, GREEN)),
            defaults={"decimals": 0},
        ),
        stat(
            "Checks",
            "Requests that the node checked per second.",
            [
                query(
                    "sum(max by (result) "
                    f"(rate({series('ratelimiter_node_requests_checked_total', NODE)}[$__rate_interval])))",
                    "checks",
                    instant=True,
                )
            ],
            size=(4, 4),
            unit="reqps",
        ),
        stat(
            "Address",
            "Where the node registered itself.",
            [query(f"max by (address) ({series('ratelimiter_node_info', NODE)})", "{{address}}", instant=True)],
            size=(4, 4),
            unit="none",
            text="name",
            thresholds=steps((None, BLUE)),
        ),
    )


def _history():
    return row(
        "History",
        timeline(
            "State over time",
            "Whether the node was up. A gap: it was not known, or nothing was scraped.",
            [query(_STATE, "node"), query(_REDIS, "its way to Redis")],
            [(1, "yes", GREEN), (0, "no", RED), (-1, "unknown", GREY)],
            size=(12, 6),
        ),
        timeline(
            "Violations",
            "The invariants about this node, pending violations included.",
            [query(states_of([NODE_SUBJECT]), "{{name}}")],
            STATES,
            size=(12, 6),
        ),
    )


def _latency():
    quantiles = [
        query(f"histogram_quantile({q}, max by (le) ({_BUCKETS}))", f"p{name}")
        for q, name in [("0.5", "50"), ("0.9", "90"), ("0.99", "99")]
    ]
    return row(
        "Latency",
        heatmap(
            "Check latency",
            "Checks per second by how long they took, in the buckets of the node's own histogram.",
            f"max by (le) ({_BUCKETS})",
            size=(12, 9),
            unit="s",
        ),
        graph(
            "Check latency quantiles",
            "From the node's own histogram; judged is the p99 as the exporter counts it, over --latency.window. The dashed line "
            "is the threshold of high_latency.",
            [*quantiles, query(_P99, "p99, as judged"), query(_THRESHOLD, "threshold")],
            size=(12, 9),
            unit="s",
            overrides=[by_query("D", custom__lineWidth=2), limit_line("E")],
        ),
    )


def _life():
    checks = series("ratelimiter_node_requests_checked_total", NODE)
    return row(
        "Heartbeat and traffic",
        graph(
            "Heartbeat: TTL of the registration",
            "Renewed to 30 s every 10 s, so it goes up and down between 20 s and 30 s. A fall below 20 s is a late heartbeat, "
            "0 is a registration that ran out. A gap: there is none.",
            [query(_TTL, "TTL")],
            size=(8, 8),
            unit="s",
        ),
        graph(
            "GET /health",
            "How long the node took to answer the exporter's probe. A gap: it did not answer.",
            [query(f"max({series('ratelimiter_node_probe_duration_seconds', NODE)})", "probe")],
            size=(8, 8),
            unit="s",
        ),
        graph(
            "Checks by result",
            "Requests checked per second, by the node's answer, and its 5xx answers.",
            [
                query(f"max by (result) (rate({checks}[$__rate_interval]))", "{{result}}"),
                query(
                    f"max(rate({series('ratelimiter_node_check_errors_total', NODE)}[$__rate_interval]))",
                    "5xx",
                ),
            ],
            size=(8, 8),
            unit="reqps",
            overrides=[by_query("B", color={"mode": "fixed", "fixedColor": RED})],
        ),
    )


def build():
    """The dashboard as plain data."""
    node = variable(
        "node_id",
        "Node",
        "A node of the limiter.",
        f"label_values({series('ratelimiter_node_info')}, node_id)",
    )
    return dashboard(
        "ratelimiter-node",
        "Rate limiter / Node",
        "One node of the rate limiter: its state, its way to Redis, its latency and its heartbeat.",
        variables(node),
        [_now(), _history(), _latency(), _life()],
    )
