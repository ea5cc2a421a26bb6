// Puts text into cells, fragments into cards and rows, arrays into charts. Every figure comes formatted from the server.
"use strict";
const root = document.documentElement, $ = (id) => document.getElementById(id), colour = {};
function readColours() {
  const style = getComputedStyle(root);
  for (const name of ["a", "b", "up", "soft", "grid", "ink", "card"]) colour[name] = style.getPropertyValue("--" + name).trim();
}
readColours();

const font = "11px Inter, system-ui, sans-serif", utc = (seconds) => uPlot.tzDate(new Date(seconds * 1e3), "Etc/UTC");
const axis = (more) => ({ stroke: () => colour.soft, grid: { stroke: () => colour.grid, width: 1 }, ticks: { show: false }, font, ...more });
const faded = (name, alpha) => () => colour[name] + Math.round(alpha * 255).toString(16).padStart(2, "0");
const minus = (text) => String(text).replace("-", "\u2212");
const shortened = (u, value) => (value == null ? "\u2013" : minus(+value.toFixed(Math.abs(value) < 1 ? 6 : 2)));
let marks = [], entry = null;

// Opens are triangles that point up, closes point down; several in one column of pixels become one with a count.
function drawMarks(u) {
  const { ctx, bbox } = u, ratio = devicePixelRatio, cells = new Map();
  ctx.save(); ctx.beginPath(); ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height); ctx.clip();
  if (entry != null) {
    const y = Math.round(u.valToPos(entry, "y", true));
    ctx.strokeStyle = colour.a; ctx.setLineDash([4 * ratio, 4 * ratio]); ctx.lineWidth = ratio;
    ctx.beginPath(); ctx.moveTo(bbox.left, y); ctx.lineTo(bbox.left + bbox.width, y); ctx.stroke(); ctx.setLineDash([]);
  }
  for (const [at, value, opens, count] of marks) {
    const x = u.valToPos(at, "x", true), key = Math.round(x / (13 * ratio)) * 2 + opens;
    if (x < bbox.left || x > bbox.left + bbox.width) continue;
    const cell = cells.get(key) || { x: 0, value: 0, count: 0, opens };
    cell.x += x * count; cell.value += value * count; cell.count += count;
    cells.set(key, cell);
  }
  ctx.font = `600 ${10 * ratio}px Inter, system-ui, sans-serif`; ctx.textAlign = "center";
  for (const cell of cells.values()) {
    const x = cell.x / cell.count, up = cell.opens ? 1 : -1, y = u.valToPos(cell.value / cell.count, "y", true) + up * 5 * ratio, size = 4.5 * ratio;
    ctx.fillStyle = cell.opens ? colour.a : colour.b; ctx.strokeStyle = colour.card; ctx.lineWidth = 1.5 * ratio;
    ctx.beginPath(); ctx.moveTo(x, y - up * size); ctx.lineTo(x + size, y + up * size); ctx.lineTo(x - size, y + up * size); ctx.closePath(); ctx.stroke(); ctx.fill();
    if (cell.count < 2) continue;
    const below = y + up * (cell.opens ? 16 : 8) * ratio;
    ctx.lineWidth = 3 * ratio; ctx.strokeText(cell.count, x, below); ctx.fillText(cell.count, x, below);
  }
  ctx.restore();
}

// Without a cursor the legend shows the newest values.
function rest(u) { if (u.cursor.idx == null && u.data[0].length) u.setLegend({ idx: u.data[0].length - 1 }, false); }

// The axis has room for the marks, which may be far from the spread of whole seconds.
const range = (u, least, most) => (least == null ? [0, 1] : uPlot.rangeNum(Math.min(least, ...marks.map((mark) => mark[1])), Math.max(most, ...marks.map((mark) => mark[1])), 0.1, true));

function chart(id, height, series, hooks, y = {}) {
  const box = $(id), width = () => Math.max(200, box.clientWidth), value = shortened;
  const u = new uPlot({
    width: width(), height, tzDate: utc, ms: 1e-3, hooks: { ...hooks, setCursor: [rest] },
    series: [{ label: "UTC", value: "{HH}:{mm}:{ss}" }, ...series.map((one) => ({ value, points: { show: false }, ...one }))],
    cursor: { sync: { key: "time" }, points: { size: 6 }, drag: { x: true, y: false } }, padding: [6, 26, 0, 0],
    scales: { y }, axes: [axis({ values: [[60, "{HH}:{mm}", null, null, null, null, null, null, 1], [1, "{HH}:{mm}:{ss}", null, null, null, null, null, null, 1]], space: 60, size: 26 }),
      axis({ size: 58, values: (_, values) => values.map(minus), space: 28 })],
  }, [[], ...series.map(() => [])], box);
  new ResizeObserver(() => u.setSize({ width: width(), height })).observe(box);
  return u;
}

const spread = chart("spread", 210, [
  { label: "cost to close", stroke: faded("b", 0.6), width: 1 },
  { label: "spread to open", stroke: () => colour.a, width: 1.4 },
], { draw: [drawMarks] }, { range });
const pnl = chart("pnl", 130, [
  { label: "total, marked, after fees", stroke: () => colour.ink, fill: faded("soft", 0.12), fillTo: 0, width: 1.4 },
  { label: "closed, after fees", stroke: () => colour.up, width: 1.2, paths: uPlot.paths.stepped({ align: 1 }) },
], {});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { readColours(); spread.redraw(); pnl.redraw(); });

function putCharts(data) {
  ({ marks, entry } = data);
  spread.setData(data.spread); pnl.setData(data.pnl); rest(spread); rest(pnl);
}

const shown = new Map();
function changed(key, value) { return shown.get(key) !== value && shown.set(key, value); }

// Rows by their ids: what changed is written, and all of them where others came or went. The head of a row, with its
// link, stays as it is when the rest changes: else a click would miss it.
function putRows(id, rows) {
  const body = $(id);
  if (changed("rows " + id, rows.map((row) => row[0]).join())) {
    body.replaceChildren(...rows.map(([name]) => { const row = document.createElement("tr"); row.id = name; shown.delete(name); return row; }));
  }
  rows.forEach(([name, head, tail, at, chosen], number) => {
    const row = body.children[number];
    if (changed(name, head)) { row.innerHTML = head; shown.delete(name + " tail"); }
    if (changed(name + " tail", tail)) {
      while (row.children.length > 2) row.lastChild.remove();
      row.insertAdjacentHTML("beforeend", tail); row.hidden = !found(row);
    }
    row.dataset.at = at; row.classList.toggle("chosen", chosen);
  });
}
const found = (row) => row.textContent.toLowerCase().includes($("find").value.trim().toLowerCase());
$("find").addEventListener("input", () => { for (const row of $("why").children) row.hidden = !found(row); });

function put(state) {
  if (shown.has("version") && shown.get("version") !== state.version) location.reload();
  shown.set("version", state.version);
  document.title = state.title;
  $("mode").textContent = state.mode; $("mode").className = "mode " + state.mode;
  for (const [key, html] of Object.entries(state.html)) if (changed(key, html)) $(key).innerHTML = html;
  for (const [key, at] of Object.entries(state.at)) $(key).dataset.at = at;
  for (const [key, rows] of Object.entries(state.rows)) putRows(key, rows);
}

// Ages are by the times inside the data, on the server's clock: `shift` is this page's clock less the server's, by the
// message that took the least time.
let shift = Infinity, written = 0, staleAfter = 1.5, source = null;
const serverTime = () => performance.now() / 1e3 - shift;
function words(seconds) {
  if (seconds < 60) return Math.max(0, seconds).toFixed(1) + " s";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} m ${String(Math.floor(seconds % 60)).padStart(2, "0")} s`;
  return seconds > 1e8 ? "never heard" : `${Math.floor(seconds / 3600)} h ${String(Math.floor(seconds / 60 % 60)).padStart(2, "0")} m`;
}
function showAges() {
  if (!written) return;
  const now = serverTime();
  for (const each of document.querySelectorAll("[data-at]")) {
    const seconds = now - each.dataset.at, age = each.querySelector(".age"), stale = seconds > staleAfter;
    each.classList.toggle("stale", stale);
    if (age) age.textContent = words(seconds) + (each.matches(".dot") ? "" : " old");
  }
  for (const each of document.querySelectorAll("[data-since]")) each.textContent = words(now - each.dataset.since);
  const seconds = now - written;
  document.body.classList.toggle("old", seconds > staleAfter);
  $("age").textContent = words(seconds);
  if (seconds > staleAfter) $("old").textContent = `Nothing heard from the monitor for ${words(seconds)}: the figures below are old.`;
}

// A hidden tab closes its stream: a browser opens six connections to a server, and a seventh tab would stay blank.
function listen() {
  source?.close();
  source = new EventSource(`/events${location.search}`);
  source.onopen = () => { shift = Infinity; };
  source.addEventListener("snapshot", (event) => {
    const state = JSON.parse(event.data);
    written = state.now; staleAfter = state.stale_after; shift = Math.min(shift, performance.now() / 1e3 - state.now);
    put(state); showAges();
  });
  source.addEventListener("charts", (event) => putCharts(JSON.parse(event.data)));
}
document.addEventListener("visibilitychange", () => { if (document.hidden) { source.close(); } else { listen(); } });
setInterval(() => { showAges(); if (source.readyState === EventSource.CLOSED && !document.hidden) listen(); }, 250);
listen();
