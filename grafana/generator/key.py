"""One key: its count against its limit, and when it was in violation."""

from board import dashboard, row, variable, variables
from parts import (
    BLUE,
    COUNTER_DRIFT,
    GREEN,
    KEY,
    KEY_SUBJECT,
    OF_KEYS,
    ORANGE,
    RED,
    STATES,
    YELLOW,
    by_query,
    graph,
    limit_line,
    mappings,
    query,
    series,
    stat,
    states_of,
    steps,
    timeline,
)

_COUNT = f"max({series('ratelimiter_key_requests', KEY)})"
_LIMIT = f"max({series('ratelimiter_key_requests_limit', KEY)})"
_REMAINING = f"min({series('ratelimiter_key_requests_remaining', KEY)})"
_WINDOW = f"max({series('ratelimiter_key_window_seconds', KEY)})"
_DRIFT = f"max({series('ratelimiter_invariant_threshold_ratio', COUNTER_DRIFT)})"
_SINCE = series("ratelimiter_invariant_active_since_timestamp_seconds", OF_KEYS, KEY_SUBJECT)
_WORST = f"max({states_of([OF_KEYS, KEY_SUBJECT])} or 0 * {_COUNT})"

_ABSENT = "Absent while the key is not among the exported ones (--keys.max-series)."


def _now():
    return row(
        "Key $key",
        stat(
            "State",
            "The worst of the invariants about counters for this key: counter_drift, ghost_allowing, stuck_counter, invalid_counter.",
            [query(_WORST, "state", instant=True)],
            size=(4, 4),
            unit="none",
            defaults={"mappings": mappings([(0, "ok", GREEN), (2, "pending", ORANGE), (3, "violated", RED)])},
        ),
        stat(
            "In violation for",
            "How long the oldest violation of this key lasts, its grace period included; 0 without one.",
            [query(f"time() - min({_SINCE}) or 0 * {_COUNT}", "violated", instant=True)],
            size=(4, 4),
            unit="s",
            thresholds=steps((None, GREEN), (1e-9, RED)),
            defaults={"decimals": 0},
        ),
        stat(
            "Utilization",
            "Requests in the window against the limit. Above 100 % is a violation where State says so, and demand where refused "
            f"requests are in the count. {_ABSENT}",
            [query(f"clamp_max({_COUNT} / {_LIMIT}, 10)", "utilization", instant=True)],
            size=(4, 4),
            unit="percentunit",
            thresholds=steps((None, GREEN), (0.9, YELLOW), (1.000001, ORANGE)),
            defaults={"decimals": 0},
        ),
        stat(
            "Count",
            f"Requests inside the window: those admitted, and those refused where the limiter counts them. {_ABSENT}",
            [query(_COUNT, "count", instant=True)],
            size=(3, 4),
            unit="short",
        ),
        stat(
            "Limit",
            f"Requests allowed per window. {_ABSENT}",
            [query(_LIMIT, "limit", instant=True)],
            size=(3, 4),
            unit="short",
        ),
        stat(
            "Remaining",
            f"Requests left in the window. {_ABSENT}",
            [query(_REMAINING, "remaining", instant=True)],
            size=(3, 4),
            unit="short",
        ),
        stat(
            "Window",
            f"How long a request counts. {_ABSENT}",
            [query(_WINDOW, "window", instant=True)],
            size=(3, 4),
            unit="s",
            thresholds=steps((None, BLUE)),
        ),
    )


def _history():
    return row(
        "History",
        graph(
            "Count against limit",
            "Requests inside the window, and the limit. Where only admitted requests are counted, above it is ghost_allowing, and "
            "the dotted line is where counter_drift begins. Where refused ones are counted too, above it is demand, and there is no "
            f"dotted line. {_ABSENT}",
            [
                query(_COUNT, "count"),
                query(_LIMIT, "limit"),
                query(f"{_LIMIT} * (1 + {_DRIFT})", "counter_drift begins"),
            ],
            size=(16, 9),
            unit="short",
            overrides=[
                limit_line("B"),
                by_query(
                    "C",
                    color={"mode": "fixed", "fixedColor": ORANGE},
                    custom__lineStyle={"fill": "dot", "dash": [0, 6]},
                    custom__fillOpacity=0,
                ),
            ],
        ),
        graph(
            "Remaining over time",
            f"Requests left in the window. {_ABSENT}",
            [query(_REMAINING, "remaining")],
            size=(8, 9),
            unit="short",
        ),
        timeline(
            "Violations",
            "The invariants about counters for this key, pending violations included. A key has a row from its first "
            "violation until 10 minutes after its last.",
            [query(states_of([KEY_SUBJECT]), "{{name}}")],
            STATES,
            size=(16, 7),
        ),
        graph(
            "Window over time",
            f"How long a request counts; a step is a change of the limit's window. {_ABSENT}",
            [query(_WINDOW, "window")],
            size=(8, 7),
            unit="s",
        ),
    )


def build():
    """The dashboard as plain data."""
    key = variable(
        "key",
        "Key",
        "An exported key: the fullest, and all in violation.",
        f"label_values({series('ratelimiter_key_requests')}, key)",
    )
    return dashboard(
        "ratelimiter-key",
        "Rate limiter / Key",
        "One key of the rate limiter: its count against its limit, what remains, and its violations.",
        variables(key),
        [_now(), _history()],
    )
