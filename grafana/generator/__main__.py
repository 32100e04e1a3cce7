"""Writes grafana/dashboards/*.json: `python grafana/generator`. Needs what requirements.txt names; `make dashboards`
sees to that. Everything goes through the models of grafana-foundation-sdk, and what they do not know is a mistake."""

import pathlib

import dashboards

for path, text in dashboards.files().items():
    pathlib.Path(path).write_text(text, encoding="utf-8")
    print(path)
