"""The row of violations on the overview: their history, and those under way."""

from board import row
from parts import (
    CONTEXT,
    ORANGE,
    RED,
    STATES,
    by_name,
    data_link,
    query,
    series,
    states_of,
    table,
    timeline,
)

# Subjects in violation in the time shown: their rows are there from its beginning on. `@ end()`, so that it is the same
# rows at each step of the query.
_SEEN = " or ".join(
    f"max by (name, subject) (max_over_time({series(name)}[$__range] @ end())) > 0"
    for name in ["invariant_violation", "ratelimiter_invariant_pending"]
)

# Every violation under way: the value is since when, in ms; `severity` and `state` come from beside it.
_SINCE = f"""1000 * max by (name, subject) ({series("ratelimiter_invariant_active_since_timestamp_seconds")})
    * on (name) group_left (severity) (max by (name, severity) ({series("ratelimiter_invariant_violations")}) >= bool 0)"""
_ACTIVE = f"""
label_replace(
    {_SINCE}
    and on (name, subject) {series("ratelimiter_invariant_pending")},
  "state", "pending", "", "")
or on (name, subject)
label_replace(
    {_SINCE},
  "state", "violated", "", "")
"""


def _active():
    """`_ACTIVE` with where to go from each: `drilldown` is the uid of a dashboard, `target` the node or key there. Both
    the invariant and the subject decide; a canary is about its node."""
    canary = "(?s)ghost_allowing:canary:(.*)"
    expr = f'label_join(({_ACTIVE}), "what", ":", "name", "subject")'
    for label, value, source, pattern in [
        ("drilldown", "ratelimiter-node", "what", "(?s)(node_down|high_latency|redis_disconnected):.*"),
        ("drilldown", "ratelimiter-key", "what", "(?s)(counter_drift|ghost_allowing|stuck_counter|invalid_counter):.*"),
        ("drilldown", "ratelimiter-node", "what", canary),
        ("drilldown", "ratelimiter-overview", "what", "redis_disconnected:redis"),
        ("target", "$1", "subject", "(?s)(.*)"),
        ("target", "$1", "what", canary),
    ]:
        expr = f'label_replace({expr},\n"{label}", "{value}", "{source}", "{pattern}")'
    return query(expr, instant=True, form="table")


def violations():
    """The row."""
    by_invariant = f"""
max by (name) (
    3 * ({series("ratelimiter_invariant_violations")} > bool 0)
  or
    2 * {series("ratelimiter_invariant_pending")}
  or
    1 - {series("ratelimiter_invariant_evaluable")}
)
"""
    return row(
        "Violations",
        timeline(
            "Violations by name and subject",
            "The first rows are the invariants as a whole, by their worst subject; unknown means that some subject could "
            "not be evaluated. Below them each subject that was pending or violated in this time.",
            [
                query(by_invariant, "{{name}}"),
                query(f"{states_of()} and on (name, subject) ({_SEEN})", "{{name}} · {{subject}}"),
            ],
            STATES,
            size=(14, 10),
        ),
        table(
            "Active violations",
            "Reported violations, and those still inside their grace period. A click on the subject leads to its dashboard.",
            [_active()],
            size=(10, 10),
            unit="none",
            columns={
                "state": "State",
                "severity": "Severity",
                "name": "Invariant",
                "subject": "Subject",
                "Value": "Since",
                "drilldown": "",
                "target": "",
            },
            sort="Since",
            defaults={"noValue": "no violation"},
            overrides=[
                by_name("Value", unit="dateTimeAsIsoNoDateIfToday", custom__width=150),
                by_name("drilldown", custom__hidden=True),
                by_name("target", custom__hidden=True),
                by_name(
                    "subject",
                    links=[
                        data_link(
                            "Drill down",
                            "/d/${__data.fields.drilldown}?"
                            + CONTEXT
                            + "&var-node_id=${__data.fields.target:percentencode}"
                            "&var-key=${__data.fields.target:percentencode}",
                        )
                    ],
                ),
                by_name(
                    "state",
                    custom__width=95,
                    custom__cellOptions={"type": "color-background", "mode": "basic"},
                    mappings=[
                        {
                            "type": "value",
                            "options": {
                                "violated": {"text": "violated", "color": RED, "index": 0},
                                "pending": {"text": "pending", "color": ORANGE, "index": 1},
                            },
                        }
                    ],
                ),
                by_name("severity", custom__width=85),
            ],
        ),
    )
