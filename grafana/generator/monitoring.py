"""The row about the exporter itself on the overview: what it costs, and what it could not read."""

from board import row
from parts import (
    GREEN,
    RED,
    by_query,
    graph,
    query,
    series,
    timeline,
)


def monitoring():
    """The row; collapsed, since all this is of use only when something above is missing."""
    return row(
        "The monitoring itself",
        graph(
            "Collection time by source",
            "How long each source took, and the whole collection, which must stay below the scrape timeout. redis and "
            "registry share one reading, as do probes and node_metrics.",
            [
                query(
                    f"max by (collector) ({series('ratelimiter_scrape_collector_duration_seconds')})",
                    "{{collector}}",
                ),
                query(f"max({series('ratelimiter_scrape_duration_seconds')})", "the whole collection"),
            ],
            size=(12, 8),
            unit="s",
            overrides=[by_query("B", custom__lineWidth=2)],
        ),
        timeline(
            "Sources",
            "Whether the exporter read everything from each source. A gap: it did not ask.",
            [
                query(
                    f"min by (collector) ({series('ratelimiter_scrape_collector_success')})",
                    "{{collector}}",
                )
            ],
            [(1, "read", GREEN), (0, "failed", RED)],
            size=(12, 8),
        ),
        graph(
            "Errors by source and reason",
            "Failures per second. The reasons are explained in the exporter's docs/METRICS.md.",
            [
                query(
                    "sum by (collector, reason) "
                    f"(rate({series('ratelimiter_exporter_errors_total')}[$__rate_interval]))",
                    "{{collector}} {{reason}}",
                )
            ],
            size=(12, 8),
            unit="cps",
        ),
        graph(
            "Coverage of the key space",
            "The share of the key space that the pass under way has covered; 1 after a full pass and as long as Redis tells "
            "of every write since.",
            [query(f"min({series('ratelimiter_scan_coverage_ratio')})", "coverage")],
            size=(6, 8),
            unit="percentunit",
            defaults={"max": 1},
        ),
        graph(
            "Age of the last full pass",
            "Seconds since the last full pass over all keys. It grows while passes do not fit into --scan.budget.",
            [
                query(
                    f"time() - max({series('ratelimiter_scan_last_full_pass_timestamp_seconds')})",
                    "age",
                )
            ],
            size=(6, 8),
            unit="s",
        ),
        graph(
            "Keys and series",
            "Live keys, keys with series of their own, violations without one, and the samples that Prometheus took per scrape.",
            [
                query(f"max({series('ratelimiter_keys')})", "live keys"),
                query(f"max({series('ratelimiter_keys_exported')})", "exported keys"),
                query(
                    f"sum(max by (name) ({series('ratelimiter_invariant_subjects_dropped')}))",
                    "violations without a series",
                ),
                query(f"max({series('scrape_samples_scraped')})", "samples per scrape"),
            ],
            size=(8, 8),
            unit="short",
        ),
        graph(
            "Redis commands for counters",
            "Commands per second that the exporter sends to Redis to read counters and limits.",
            [
                query(
                    f"sum(rate({series('ratelimiter_scan_commands_total')}[$__rate_interval]))",
                    "commands",
                )
            ],
            size=(8, 8),
            unit="cps",
        ),
        graph(
            "Exporter memory and CPU",
            "Resident memory, and processor time per second (right axis).",
            [
                query(f"max({series('process_resident_memory_bytes')})", "memory"),
                query(
                    f"sum(rate({series('process_cpu_seconds_total')}[$__rate_interval]))",
                    "CPU",
                ),
            ],
            size=(8, 8),
            unit="bytes",
            overrides=[by_query("B", unit="percentunit", custom__axisPlacement="right")],
        ),
        collapsed=True,
    )
