// Draws the curves of the report. Colours are those of the page, so that a change of theme needs a redraw only.
"use strict";
const colour = {};
function readColours() {
  const style = getComputedStyle(document.documentElement);
  for (const name of ["a", "b", "up", "soft", "grid", "ink"]) colour[name] = style.getPropertyValue("--" + name).trim();
}
readColours();

const font = "11px Inter, system-ui, sans-serif";
const axis = (more) => ({
  stroke: () => colour.soft, grid: { stroke: () => colour.grid, width: 1 }, ticks: { show: false }, font, ...more,
});
const signed = (text) => text.replace("-", "\u2212");
const two = (u, value) => (value == null ? "\u2013" : signed(value.toFixed(2)));
const amounts = (u, values) => values.map((value) => signed(String(value)));
// From so many seconds between two labels on: the label, and what is added where year, month or day begin.
const day = "\n{YYYY}-{MM}-{DD}";
const timeFormats = [
  [86400, "{YYYY}-{MM}-{DD}", null, null, null, null, null, null, 1],
  [60, "{HH}:{mm}", day, null, day, null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", day, null, day, null, null, null, 1],
  [0.001, ":{ss}.{fff}", day, null, day, null, "\n{HH}:{mm}", null, 1],
];
const utc = (seconds) => uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC");

// Without a cursor the legend shows the last values.
function rest(u) {
  if (u.cursor.idx == null) u.setLegend({ idx: u.data[0].length - 1 }, false);
}

function chart(id, height, data, series) {
  const box = document.getElementById(id);
  if (!box || !data) return null;
  const width = () => Math.max(200, box.clientWidth);
  const u = new uPlot({
    width: width(), height, tzDate: utc, ms: 1e-3, padding: [6, 26, 0, 0], hooks: { setCursor: [rest] },
    series: [{ label: "UTC", value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}" }, ...series],
    cursor: { sync: { key: "time" }, drag: { x: true, y: false } },
    axes: [axis({ space: 80, values: timeFormats }), axis({ size: 64, space: 28, values: amounts })],
  }, data, box);
  new ResizeObserver(() => u.setSize({ width: width(), height })).observe(box);
  rest(u);
  return u;
}

const line = (label, name, width, more) => ({
  label, stroke: () => colour[name], width, value: two, spanGaps: true, points: { show: false }, ...more,
});
const dots = (label, name) => ({
  label, stroke: () => colour[name], value: two, paths: () => null,
  points: { show: true, size: 5, stroke: () => colour[name], fill: () => colour[name] },
});
const curves = JSON.parse(document.getElementById("curves").textContent);
const charts = [
  chart("pnl", 260, curves.pnl, [line("total at mark", "ink", 1.4), line("closed", "up", 1.2)]),
  chart("spread", 260, curves.spread, [line("offered", "soft", 1), dots("entries", "a"), dots("exits", "b")]),
];
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  readColours();
  for (const u of charts) u?.redraw();
});
