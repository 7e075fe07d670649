"use strict";

// How Grafana writes values, for the units that the dashboards use.

const SCALES = {
  bytes: [[1024 ** 3, " GiB"], [1024 ** 2, " MiB"], [1024, " KiB"], [1, " B"]],
  short: [[1e9, " Bil"], [1e6, " Mil"], [1e3, " K"], [1, ""]],
  s: [[86400, " days"], [3600, " hours"], [60, " mins"], [1, " s"], [1e-3, " ms"], [1e-6, " µs"]],
};

function digits(value) {
  const size = Math.abs(value);
  if (Number.isInteger(value)) return 0;
  return size >= 100 ? 0 : size >= 10 ? 1 : 2;
}

function plain(value) {
  return String(Number(value.toFixed(digits(value))));
}

function formatted(value, unit) {
  if (value === null || value === undefined) return "";
  if (unit === "percentunit") return `${plain(value * 100)}%`;
  if (unit.startsWith("count:")) return `${formatted(value, "short")} ${unit.slice(6)}`;
  const scale = SCALES[unit] ?? SCALES.short;
  if (value === 0) return unit === "s" ? "0 s" : `0${unit === "bytes" ? " B" : ""}`;
  const [size, suffix] = scale.find(([size]) => Math.abs(value) >= size) ?? scale.at(-1);
  return `${plain(value / size)}${suffix}`;
}

// The distance of two lines of the grid, so that their values are round in the unit they are
// written in; undefined where the chart's own choice is.
function distance(top, unit, maximum) {
  if (maximum === 1) return unit === "percentunit" ? 0.25 : 1;
  const base = unit === "bytes" || unit === "s" ? SCALES[unit].find(([size]) => top >= size * 2)?.[0] : 0;
  if (!base || (unit === "s" && base <= 1)) return undefined;
  const steps = [1, 2, 5, 10, 15, 20, 25, 50, 100, 200, 250, 500];
  return base * (steps.find((step) => top / (base * step) <= 5) ?? 1000);
}
