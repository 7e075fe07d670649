"use strict";

// Draws one dashboard (`BOARD`: the JSON that Grafana reads, `ANSWERS`: what Prometheus said to each
// query, both from data.js) on Grafana's grid.

const CELL_HEIGHT = 30, GAP = 8, COLUMNS = 24;
const PALETTE = ["#73BF69", "#FADE2A", "#8AB8FF", "#FF780A", "#F2495C", "#5794F2", "#B877D9",
  "#37872D", "#E0B400", "#C0D8FF", "#FFA6B0", "#705DA0"];
const NAMED = {
  green: "#73BF69", yellow: "#F2CC0C", red: "#F2495C", blue: "#5794F2", orange: "#FF9830",
  purple: "#B877D9", gray: "#8E8E99", "dark-red": "#C4162A", "dark-green": "#37872D",
  "light-blue": "#8AB8FF",
};
const SOLID = { green: "#1A7F4B", yellow: "#B5830B", red: "#C4233B", blue: "#1F60C4" };

function element(parent, tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  parent.appendChild(made);
  return made;
}

function level(steps, value) {
  return steps.filter((step) => step.value == null || value >= step.value).at(-1).color;
}

function mapped(mappings, value) {
  for (const mapping of mappings ?? []) {
    const text = mapping.options[String(value)]?.text;
    if (text) return text;
  }
  return null;
}

function legend(target, metric) {
  const text = target.legendFormat.replace(/{{(\w+)}}/g, (_, label) => metric[label] ?? "");
  return text.trim() || "value";
}

function series(panel) {
  return panel.targets.flatMap((target) =>
    (ANSWERS[`${panel.id}/${target.refId}`] ?? []).map((found) => ({
      name: legend(target, found.metric),
      metric: found.metric,
      points: (found.values ?? [found.value]).map(([at, value]) => [at * 1000, Number(value)]),
    })));
}

function drawFigure(panel, body) {
  const [found] = series(panel);
  const { unit, thresholds, mappings, noValue } = panel.fieldConfig.defaults;
  const box = element(body, "div", "figure");
  const value = found?.points.at(-1)?.[1];
  const text = value === undefined ? noValue : mapped(mappings, value) ?? formatted(value, unit);
  const solid = panel.options.colorMode === "background_solid";
  const color = value === undefined ? "gray" : level(thresholds.steps, value);
  if (solid && value !== undefined) body.style.background = SOLID[color];
  if (found && found.points.length > 1) {
    const spark = element(box, "div", "spark");
    const line = solid ? "rgba(255,255,255,.55)" : NAMED[color];
    chart(spark, {
      grid: { left: 0, right: 0, top: 2, bottom: 0 },
      xAxis: { type: "time", show: false },
      yAxis: { type: "value", show: false, min: 0 },
      series: [{
        type: "line", data: found.points, symbol: "none", lineStyle: { color: line, width: 1 },
        areaStyle: { color: line, opacity: 0.25 },
      }],
    });
  }
  const figure = element(box, "span", "", text);
  figure.style.color = solid ? "#fff" : NAMED[color];
}

function chart(box, option) {
  const made = echarts.init(box, null, { renderer: "canvas" });
  made.setOption({ animation: false, ...option });
}

function drawGraph(panel, body) {
  const found = series(panel).sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  if (!found.length) return element(body, "div", "empty", "No data");
  const { unit, custom, thresholds, max } = panel.fieldConfig.defaults;
  const stacked = custom.stacking?.mode === "normal";
  const fixed = Object.fromEntries(panel.fieldConfig.overrides.map((override) => [
    override.matcher.options,
    override.properties.find((each) => each.id === "color")?.value.fixedColor,
  ]));
  found.forEach((each, index) => {
    each.color = NAMED[fixed[each.name]] ?? PALETTE[index % PALETTE.length];
  });
  if (stacked) align(found);
  const box = element(body, "div", "chart");
  const top = Math.max(...found.flatMap((each) => each.points.map((point) => point[1])));
  const lines = (custom.thresholdsStyle?.mode === "dashed" ? thresholds.steps : [])
    .filter((step) => step.value != null && (stacked || step.value <= Math.max(top * 3, 1e-9)));
  elementLegend(body, found);
  const every = distance(top, unit, max ?? (top === 0 ? 1 : undefined));
  const limit = max ?? (top === 0 ? 1 : every && Math.ceil(top / every) * every);
  chart(box, {
    grid: { left: 8, right: 14, top: 12, bottom: 4, containLabel: true },
    xAxis: {
      type: "time", min: SPAN[0] * 1000, max: SPAN[1] * 1000, splitNumber: 4,
      axisLabel: { color: "#8e8e99", fontSize: 11, formatter: "{HH}:{mm}", hideOverlap: true },
      axisLine: { lineStyle: { color: "#2d2e36" } },
    },
    yAxis: {
      type: "value", min: 0, max: limit, splitNumber: 4, interval: every,
      axisLabel: { color: "#8e8e99", fontSize: 11, formatter: (value) => formatted(value, unit) },
      splitLine: { lineStyle: { color: "#25272d" } },
    },
    series: found.map((each, index) => ({
      type: "line", name: each.name, data: gaps(each.points), symbol: "none",
      stack: stacked ? "all" : undefined, color: each.color, connectNulls: false,
      lineStyle: { width: 1.6 }, areaStyle: { opacity: stacked ? 0.4 : found.length > 3 ? 0 : 0.08 },
      markLine: index ? undefined : {
        silent: true, symbol: "none", label: { show: false },
        data: lines.map((step) => ({
          yAxis: step.value, lineStyle: { color: NAMED[step.color], type: "dashed", width: 1.4 },
        })),
      },
    })),
  });
}

// Stacked series must have their points at the same moments; one that is not there counts as none.
function align(found) {
  const moments = [...new Set(found.flatMap((each) => each.points.map(([at]) => at)))].sort((a, b) => a - b);
  for (const each of found) {
    const values = new Map(each.points);
    each.points = moments.map((at) => [at, values.get(at) ?? 0]);
  }
}

function elementLegend(body, found) {
  const box = element(body, "div", "legend");
  // Grafana's legends scroll; a picture does not. Of many, name those that are not flat at zero.
  const named = found.length <= 8 ? found : found.filter((each) => each.points.some((point) => point[1]));
  for (const each of named) {
    const item = element(box, "div");
    element(item, "i").style.background = each.color;
    item.append(each.name);
  }
  if (named.length < found.length) element(box, "div", "", `and ${found.length - named.length} at zero`);
}

// A series that ends or pauses is not joined over the gap.
function gaps(points) {
  return points.flatMap((point, index) => {
    const before = points[index - 1];
    return before && point[0] - before[0] > 2500 * STEP ? [[before[0] + 1, null], point] : [point];
  });
}

function drawTable(panel, body) {
  const organize = panel.transformations.find((each) => each.id === "organize").options;
  const overrides = Object.fromEntries(panel.fieldConfig.overrides.map((override) => [
    override.matcher.options,
    Object.fromEntries(override.properties.map((each) => [each.id, each.value])),
  ]));
  const order = Object.entries(organize.indexByName).sort((a, b) => a[1] - b[1]).map(([name]) => name);
  const rows = new Map();
  panel.targets.forEach((target) => {
    const column = panel.targets.length === 1 ? "Value" : `Value #${target.refId}`;
    for (const found of ANSWERS[`${panel.id}/${target.refId}`] ?? []) {
      const key = JSON.stringify(found.metric);
      rows.set(key, { ...rows.get(key), ...found.metric, [column]: Number(found.value[1]) });
    }
  });
  if (!rows.size) return element(body, "div", "empty", "No data");
  const sorted = [...rows.values()];
  const by = panel.options.sortBy?.[0]?.displayName;
  const field = order.find((name) => (organize.renameByName[name] ?? name) === by);
  if (field) sorted.sort((a, b) => (b[field] ?? -1) - (a[field] ?? -1));
  const table = element(body, "table");
  const head = element(element(table, "thead"), "tr");
  for (const name of order) {
    const numeric = name.startsWith("Value");
    element(head, "th", numeric ? "number" : "", organize.renameByName[name] ?? name);
  }
  const rest = element(table, "tbody");
  for (const row of sorted.slice(0, 12)) {
    const line = element(rest, "tr");
    for (const name of order) {
      const own = overrides[organize.renameByName[name] ?? name] ?? {};
      const value = row[name];
      const numeric = name.startsWith("Value");
      const text = numeric ? mapped(own.mappings, value) ?? formatted(value, own.unit) : value ?? "";
      const cell = element(line, "td", numeric ? "number" : own.links ? "link" : "", text);
      if (own.thresholds && value !== undefined) {
        cell.style.color = NAMED[level(own.thresholds.steps, value)];
      }
    }
  }
  return table;
}

const DRAWERS = { stat: drawFigure, timeseries: drawGraph, table: drawTable };

function place(box, at, width) {
  const cell = (width + GAP) / COLUMNS;
  box.style.left = `${at.x * cell}px`;
  box.style.top = `${at.y * (CELL_HEIGHT + GAP)}px`;
  box.style.width = `${at.w * cell - GAP}px`;
  box.style.height = `${at.h * (CELL_HEIGHT + GAP) - GAP}px`;
}

document.getElementById("title").textContent = BOARD.title;
for (const variable of BOARD.templating.list) {
  const box = element(document.getElementById("variables"), "div", "variable");
  element(box, "b", "", variable.label);
  box.append(CHOSEN[variable.name] ?? "All");
}
for (const mark of MARKS) element(document.getElementById("marks"), "div", "mark", mark);
const grid = document.getElementById("grid");
for (const panel of BOARD.panels) {
  const title = (panel.title ?? "").replace(/\$(\w+)/g, (_, name) => CHOSEN[name] ?? "All");
  if (panel.type === "row") {
    place(element(grid, "div", "row", title), panel.gridPos, grid.clientWidth);
    continue;
  }
  const box = element(grid, "div", "panel");
  place(box, panel.gridPos, grid.clientWidth);
  element(box, "div", "head", title);
  DRAWERS[panel.type](panel, box);
}
