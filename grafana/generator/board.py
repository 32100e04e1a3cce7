"""A whole dashboard: its variables, rows, places, links and annotations."""

from parts import DATASOURCE, RED, TAG, link


def row(title, *panels, collapsed=False):
    """A row with its panels; a collapsed one loads nothing until it is opened."""
    return {"title": title, "panels": list(panels), "collapsed": collapsed}


def variable(name, label, description, expr, **more):
    """A variable whose values are those of the label `name` in some series."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "description": description,
        "datasource": DATASOURCE,
        "query": {"query": expr, "refId": "PrometheusVariableQueryEditor-VariableQuery", "qryType": 1},
        "refresh": 2,
        "sort": 1,
    } | more


def variables(*own):
    """The variables that every dashboard begins with, then its own."""
    build = "ratelimiter_exporter_build_info"
    return [
        {
            "type": "datasource",
            "name": "datasource",
            "label": "Data source",
            "description": "The Prometheus that scrapes the exporter.",
            "query": "prometheus",
            "refresh": 1,
        },
        variable(
            "cluster",
            "Cluster",
            "The label cluster of the scrape; empty if there is none.",
            f"label_values({build}, cluster)",
        ),
        variable(
            "namespace",
            "Namespace",
            "The label namespace of the scrape; empty if there is none.",
            f'label_values({build}{{cluster="$cluster"}}, namespace)',
        ),
        variable(
            "job",
            "Job",
            "The scrape job of the exporters of one limiter.",
            f'label_values({build}{{cluster="$cluster", namespace="$namespace"}}, job)',
        ),
        variable(
            "instance",
            "Instance",
            "Exporters of the job. Several that watch the same limiter are merged; choose one if they watch different ones.",
            f'label_values({build}{{cluster="$cluster", namespace="$namespace", job="$job"}}, instance)',
            multi=True,
            includeAll=True,
            allValue=".+",
            current={"text": ["All"], "value": ["$__all"], "selected": True},
        ),
        *own,
    ]


def dashboard(uid, title, description, variables, rows):
    """A whole dashboard: rows become panels with places and ids."""
    panels, y, number = [], 0, 0
    for row in rows:
        number += 1
        heading = {
            "type": "row",
            "id": number,
            "title": row["title"],
            "collapsed": row["collapsed"],
            "gridPos": {"x": 0, "y": y, "w": 24, "h": 1},
            "panels": [],
        }
        placed, y = _place(row["panels"], y + 1, number)
        number += len(placed)
        if row["collapsed"]:
            heading["panels"] = placed
            y = heading["gridPos"]["y"] + 1
            placed = []
        panels += [heading, *placed]
    annotation = {
        "name": "Firing alerts",
        "enable": True,
        "hide": False,
        "iconColor": RED,
        "datasource": DATASOURCE,
        # Alerts are about the limiter, not about one exporter: rules may have merged the label instance away.
        "expr": 'ALERTS{cluster="$cluster", namespace="$namespace", job="$job", alertstate="firing", alertname=~"Ratelimiter.+"}',
        "titleFormat": "{{alertname}}",
        "textFormat": "{{severity}} {{subject}}",
        "tagKeys": "alertname,severity",
    }
    return {
        "uid": uid,
        "title": title,
        "description": description,
        "tags": [TAG, "redis", "prometheus"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timepicker": {"hidden": False, "refresh_intervals": ["10s", "30s", "1m", "5m", "15m", "1h"]},
        "templating": {"list": variables},
        "annotations": {"list": [annotation]},
        "links": [
            link(
                "Rate limiter",
                "",
                type="dashboards",
                icon="external link",
                tags=[TAG],
                includeVars=True,
                keepTime=True,
                tooltip="The other dashboards of the rate limiter",
            )
        ],
        "panels": panels,
    }


def _place(panels, y, number):
    """Gives each panel an id and a place: left to right, wrapped at 24 columns."""
    placed, x, height = [], 0, 0
    for panel in panels:
        number += 1
        size = panel["gridPos"]
        if x + size["w"] > 24:
            x, y, height = 0, y + height, 0
        placed.append(panel | {"id": number, "gridPos": {"x": x, "y": y, **size}})
        x, height = x + size["w"], max(height, size["h"])
    return placed, y + height
