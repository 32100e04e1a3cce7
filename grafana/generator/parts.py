"""The parts of the dashboards: queries, panels, variables, links. One way for each thing, so that all panels look and
behave alike. Plain data in Grafana's own JSON; the files beside this one put it together."""

# One limiter at a time: `cluster`, `namespace` and `job` choose it. Several instances of a job are replicas that watch the
# same limiter, so every query merges them with max or min: the one that sees more wins.
SCOPE = 'cluster="$cluster", namespace="$namespace", job="$job", instance=~"$instance"'

# Node ids and keys may hold any character. Escaped as a regular expression inside backquotes, where PromQL knows no
# escapes of its own, all of them but a backquote arrive as they are. Grafana's default escapes no double quotes.
NODE = "node_id=~`${node_id:regex}`"
KEY = "key=~`${key:regex}`"
NODE_SUBJECT = "subject=~`${node_id:regex}`"
KEY_SUBJECT = "subject=~`${key:regex}`"

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
TAG = "ratelimiter"

# What the links carry along to another dashboard.
CONTEXT = "&".join(
    ["${__url_time_range}"]
    + [f"${{{name}:queryparam}}" for name in ["datasource", "cluster", "namespace", "job", "instance"]]
)

# Colours that differ in lightness too, and never stand alone: each state has its word.
GREEN, BLUE, YELLOW, ORANGE, RED, GREY = "green", "blue", "yellow", "orange", "dark-red", "#808080"

# The states of a violation, as the queries below count them.
STATES = [(0, "ok", GREEN), (1, "unknown", GREY), (2, "pending", YELLOW), (3, "violated", RED)]


def series(name, *matchers):
    """The series called `name` of the limiter that was chosen."""
    return f"{name}{{{', '.join([SCOPE, *matchers])}}}"


# The thresholds and the invariants' names as matchers.
HIGH_LATENCY = 'name="high_latency"'
COUNTER_DRIFT = 'name="counter_drift"'
GHOST_ALLOWING = 'name="ghost_allowing"'
OF_KEYS = 'name=~"counter_drift|ghost_allowing|stuck_counter|invalid_counter"'

# What a panel about nodes shows where the kind of limiter has none, such as a library inside applications.
NO_NODES = "no nodes: this kind of limiter has none that are watched"


def query(expr, legend="", *, instant=False, form="time_series"):
    """One query of a panel; `instant` for the present value alone."""
    return {
        "expr": "\n".join(line.rstrip() for line in expr.strip().splitlines()),
        "legendFormat": legend,
        "instant": instant,
        "range": not instant,
        "format": form,
        "editorMode": "code",
        "datasource": DATASOURCE,
    }


def states_of(subject_matchers=()):
    """The state of each invariant and subject: 0, 2 or 3 of STATES."""
    violation = series("invariant_violation", *subject_matchers)
    pending = series("ratelimiter_invariant_pending", *subject_matchers)
    return f"max by (name, subject) (3 * {violation} or 2 * {pending})"


def mappings(states):
    """Values shown as words, each with its colour."""
    options = {
        str(value): {"text": text, "color": color, "index": index} for index, (value, text, color) in enumerate(states)
    }
    return [{"type": "value", "options": options}]


def steps(*pairs):
    """Colours from a value on; the first has no lower bound."""
    return {"mode": "absolute", "steps": [{"value": value, "color": color} for value, color in pairs]}


def by_name(name, **properties):
    """An override for the field or series called `name`; `__` in a property stands for a dot."""
    return _override("byName", name, properties)


def by_query(ref, **properties):
    """An override for everything that query `ref` brings."""
    return _override("byFrameRefID", ref, properties)


def _override(matcher, options, properties):
    values = [{"id": name.replace("__", "."), "value": value} for name, value in properties.items()]
    return {"matcher": {"id": matcher, "options": options}, "properties": values}


def limit_line(ref):
    """A threshold or limit drawn as a series: a dashed red line without a filling."""
    return by_query(
        ref,
        color={"mode": "fixed", "fixedColor": RED},
        custom__lineStyle={"fill": "dash", "dash": [8, 6]},
        custom__lineWidth=2,
        custom__fillOpacity=0,
    )


def data_link(title, url):
    """A link from a value to another dashboard, in this tab."""
    return link(title, url) | {"type": "link"}


def link(title, url, **more):
    """A link of the dashboard or of a value."""
    plain = {"icon": "dashboard", "tooltip": "", "tags": [], "asDropdown": False, "targetBlank": False}
    return {"title": title, "url": url, "includeVars": False, "keepTime": False} | plain | more


def to_node(label):
    """A link to the dashboard of the node that this label of the series names."""
    return data_link("This node", f"/d/ratelimiter-node?{CONTEXT}&var-node_id={label}")


def to_key(label):
    """A link to the dashboard of the key that this label of the series names."""
    return data_link("This key", f"/d/ratelimiter-key?{CONTEXT}&var-key={label}")


def panel(kind, title, description, queries, *, size, unit, options, defaults=None, overrides=(), **more):
    """A panel. `size` is its width (of 24) and height; `queries` get the names A, B, C."""
    targets = [query | {"refId": chr(ord("A") + index)} for index, query in enumerate(queries)]
    field = {"unit": unit, "mappings": [], "links": []} | (defaults or {})
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": DATASOURCE,
        "targets": targets,
        "gridPos": {"w": size[0], "h": size[1]},
        "options": options,
        "fieldConfig": {"defaults": field, "overrides": list(overrides)},
    } | more


def stat(title, description, queries, *, size, unit, thresholds=None, text="value", **more):
    """Large values, coloured by threshold or mapping."""
    defaults = {
        "color": {"mode": "thresholds"},
        "thresholds": thresholds or steps((None, BLUE)),
        "noValue": "no data",
    }
    options = {
        "colorMode": "background",
        "graphMode": "none",
        "justifyMode": "center",
        "orientation": "auto",
        "textMode": text,
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }
    defaults |= more.pop("defaults", {})
    return panel("stat", title, description, queries, size=size, unit=unit, options=options, defaults=defaults, **more)


def graph(title, description, queries, *, size, unit, low=0, stack=False, **more):
    """Lines over time."""
    custom = {
        "drawStyle": "line",
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "fillOpacity": 30 if stack else 8,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stack else "none"},
    }
    defaults = {"custom": custom, "color": {"mode": "palette-classic"}, "min": low} | more.pop("defaults", {})
    options = {
        "legend": _legend(),
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel(
        "timeseries", title, description, queries, size=size, unit=unit, options=options, defaults=defaults, **more
    )


def timeline(title, description, queries, states, *, size, **more):
    """States over time, a row for each series; each state has its word."""
    defaults = {
        "custom": {"fillOpacity": 80, "lineWidth": 0},
        "color": {"mode": "thresholds"},
        "thresholds": steps((None, GREY)),
        "mappings": mappings(states),
        "noValue": "nothing in this time",
    }
    options = {
        "mergeValues": True,
        "showValue": "auto",
        "alignValue": "left",
        "rowHeight": 0.85,
        "legend": _legend(),
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return panel(
        "state-timeline",
        title,
        description,
        queries,
        size=size,
        unit="none",
        options=options,
        defaults=defaults,
        **more,
    )


def heatmap(title, description, expr, *, size, unit, scheme="Oranges"):
    """Buckets of a histogram over time; the query brings them as they are, cumulative, by `le`."""
    options = {
        "calculate": False,
        "color": {
            "mode": "scheme",
            "scheme": scheme,
            "fill": "dark-orange",
            "exponent": 0.5,
            "steps": 64,
            "reverse": False,
        },
        "cellGap": 1,
        "filterValues": {"le": 1e-9},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "yHistogram": True, "showColorScale": True},
        "legend": {"show": True},
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "yAxis": {"unit": unit, "axisPlacement": "left", "reverse": False},
    }
    queries = [query(expr, "{{le}}", form="heatmap")]
    return panel("heatmap", title, description, queries, size=size, unit=unit, options=options)


def table(title, description, queries, *, size, unit, columns, sort, overrides=(), **more):
    """Rows from instant queries, merged by their labels. `columns` maps a field to its heading, in order."""
    options = {
        "showHeader": True,
        "cellHeight": "sm",
        "footer": {"show": False, "reducer": ["sum"], "countRows": False},
        "sortBy": [{"displayName": sort, "desc": True}],
        "frameIndex": 0,
    }
    defaults = {
        "custom": {"align": "auto", "filterable": False, "cellOptions": {"type": "auto"}},
        "color": {"mode": "thresholds"},
        "thresholds": steps((None, BLUE)),
        "noValue": "none",
    } | more.pop("defaults", {})
    organize = {
        "excludeByName": {},
        "indexByName": {name: index for index, name in enumerate(columns)},
        "renameByName": columns,
    }
    # What is not named is dropped, a label of a later Prometheus too.
    names = {"include": {"names": list(columns)}}
    transformations = [
        {"id": "merge", "options": {}},
        {"id": "filterFieldsByName", "options": names},
        {"id": "organize", "options": organize},
    ]
    return panel(
        "table",
        title,
        description,
        queries,
        size=size,
        unit=unit,
        options=options,
        defaults=defaults,
        overrides=overrides,
        transformations=transformations,
        **more,
    )


def _legend():
    return {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
