"""The dashboards: as their source says, complete, readable, and true to the table of metrics."""

from __future__ import annotations

import hashlib
import json
import re
from itertools import combinations
from typing import Any
from urllib.parse import urlsplit

import pytest

from grafana.dashboards import DASHBOARDS, render
from meshhook.observability.metrics import METRICS, Kind
from support import promql
from support.dashboard_files import FOLDER, STEMS, PanelQuery, panels, queries, read

QUERIES = list(queries())
PICTURES = FOLDER.parents[1] / "docs" / "dashboards"
README = FOLDER.parent / "README.md"
OLDER = "This picture is older than the dashboard."
EXEMPT: dict[str, str] = {}
"""Metrics that are on no panel, each with the reason."""

with_each_dashboard = pytest.mark.parametrize("stem", STEMS)
with_each_query = pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)


@pytest.mark.parametrize("stem", DASHBOARDS)
def test_file_equals_source(stem):
    """Each file is what its source makes: `make dashboards` was run after the last change."""
    assert (FOLDER / f"{stem}.json").read_text() == render(stem)


def test_no_file_without_source():
    """Every dashboard in the folder has a source."""
    assert set(STEMS) == set(DASHBOARDS)


@with_each_dashboard
def test_dashboard_is_fixed(stem):
    """A dashboard has a uid that never changes, is not editable, and names no data source."""
    board = read(stem)

    assert board["uid"] == f"meshhook-{stem}"
    assert board["editable"] is False
    assert board.get("id") is None
    assert board["title"].startswith("MeshHook / ")
    assert board["description"]
    assert {panel["datasource"]["uid"] for panel in panels(stem)} == {"${datasource}"}


@with_each_dashboard
def test_dashboard_has_its_variables(stem):
    """Every dashboard lets one choose the data source, the namespaces, and what it is about."""
    variables = {each["name"]: each for each in read(stem)["templating"]["list"]}

    assert variables["datasource"]["type"] == "datasource"
    assert variables["namespace"]["allValue"] == ".*"
    assert {"queue", "jobqueue"} & set(variables)


@with_each_dashboard
def test_variables_name_what_exists(stem):
    """The queries of variables name metrics and labels that there are."""
    for variable in read(stem)["templating"]["list"]:
        if variable["type"] == "query":
            selector, _, label = variable["query"]["query"][:-1].rpartition(", ")
            expr = selector.removeprefix("label_values(")
            assert not list(promql.problems(expr))
            assert label in (promql.labels_of(promql.selectors(promql.parse(expr))[0].metric) or ())


@with_each_dashboard
def test_dashboards_link_to_each_other(stem):
    """Each leads to all others by their common tag, and takes time and variables along."""
    board = read(stem)
    link = board["links"][0]

    assert link["type"] == "dashboards"
    assert set(link["tags"]) <= set(board["tags"])
    assert link["includeVars"]
    assert link["keepTime"]


@with_each_dashboard
def test_first_row_says_what_is_wrong(stem):
    """The first row is figures with colours: what an on-call engineer must see first."""
    row, *rest = read(stem)["panels"]
    first = [panel for panel in rest if panel["gridPos"]["y"] == 1]

    assert row["title"].startswith("What is wrong")
    assert {panel["type"] for panel in first} == {"stat"}
    coloured = [each for each in first if len(_thresholds(each)) > 1]
    assert len(coloured) >= len(first) - 2


@with_each_dashboard
def test_panels_explain_themselves(stem):
    """Every panel has a title, a description of a sentence, and a unit."""
    for panel in panels(stem):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


@with_each_dashboard
def test_titles_differ(stem):
    """Two panels of a dashboard never have the same title."""
    titles = [panel["title"] for panel in panels(stem)]

    assert sorted(set(titles)) == sorted(titles)


@with_each_dashboard
def test_ids_are_set_and_differ(stem):
    """Every panel has an id, and every query of a panel a ref id."""
    ids = [panel["id"] for panel in read(stem)["panels"]]

    assert sorted(ids) == list(range(1, len(ids) + 1))
    for panel in panels(stem):
        letters = [target["refId"] for target in panel["targets"]]
        assert letters
        assert all(letters)
        assert len(set(letters)) == len(letters)


@with_each_dashboard
def test_panels_do_not_overlap(stem):
    """No panel covers another or leaves the grid of 24 columns."""
    places = [panel["gridPos"] for panel in read(stem)["panels"]]

    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        ), (one, other)


@with_each_query
def test_query_names_what_exists(query: PanelQuery):
    """A query names metrics of the table, and labels that they have."""
    assert not list(promql.problems(query.expr))


@with_each_query
def test_rates_follow_the_scrape_interval(query: PanelQuery):
    """A rate is taken over $__rate_interval, or it is empty or jagged at some zoom."""
    assert set(promql.rate_ranges(promql.parse(query.expr))) <= {promql.RATE_INTERVAL}


@with_each_query
def test_query_obeys_the_variables(query: PanelQuery):
    """Every selector is narrowed by the namespace, so that the choice in the head holds."""
    found = promql.selectors(promql.parse(query.expr))

    assert all("namespace" in each.labels for each in found)


@with_each_query
def test_legend_names_labels_of_the_result(query: PanelQuery):
    """A legend names only labels that the metric has."""
    tree = promql.parse(query.expr)
    known = promql.made_labels(tree)
    for each in promql.selectors(tree):
        known |= promql.labels_of(each.metric) or set()

    assert set(re.findall(r"{{(\w+)}}", query.target["legendFormat"])) <= known


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_on_a_panel(metric):
    """A metric that nobody can see is not worth its cost."""
    shown = {
        promql.family(each.metric)
        for query in QUERIES
        for each in promql.selectors(promql.parse(query.expr))
    }

    assert (metric in shown) != (metric in EXEMPT)


@pytest.mark.parametrize(
    "metric",
    [
        name
        for name, metric in METRICS.items()
        if metric.kind is Kind.HISTOGRAM and name.startswith("meshhook_worker_message_")
    ],
)
def test_times_of_messages_show_exemplars(metric):
    """The histograms that carry trace ids are asked for them."""
    found = [
        query for query in QUERIES if f"{metric}_bucket" in query.expr and "quantile" in query.expr
    ]

    assert any(query.target["exemplar"] for query in found)


@with_each_dashboard
def test_links_lead_to_dashboards_that_exist(stem):
    """A link on a value leads to one of our dashboards, with variables that it has."""
    for panel in panels(stem):
        for link in _data_links(panel):
            if link["url"].startswith("/d/"):
                url = urlsplit(link["url"])
                target = url.path.removeprefix("/d/meshhook-")
                names = set(re.findall(r"var-(\w+)=", url.query))
                assert names <= {each["name"] for each in read(target)["templating"]["list"]}


def _data_links(panel: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        link
        for override in panel["fieldConfig"]["overrides"]
        for each in override["properties"]
        if each["id"] == "links"
        for link in each["value"]
    ]


def _thresholds(panel: dict[str, Any]) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    return steps


def visible(stem: str) -> str:
    """Return a sum of what a picture of a dashboard depends on: all but the descriptions."""

    def without_descriptions(part: Any) -> Any:
        if isinstance(part, dict):
            return {k: without_descriptions(v) for k, v in part.items() if k != "description"}
        return [without_descriptions(each) for each in part] if isinstance(part, list) else part

    text = json.dumps(without_descriptions(read(stem)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@with_each_dashboard
def test_dashboard_has_a_picture(stem):
    """It is shown by the README, small, and says so where the dashboard has changed since."""
    picture = PICTURES / f"{stem}.png"
    _, shown, below = README.read_text().partition(f"](../docs/dashboards/{stem}.png)")
    drawn = json.loads((PICTURES / "drawn.json").read_text())
    present = visible(stem)

    assert shown
    assert below.lstrip().startswith(OLDER) == (drawn[stem] != present), (
        f"Write {OLDER!r} below the picture of {stem} in {README}, or take a new one, and set its"
        f" entry in {PICTURES / 'drawn.json'} to {present}"
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 200_000
