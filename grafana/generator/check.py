"""The dashboards' own checks, without any server: `python grafana/generator/check.py`, part of `make test`. Whether the
queries bring data is tested with a real Prometheus, in tests/integration/deploy/dashboards.rs."""

import json
import re
import unittest

import dashboards
from grafana_foundation_sdk.models import units

KNOWN_UNITS = {value for name, value in vars(units).items() if isinstance(value, str) and not name.startswith("_")}
UIDS = {"ratelimiter-overview", "ratelimiter-node", "ratelimiter-key"}
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

FILES = sorted(dashboards.FOLDER.glob("*.json"))
BOARDS = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in FILES}


def everything(value, path=""):
    """Each value in a piece of JSON, with its path."""
    yield path, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, below in inner:
        yield from everything(below, f"{path}/{name}")


def panels(board):
    """All panels that show something, in collapsed rows too."""
    for panel in board["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def named(board, name):
    """Each value that stands under this name, anywhere."""
    return [value for path, value in everything(board) if path.endswith(f"/{name}")]


PANELS = [(f"{name}: {panel['title']}", panel) for name, board in BOARDS.items() for panel in panels(board)]


class Dashboards(unittest.TestCase):
    """Each test looks at all files."""

    def test_there_are_dashboards_and_panels(self):
        self.assertEqual(len(BOARDS), len(UIDS))
        self.assertGreater(len(PANELS), 30)

    def test_the_files_are_what_the_generator_writes(self):
        written = {path.name: path.read_text(encoding="utf-8") for path in FILES}
        generated = {path.name: text for path, text in dashboards.files().items()}
        self.assertEqual(written.keys(), generated.keys())
        for name, text in generated.items():
            self.assertEqual(written[name], text, f"{name} is not current: run make dashboards")

    def test_they_go_through_the_models_unchanged(self):
        for name, board in BOARDS.items():
            with self.subTest(name):
                self.assertEqual(board, dashboards.through_models(board))

    def test_what_the_models_do_not_know_would_be_noticed(self):
        board = json.loads(json.dumps(BOARDS["node.json"]))
        panel = next(panels(board))
        panel["tittle"] = panel["title"]
        panel["options"]["colourMode"] = "value"
        lost = list(dashboards.missing(board, dashboards.through_models(board)))
        self.assertEqual(len(lost), 2, lost)

    def test_annotations_have_what_is_carried_past_the_models(self):
        for name, board in BOARDS.items():
            with self.subTest(name):
                (annotation,) = board["annotations"]["list"]
                for field in dashboards.OF_THE_DATASOURCE:
                    self.assertTrue(annotation[field])
                self.assertIn('alertstate="firing"', annotation["expr"])

    def test_every_unit_is_known(self):
        for name, board in BOARDS.items():
            with self.subTest(name):
                found = named(board, "unit")
                overridden = [o["value"] for o in named(board, "properties") for o in o if o["id"] == "unit"]
                for unit in found + overridden:
                    self.assertIn(unit, KNOWN_UNITS)

    def test_every_panel_says_what_it_shows(self):
        for where, panel in PANELS:
            with self.subTest(where):
                self.assertTrue(panel["title"])
                self.assertRegex(panel["description"], r".{20,}\.$")
                self.assertTrue(panel["fieldConfig"]["defaults"]["unit"])
                self.assertTrue(panel["targets"])

    def test_no_datasource_is_wired_in(self):
        for name, board in BOARDS.items():
            with self.subTest(name):
                for value in named(board, "datasource"):
                    self.assertEqual(value, DATASOURCE)
                for panel in panels(board):
                    self.assertIn("datasource", panel)
                self.assertEqual(board["templating"]["list"][0]["type"], "datasource")

    def test_the_variables_are_there_and_used(self):
        for name, board in BOARDS.items():
            with self.subTest(name):
                variables = board["templating"]["list"]
                names = [variable["name"] for variable in variables]
                self.assertEqual(names[:5], ["datasource", "cluster", "namespace", "job", "instance"])
                for panel in panels(board):
                    for target in panel["targets"]:
                        for name in names[1:5]:
                            self.assertIn(f"${name}", target["expr"])
                for own in names[5:]:
                    self.assertIn(f"${{{own}:regex}}", json.dumps(board["panels"]))

    def test_rates_follow_the_scrape_interval(self):
        for where, panel in PANELS:
            with self.subTest(where):
                for target in panel["targets"]:
                    for window in re.findall(r"\b(?:rate|increase|irate)\(.*?\[(.*?)\]", target["expr"], re.DOTALL):
                        self.assertEqual(window, "$__rate_interval")
                    # A histogram of now: how many keys there are is not how many came in.
                    self.assertNotRegex(target["expr"], r"rate\([^)]*keys_utilization")

    def test_uids_are_stable_and_links_lead_to_them(self):
        self.assertEqual({board["uid"] for board in BOARDS.values()}, UIDS)
        for name, board in BOARDS.items():
            with self.subTest(name):
                self.assertIn("ratelimiter", board["tags"])
                self.assertGreaterEqual(board["schemaVersion"], 39)
                self.assertTrue(any("ratelimiter" in link["tags"] and link["includeVars"] for link in board["links"]))
                for url in filter(None, named(board, "url")):
                    target = re.match(r"/d/([^?]+)\?", url).group(1)
                    self.assertIn(target, UIDS | {"${__data.fields.drilldown}"})
                    for name in ["datasource", "cluster", "namespace", "job", "instance"]:
                        self.assertIn(f"${{{name}:queryparam}}", url)

    def test_panels_have_ids_of_their_own_and_do_not_overlap(self):
        for name, board in BOARDS.items():
            with self.subTest(name):
                every = board["panels"] + [inner for row in board["panels"] for inner in row.get("panels", [])]
                ids = [panel["id"] for panel in every]
                self.assertEqual(len(ids), len(set(ids)))
                for group in [board["panels"], *(row["panels"] for row in board["panels"] if row.get("panels"))]:
                    taken = set()
                    for panel in group:
                        at = panel["gridPos"]
                        self.assertLessEqual(at["x"] + at["w"], 24)
                        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
                        self.assertFalse(cells & taken, panel["title"])
                        taken |= cells


if __name__ == "__main__":
    unittest.main()
