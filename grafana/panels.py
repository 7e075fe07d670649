"""The kinds of panels that the dashboards are made of: figures, graphs and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from grafana_foundation_sdk.builders import common, stat, table, timeseries
from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.queries import Query
from grafana.variables import DATASOURCE

Panel = stat.Panel | table.Panel | timeseries.Panel

PER_SECOND = "count:/s"
"""So many a second."""


@dataclass(frozen=True, slots=True)
class Levels:
    """From which value on a figure is yellow, and from which red; below it is green.

    `falling` turns it round: at or above `warning` it is green, below `critical` red.
    """

    warning: float
    critical: float | None = None
    falling: bool = False

    def build(self) -> ThresholdsConfig:
        """Return them as Grafana wants them."""
        steps = [Threshold(color="green"), Threshold(value=self.warning, color="yellow")]
        if self.critical is not None:
            steps.append(Threshold(value=self.critical, color="red"))
        if self.falling:
            critical = self.warning if self.critical is None else self.critical
            steps = [
                Threshold(color="red"),
                Threshold(value=critical, color="yellow"),
                Threshold(value=self.warning, color="green"),
            ]
        return ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Args:
        title: its head.
        expr: what it shows; None for a label, which every row has.
        unit: the unit of its values.
        levels: the colours of its values.
        texts: words for values, such as `{"1": "paused"}`.
        link: where a click on it leads.
        width: in pixels; None means as wide as there is room.
    """

    title: str
    expr: str | None = None
    unit: str = "short"
    levels: Levels | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    link: Mapping[str, object] | None = None
    width: int | None = None


def figure(
    title: str,
    description: str,
    expr: str,
    *,
    unit: str = "short",
    levels: Levels | None = None,
    decimals: int | None = None,
    no_value: str = "no data",
    texts: Mapping[str, str] | None = None,
    link: Mapping[str, object] | None = None,
) -> stat.Panel:
    """Return a panel with one large figure, coloured by its levels, over its own course."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .no_value(no_value)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(_target(Query(expr, title)))
    )
    if levels is None:
        panel.thresholds(ThresholdsConfig().steps([Threshold(color="blue")]))
        panel.graph_mode(BigValueGraphMode.AREA).color_mode(BigValueColorMode.VALUE)
    else:
        panel.thresholds(levels.build())
        panel.graph_mode(BigValueGraphMode.AREA).color_mode(BigValueColorMode.BACKGROUND_SOLID)
    panel.color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
    if decimals is not None:
        panel.decimals(decimals)
    if texts:
        panel.mappings([_texts(texts)])
    if link:
        panel.override_by_name(title, [DynamicConfigValue("links", [dict(link)])])
    return panel


def graph(
    title: str,
    description: str,
    queries: Sequence[Query],
    *,
    unit: str = "short",
    levels: Levels | None = None,
    stacked: bool = False,
    maximum: float | None = None,
    colors: Mapping[str, str] | None = None,
) -> timeseries.Panel:
    """Return a graph over time; its levels are dashed lines."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .unit(unit)
        .min(0)
        .line_width(1)
        .fill_opacity(40 if stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .color_scheme(FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
        )
        .tooltip(
            common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
        )
    )
    for number, query in enumerate(queries):
        panel.with_target(_target(query, number))
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if maximum is not None:
        panel.max(maximum)
    if levels:
        panel.thresholds(levels.build())
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        )
    for name, color in (colors or {}).items():
        fixed = {"mode": "fixed", "fixedColor": color}
        panel.override_by_name(name, [DynamicConfigValue("color", fixed)])
    return panel


def rows(
    title: str,
    description: str,
    labels: Sequence[Column],
    columns: Sequence[Column],
    *,
    hidden: Sequence[str] = (),
    sort_by: str = "",
) -> table.Panel:
    """Return a table: a row for each set of labels, a column for each query.

    Args:
        title: of the panel.
        description: of the panel.
        labels: the columns that come from labels; their title is the label's name.
        columns: the columns with values. One that has no expression takes no query.
        hidden: further labels and fields to leave out.
        sort_by: the title of the column to sort by, the largest value first.
    """
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .unit("short")
        .no_value("none")
        .with_transformation(DataTransformerConfig("merge", options={}))
    )
    names: dict[str, str] = {}
    for number, column in enumerate(columns):
        if column.expr is not None:
            panel.with_target(_target(Query(column.expr), number, as_table=True))
            # With a single query Grafana calls its column "Value", with several "Value #A" and on.
            names["Value" if len(columns) == 1 else f"Value #{_letter(number)}"] = column.title
    order = [each.title for each in labels] + list(names)
    panel.with_transformation(
        DataTransformerConfig(
            "organize",
            options={
                "excludeByName": dict.fromkeys(("Time", *hidden), True),
                "indexByName": {name: index for index, name in enumerate(order)},
                "renameByName": names,
            },
        )
    )
    for column in (*labels, *columns):
        panel.override_by_name(column.title, _properties(column))
    if sort_by:
        panel.sort_by([common.TableSortByFieldState().display_name(sort_by).desc(True)])
    return panel


def _properties(column: Column) -> list[DynamicConfigValue]:
    found: list[tuple[str, Any]] = [("unit", column.unit)] if column.expr is not None else []
    if column.levels:
        found += [
            ("thresholds", column.levels.build().build()),
            ("color", {"mode": "thresholds"}),
            ("custom.cellOptions", {"type": "color-text"}),
        ]
    if column.texts:
        found.append(("mappings", [_texts(column.texts)]))
    if column.link:
        found.append(("links", [dict(column.link)]))
    if column.width:
        found.append(("custom.width", column.width))
    return [DynamicConfigValue(name, value) for name, value in found]


def _texts(texts: Mapping[str, str]) -> ValueMap:
    return ValueMap({value: ValueMappingResult(text=text) for value, text in texts.items()})


def _target(query: Query, number: int = 0, *, as_table: bool = False) -> Dataquery:
    target = (
        Dataquery()
        .datasource(DATASOURCE)
        .expr(query.expr)
        .ref_id(_letter(number))
        .legend_format(query.legend)
    )
    if as_table:
        return target.instant().format(PromQueryFormat.TABLE)
    return target.range().exemplar(query.exemplars)


def _letter(number: int) -> str:
    return chr(ord("A") + number)
