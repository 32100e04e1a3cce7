"""From plain data to the text of the files, through the models of grafana-foundation-sdk."""

import json
import pathlib

import key
import node
import overview
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

FOLDER = pathlib.Path(__file__).parent.parent / "dashboards"

# Grafana's schema leaves these fields of an annotation to the data source, so the models drop them.
OF_THE_DATASOURCE = ("titleFormat", "textFormat", "tagKeys")

plugins.register_default_plugins()


def files():
    """The text of each file, by its path."""
    parts = {"overview": overview, "node": node, "key": key}
    return {FOLDER / f"{name}.json": text(part.build()) for name, part in parts.items()}


def text(plain):
    """A dashboard as it stands in its file."""
    modelled = through_models(plain)
    lost = list(missing(plain, modelled))
    if lost:
        raise ValueError(f"the models do not know: {lost}")
    return json.dumps(modelled, indent=2, ensure_ascii=False) + "\n"


def through_models(plain):
    """What the models make of it; fields of the data source are carried past them."""
    modelled = json.loads(JSONEncoder().encode(Dashboard.from_json(plain)))
    for before, after in zip(plain["annotations"]["list"], modelled["annotations"]["list"], strict=True):
        after.update({name: before[name] for name in OF_THE_DATASOURCE if name in before})
    return modelled


def missing(before, after, path=""):
    """The paths of everything in `before` that is not in `after` as it was."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name, value in before.items():
            if name in after:
                yield from missing(value, after[name], f"{path}.{name}")
            else:
                yield f"{path}.{name}"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from missing(one, other, f"{path}[{index}]")
    elif before != after:
        yield path
