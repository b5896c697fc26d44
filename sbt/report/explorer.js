"use strict";
// The views of a grid that a report is explored with: the map of its cells or the score along an
// axis, the curves of the seeds of what is looked at, parallel coordinates, and the table of runs.
// All draw one `state`; the data are those of sbt/report/explorer.py. Text enters as text only.
(() => {
  const source = document.getElementById("data");
  const root = document.getElementById("explorer");
  const data = source && JSON.parse(source.textContent);

  // --- theme, and what works without data ------------------------------------------------------

  const page = document.documentElement;
  const remembered = (() => { try { return localStorage.getItem("theme"); } catch { return null; } })();
  if (remembered) page.dataset.theme = remembered;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (page.dataset.theme ?? (prefersDark.matches ? "dark" : "light")) === "dark";
  const theme = document.getElementById("theme");
  const nameTheme = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  if (theme) {
    theme.hidden = false;
    nameTheme();
    theme.addEventListener("click", () => {
      page.dataset.theme = isDark() ? "light" : "dark";
      try { localStorage.setItem("theme", page.dataset.theme); } catch { /* a page of a file may not */ }
      nameTheme();
      if (data) drawAll();
    });
    prefersDark.addEventListener("change", () => { nameTheme(); if (data) drawAll(); });
  }
  if (!data) return;
  // The figures for print are folded away where the views can be drawn, and printed all the same.
  const folded = document.getElementById("static");
  if (folded) folded.open = false;
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));

  // --- the grid --------------------------------------------------------------------------------

  const { axes, seeds, score } = data;
  const sizes = axes.map((axis) => axis.labels.length);
  const cells = sizes.reduce((a, b) => a * b, 1);
  const stride = sizes.map((_, i) => sizes.slice(i + 1).reduce((a, b) => a * b, 1));
  const along = (cell, axis) => Math.floor(cell / stride[axis]) % sizes[axis];
  const moved = (cell, axis, to) => cell + (to - along(cell, axis)) * stride[axis];
  const runs = data.runs ?? Array.from({ length: cells * seeds.length }, (_, i) => i);
  const rowOf = new Int32Array(cells * seeds.length).fill(-1);
  runs.forEach((run, row) => { rowOf[run] = row; });
  const cellOf = (row) => Math.floor(runs[row] / seeds.length);
  const seedOf = (row) => runs[row] % seeds.length;
  const rowsOf = (cell) => seeds.map((_, seed) => rowOf[cell * seeds.length + seed]).filter((row) => row >= 0);

  const TOP = 65532, WORSE = 65533, INFINITE = 65534;
  function decoded({ low, high, log, codes, whole }) {
    const bytes = Uint8Array.from(atob(codes), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const values = new Float64Array(bytes.length / 2);
    const [a, b] = log ? [Math.log(low), Math.log(high)] : [low, high];
    for (let i = 0; i < values.length; i++) {
      const code = view.getUint16(2 * i, true);
      const inside = a + (b - a) * (code / TOP), value = log ? Math.exp(inside) : inside;
      values[i] = code <= TOP ? (whole ? Math.round(value) : value)
        : code === INFINITE ? Infinity : code === WORSE ? -Infinity : NaN;
    }
    return values;
  }

  const columns = data.columns.map((column) => ({ ...column, values: decoded(column) }));
  const curves = data.curves.map((one) => ({ ...one, values: decoded(one), end: null }));
  const diverged = columns.find((column) => column.flag).values;
  const curveOf = (one, row) => one.values.subarray(row * one.at.length, (row + 1) * one.at.length);
  const lastOf = (values) => { for (let i = values.length - 1; i >= 0; i--) if (!Number.isNaN(values[i])) return values[i]; return NaN; };
  // What a cell can be coloured by: numbers of a run, and where its curves end.
  const metrics = [
    ...columns.filter((column) => !column.flag && column.better),
    ...curves.map((one) => ({ ...one, label: `${one.label}, last`,
      values: Float64Array.from(runs, (_, row) => lastOf(curveOf(one, row))) })),
  ];
  const chooses = metrics[score.validated ? 1 : 0];

  const isNumber = (v) => !Number.isNaN(v);
  function median(values) {
    const known = values.filter(isNumber).sort((a, b) => a - b);
    const n = known.length;
    return n ? (known[(n - 1) >> 1] + known[n >> 1]) / 2 : NaN;
  }
  function ofCells(metric) {
    metric.cells ??= Float64Array.from({ length: cells }, (_, cell) => median(rowsOf(cell).map((row) => metric.values[row])));
    return metric.cells;
  }
  const gain = (cell) => { const v = ofCells(chooses)[cell] * (score.higher ? 1 : -1); return isNumber(v) ? v : -Infinity; };
  const divergedIn = (cell) => rowsOf(cell).filter((row) => diverged[row]).length;

  // The ends of a scale: of the score those of the figures; of others without their bad tail.
  function range(metric) {
    if (metric === metrics[0]) return [score.worst, score.best].sort((a, b) => a - b);
    const known = [...metric.values].filter(Number.isFinite).sort((a, b) => a - b);
    if (!known.length) return [0, 1];
    const at = (q) => known[Math.round(q * (known.length - 1))];
    return [at(metric.better > 0 ? 0.15 : 0), at(metric.better < 0 ? 0.85 : 1)];
  }

  // --- words -----------------------------------------------------------------------------------

  const minus = (text) => text.replace(/-/g, "−");
  function number(value, percent) {
    if (Number.isNaN(value)) return "–";
    if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
    if (percent) return minus((100 * value).toFixed(1));
    const size = Math.abs(value);
    return minus(size !== 0 && (size >= 1e5 || size < 1e-3) ? value.toExponential(2) : size < 1e4 && !Number.isInteger(value) ? value.toPrecision(4) : String(Math.round(value)));
  }
  // A tick of an axis: without zeros that say nothing.
  const short = (v, percent) => number(v, percent).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
  const units = (metric) => (metric.percent ? " %" : metric.units ? ` ${metric.units}` : "");
  const titled = (metric) => metric.label + (metric.percent ? " [%]" : metric.units ? ` [${metric.units}]` : "");
  // 2^-4 with its exponent raised.
  function powers(text) {
    const [, base, power, rest] = /^(\d+)\^(-?\d+)(.*)$/.exec(text) ?? [];
    if (!base) return [text];
    const raised = [...power].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] ?? "⁻").join("");
    return [base + raised + rest];
  }
  const label = (axis, i) => powers(axes[axis].labels[i])[0];
  const named = (cell, some = axes.keys()) => [...some].map((a) => `${axes[a].symbol} ${label(a, along(cell, a))}`).join(", ");
  function told(cell, metric) {
    const rows = rowsOf(cell).filter((row) => isNumber(metric.values[row]));
    if (!rows.length) return "no result";
    const values = rows.map((row) => metric.values[row]).sort((a, b) => a - b);
    const spread = values.length > 1 ? ` (${number(values[0], metric.percent)} to ${number(values.at(-1), metric.percent)}, ${values.length} seeds)` : "";
    const bad = divergedIn(cell);
    return `${number(median(values), metric.percent)}${units(metric)}${spread}${bad ? `, ${bad} diverged` : ""}`;
  }

  // --- elements --------------------------------------------------------------------------------

  function set(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes ?? {})) {
      if (value === undefined || value === null || value === false) continue;
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
    return node;
  }
  const html = (name, attributes, ...children) => set(document.createElement(name), attributes, children);
  const svg = (name, attributes, ...children) => set(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
  const choice = (text, options, value, change) => html("label", {}, `${text} `,
    html("select", { onchange: (e) => change(e.target.value) },
      options.map(([key, words]) => html("option", { value: key, selected: String(key) === String(value) }, words))));
  const tick = (text, value, change) => html("label", { class: "tick" },
    html("input", { type: "checkbox", checked: value, onchange: (e) => change(e.target.checked) }), ` ${text}`);

  // Viridis: lightness rises steadily, so that its order survives grey and colour blindness.
  const VIRIDIS = ["440154", "482878", "3e4989", "31688e", "26828e", "1f9e89", "35b779", "6ece58", "b5de2b", "fde725"]
    .map((hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16)));
  function viridis(part) {
    const x = Math.min(Math.max(part, 0), 1) * (VIRIDIS.length - 1);
    const i = Math.min(Math.floor(x), VIRIDIS.length - 2);
    return VIRIDIS[i].map((c, k) => Math.round(c + (x - i) * (VIRIDIS[i + 1][k] - c)));
  }
  const rgb = (colour) => `rgb(${colour.join(" ")})`;
  // Whether dark text is read better than white on a colour (WCAG: above this luminance it is).
  const linear = (c) => (c <= 10 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4);
  const isLight = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b) > 0.18;
  const DASHES = ["", "7 3", "2 2", "7 3 2 3"];
  const UNORDERED = () => [isDark() ? "#f0f0f0" : "#000000", "#d55e00", isDark() ? "#56b4e9" : "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999933"];
  // The end of the map that would vanish on the page is left out.
  function family(count, ordered) {
    return Array.from({ length: count }, (_, i) => {
      const part = count > 1 ? i / (count - 1) : 0;
      const colour = ordered ? rgb(viridis(isDark() ? 0.3 + 0.7 * part : 0.86 * part)) : UNORDERED()[i % 8];
      return { colour, dash: DASHES[i % DASHES.length] };
    });
  }

  // --- scales and charts -----------------------------------------------------------------------

  function scaled([low, high], [from, to], log) {
    const f = log ? Math.log : (v) => v;
    const [a, b] = [f(low), f(high)];
    return (v) => (b === a ? (from + to) / 2 : from + (to - from) * ((f(v) - a) / (b - a)));
  }
  function ticks([low, high], log, most) {
    if (low === high) return [low];
    if (log && high / low > 8) {
      const steps = high / low > 1e3 ? [1] : [1, 2, 5];
      const found = [];
      for (let k = Math.floor(Math.log10(low)); k <= Math.log10(high); k++) for (const s of steps) found.push(s * 10 ** k);
      const inside = found.filter((v) => v >= low * 0.999 && v <= high * 1.001);
      return inside.filter((_, i) => i % Math.ceil(inside.length / most) === 0);
    }
    const rough = (high - low) / most, unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 5, 10].find((s) => s * unit >= rough * 0.999);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-6); k * step <= high + 1e-6 * step; k++) found.push(Number((k * step).toPrecision(12)));
    return found;
  }
  const padded = ([low, high], log) => {
    if (low === high) return log ? [low / 1.1, high * 1.1] : [low - (Math.abs(low) * 0.1 || 0.5), high + (Math.abs(high) * 0.1 || 0.5)];
    const pad = 0.04;
    return log ? [low * (low / high) ** pad, high * (high / low) ** pad] : [low - pad * (high - low), high + pad * (high - low)];
  };

  // A chart of curves: [{points: [[x, y], ...], colour, dash, width, opacity, dots}], with axes.
  // What is infinitely bad, or off the scale, stands at its edge as a cross.
  function chart(holder, { series, bands = [], x, y, height, title, onhover, marks = [] }) {
    const width = Math.max(holder.clientWidth, 240);
    const left = 46, right = 10, top = 8, bottom = 34;
    const px = scaled(x.ends, [left, width - right], x.log);
    const py = scaled(y.ends, [height - bottom, top], y.log);
    const clipped = (v) => Math.min(Math.max(v, y.ends[0]), y.ends[1]);
    const at = ([u, v]) => [px(u), py(clipped(v))];
    const texts = y.ticks ?? ticks(y.ends, y.log, 6);
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": title });
    for (const v of texts) {
      picture.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: py(v), y2: py(v) }),
        svg("text", { x: left - 6, y: py(v) + 4, "text-anchor": "end" }, short(v, y.percent)));
    }
    const named = x.ticks ?? ticks(x.ends, x.log, Math.max(width / 70, 3)).map((v) => [v, short(v)]);
    const room = (width - left - right) / Math.max(...named.map(([, words]) => 7 * words.length + 8));
    const every = Math.ceil(named.length / Math.max(room, 1));
    named.forEach(([v, words], i) => {
      picture.append(svg("line", { class: "grid", x1: px(v), x2: px(v), y1: top, y2: height - bottom }));
      if (i % every === 0) picture.append(svg("text", { x: px(v), y: height - bottom + 15, "text-anchor": "middle" }, words));
    });
    picture.append(svg("text", { x: (left + width - right) / 2, y: height - 3, "text-anchor": "middle", class: "name" }, x.name));
    for (const { low, high, colour } of bands) {
      const outline = [...high, ...[...low].reverse()].map(at).map((p) => p.map((c) => c.toFixed(1)).join(","));
      if (outline.length) picture.append(svg("polygon", { points: outline.join(" "), fill: colour, opacity: 0.16 }));
    }
    for (const one of series) {
      const known = one.points.filter(([u, v]) => isNumber(v) && (!x.log || u > 0) && (!y.log || v > 0));
      const inside = known.filter(([, v]) => Number.isFinite(v));
      const line = inside.map(at).map((p) => p.map((c) => c.toFixed(1)).join(",")).join(" ");
      const look = { stroke: one.colour, "stroke-width": one.width ?? 1.5, opacity: one.opacity ?? 1, fill: "none", "stroke-dasharray": one.dash };
      if (inside.length > 1 && !one.bare) picture.append(svg("polyline", { points: line, ...look }));
      for (const point of known) {
        const off = !Number.isFinite(point[1]) || point[1] < y.ends[0] || point[1] > y.ends[1];
        const bad = off && (point[1] === Infinity || point[1] > y.ends[1]) ? top : height - bottom;
        const [u, v] = off ? [px(point[0]), bad] : at(point);
        if (off && (one.dots || !Number.isFinite(point[1]))) picture.append(svg("path", { d: `M${u - 4} ${v - 4}l8 8m0 -8l-8 8`, stroke: one.colour, "stroke-width": 2 }));
        else if (!off && (one.dots || inside.length === 1)) picture.append(svg("circle", { cx: u, cy: v, r: one.dots ?? 3, fill: one.colour, opacity: one.opacity ?? 1 }));
      }
    }
    for (const [u, v] of marks) picture.append(svg("circle", { cx: px(u), cy: py(clipped(v)), r: 7, class: "ring" }));
    if (onhover) {
      picture.addEventListener("pointermove", (event) => {
        const box = picture.getBoundingClientRect();
        const [u, v] = [(event.clientX - box.left) * (width / box.width), (event.clientY - box.top) * (height / box.height)];
        let best = null, least = 40 ** 2;
        for (const one of series) for (const point of one.points) {
          if (!isNumber(point[1])) continue;
          const [a, b] = at(point);
          const far = (a - u) ** 2 + (b - v) ** 2;
          if (far < least) { least = far; best = point; }
        }
        if (best) onhover(best);
      });
    }
    holder.replaceChildren(picture);
  }

  // --- what is looked at -----------------------------------------------------------------------

  const plane = data.plane;
  const state = {
    metric: 0, view: plane.length === 2 ? "map" : "lines", x: plane[0] ?? -1, y: plane[1] ?? -1, rest: axes.map(() => -1), log: false,
    curve: curves.length && (curves[0].at.length > 1 || !plane.length) ? 0 : `along${plane[0]}`,
    logX: false, logY: false, seeds: "each", active: data.best ?? 0, seed: -1, pinned: [],
    filters: axes.map(() => -1), seedFilter: -1, bounds: {}, sort: null, down: score.higher, first: 0,
  };
  if (range(metrics[0])[0] > 0 && range(metrics[0])[1] / range(metrics[0])[0] > 20) state.log = true;

  // A page that reads its file again, while a sweep runs, goes on where its reader was.
  const kept = `view of ${location.pathname}: ${sizes.join(" ")} ${curves.length}`;
  try { Object.assign(state, JSON.parse(sessionStorage.getItem(kept)) ?? {}); } catch { /* the first time */ }
  addEventListener("pagehide", () => { try { sessionStorage.setItem(kept, JSON.stringify(state)); } catch { /* a page of a file may not */ } });

  // The cell that stands for a place of the plane: the best over the other axes, or at chosen values.
  function standsFor() {
    const columns = state.x < 0 ? 1 : sizes[state.x], rows = state.y < 0 ? 1 : sizes[state.y];
    const found = Array.from({ length: rows }, () => new Int32Array(columns).fill(-1));
    for (let cell = 0; cell < cells; cell++) {
      if (axes.some((_, a) => a !== state.x && a !== state.y && state.rest[a] >= 0 && along(cell, a) !== state.rest[a])) continue;
      const [i, j] = [state.y < 0 ? 0 : along(cell, state.y), state.x < 0 ? 0 : along(cell, state.x)];
      const known = found[i][j];
      if (known < 0 || gain(cell) > gain(known)) found[i][j] = cell;
    }
    return found;
  }

  function look(cell, seed = -1) {
    if (cell < 0 || (cell === state.active && seed === state.seed)) return;
    state.active = cell;
    state.seed = seed;
    mark();
    drawCurves();
    drawHighlight();
  }
  function pin(cell) {
    const at = state.pinned.indexOf(cell);
    if (at >= 0) state.pinned.splice(at, 1);
    else state.pinned = [...state.pinned, cell].slice(-6);
    mark();
    drawCurves();
  }
  function mark() {
    for (const node of root.querySelectorAll("[data-cell]")) {
      const cell = Number(node.dataset.cell);
      node.classList.toggle("active", cell === state.active);
      const at = state.pinned.indexOf(cell);
      node.classList.toggle("pinned", at >= 0);
      if (node.matches("td")) node.setAttribute("aria-selected", at >= 0);
    }
  }
  const passes = (cell) => state.filters.every((i, a) => i < 0 || along(cell, a) === i);

  // Arrow keys move the focus among elements with a place.
  function arrows(event, nodes) {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (!step) return;
    const [i, j] = event.target.dataset.place.split(",").map(Number);
    const next = nodes.get(`${i + step[0]},${j + step[1]}`);
    if (!next) return;
    event.preventDefault();
    nodes.forEach((node) => { node.tabIndex = -1; });
    next.tabIndex = 0;
    next.focus();
  }

  // --- the map, or the score along an axis -----------------------------------------------------

  const part = (id, title) => {
    const tools = html("div", { class: "tools" });
    const body = html("div", { class: "body" });
    const box = html("section", { class: "panel", id, "aria-label": title }, html("h2", {}, title), tools, body);
    return { box, tools, body, head: box.firstChild };
  };
  const overview = part("overview", "The grid");
  const detail = part("detail", "Its runs");
  const parallel = part("parallel", "All axes");
  const table = part("runs", "Runs");

  function drawOverviewTools() {
    const names = axes.map((axis, i) => [i, axis.name]);
    const again = (change) => (value) => { change(value); drawOverviewTools(); drawOverview(); drawParallel(); };
    const other = (a, b) => (v) => { if (Number(v) === state[b]) state[b] = state[a]; state[a] = Number(v); };
    overview.tools.replaceChildren(
      choice("Show", metrics.map((m, i) => [i, m.label]), state.metric, again((v) => { state.metric = Number(v); })),
      ...(axes.length > 1 ? [
        choice("as", [["map", "map"], ["lines", "lines"]], state.view, again((v) => { state.view = v; })),
        choice("x", names, state.x, again(other("x", "y"))),
        choice(state.view === "map" ? "y" : "a line each", names, state.y, again(other("y", "x")))] : []),
      ...axes.flatMap((axis, a) => (a === state.x || a === state.y ? [] : [
        choice(axis.name, [[-1, "best"], ...axis.labels.map((_, i) => [i, label(a, i)])], state.rest[a], again((v) => { state.rest[a] = Number(v); }))])),
      tick("log", state.log, again((v) => { state.log = v; })));
  }

  function drawOverview() {
    const metric = metrics[state.metric], values = ofCells(metric);
    const found = standsFor();
    overview.head.textContent = `${metric.label} over the grid`;
    if (state.view === "map" && state.y >= 0) drawMap(metric, values, found);
    else drawLines(metric, values, found);
    mark();
  }

  const usableLog = (ends) => state.log && ends[0] > 0;

  function drawMap(metric, values, found) {
    const ends = range(metric);
    const shade = scaled(ends, metric.better < 0 ? [1, 0] : [0, 1], usableLog(ends));
    const nodes = new Map();
    const columns = found[0].length, rows = found.length;
    const y = axes[state.y], flip = y.ordered;
    const small = columns > 12 || root.clientWidth < 600 && columns > 6;
    const body = [];
    for (let k = 0; k < rows; k++) {
      const i = flip ? rows - 1 - k : k;
      const line = [html("th", { scope: "row" }, label(state.y, i))];
      for (let j = 0; j < columns; j++) {
        const cell = found[i][j], value = values[cell];
        const known = isNumber(value), bad = divergedIn(cell);
        const colour = known ? viridis(Number.isFinite(value) ? shade(value) : 0) : null;
        const name = `${named(cell)}: ${told(cell, metric)}`;
        const node = html("td", {
          "data-cell": cell, "data-place": `${k},${j}`, tabindex: -1, "aria-label": name, title: name, role: "gridcell",
          class: [cell === data.best && "best", !passes(cell) && "dim"].filter(Boolean).join(" ") || null,
          style: colour && `background:${rgb(colour)};color:${isLight(colour) ? "#000" : "#fff"}`,
          onpointerenter: () => look(cell), onfocus: () => look(cell), onclick: () => pin(cell),
          onkeydown: (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); pin(cell); } arrows(e, nodes); },
        }, known ? (small ? (bad ? "×" : "") : number(value, metric.percent)) : "–", bad && !small ? html("small", {}, ` ×${bad}`) : null);
        nodes.set(`${k},${j}`, node);
        line.push(node);
      }
      body.push(html("tr", {}, line));
    }
    const start = [...nodes.values()].find((node) => Number(node.dataset.cell) === data.best) ?? nodes.get("0,0");
    start.tabIndex = 0;
    const foot = html("tr", {}, html("th", {}, `${y.symbol}↑ ${axes[state.x].symbol}→`),
      Array.from({ length: columns }, (_, j) => html("th", { scope: "col" }, label(state.x, j))));
    const from = metric.better < 0 ? [ends[1], ends[0]] : ends;
    overview.body.replaceChildren(
      html("div", { class: "scroll" }, html("table", { class: `map${small ? " small" : ""}`, role: "grid", "aria-label": `${metric.label}: ${y.name} against ${axes[state.x].name}` }, html("tbody", {}, body), html("tfoot", {}, foot))),
      html("div", { class: "key" }, number(from[0], metric.percent),
        html("span", { class: "ramp", style: `background:linear-gradient(90deg,${[0, 0.25, 0.5, 0.75, 1].map((p) => rgb(viridis(p))).join(",")})` }),
        `${number(from[1], metric.percent)}${units(metric)}`,
        html("span", { class: "quiet" }, " Framed: best", diverged.includes(1) ? "; ×n: seeds that diverged" : "", cells * seeds.length > runs.length ? "; –: no result" : "")));
  }

  const axisOf = (a) => {
    const { places, scale, name } = axes[a];
    const log = scale.startsWith("log");
    return { ends: padded([Math.min(...places), Math.max(...places)], log), log, name, ticks: places.map((v, i) => [v, label(a, i)]) };
  };
  const ordinate = (metric, values, log) => {
    const ends = range(metric);
    const known = values.filter((v) => Number.isFinite(v) && v >= ends[0] && v <= ends[1]);
    const tight = known.length ? [Math.min(...known), Math.max(...known)] : ends;
    const usable = log && tight[0] > 0;
    return { ends: padded(tight, usable), log: usable, percent: metric.percent };
  };

  function legend(looks, heading) {
    return html("ul", { class: "legend" }, heading ? html("li", { class: "quiet" }, heading) : null, looks.map(({ words, colour, dash, remove }) => html("li", {},
      svg("svg", { width: 22, height: 10, "aria-hidden": true }, svg("line", { x1: 0, x2: 22, y1: 5, y2: 5, stroke: colour, "stroke-width": 2.5, "stroke-dasharray": dash })),
      ` ${words} `, remove ? html("button", { type: "button", "aria-label": `remove ${words}`, onclick: remove }, "×") : null)));
  }

  function drawLines(metric, values, found) {
    const a = state.x, looks = family(found.length, state.y >= 0 && axes[state.y].ordered);
    const series = [], bands = [], all = [];
    found.forEach((line, i) => {
      const points = [...line].map((cell, j) => [axes[a].places[j], values[cell], cell]);
      const spread = [...line].map((cell) => rowsOf(cell).map((row) => metric.values[row]).filter(Number.isFinite));
      const ends = (pick) => points.map(([x], j) => [x, pick(...spread[j])]).filter(([, v]) => Number.isFinite(v));
      if (seeds.length > 1 && state.seeds === "band") bands.push({ low: ends(Math.min), high: ends(Math.max), colour: looks[i].colour });
      if (seeds.length > 1 && state.seeds === "each") series.push({ ...looks[i], points: points.flatMap(([x, , cell], j) => spread[j].map((v) => [x, v, cell])), bare: true, dots: 2, opacity: 0.45 });
      series.push({ ...looks[i], points, dots: 3.5, width: 1.8 });
      all.push(...points.map(([, v]) => v));
    });
    const holder = html("div", { tabindex: 0, role: "group", "aria-label": `${metric.label} along ${axes[a].name}; arrow keys move`, class: "lines" });
    const keys = html("div", {}, state.y >= 0 ? legend(looks.map((one, i) => ({ ...one, words: label(state.y, i) })), axes[state.y].name) : "");
    overview.body.replaceChildren(holder, keys);
    const best = data.best !== null && found.some((line) => line.includes(data.best)) ? [[axes[a].places[along(data.best, a)], values[data.best]]] : [];
    chart(holder, { series, bands, x: axisOf(a), y: ordinate(metric, all, state.log), height: 330, title: `${metric.label} along ${axes[a].name}`, marks: best, onhover: ([, , cell]) => look(cell) });
    holder.addEventListener("click", () => pin(state.active));
    holder.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [a, -1], ArrowRight: [a, 1], ArrowDown: [state.y, -1], ArrowUp: [state.y, 1] }[event.key];
      if (event.key === "Enter") pin(state.active);
      if (!step || step[0] < 0) return;
      event.preventDefault();
      const to = along(state.active, step[0]) + step[1];
      if (to >= 0 && to < sizes[step[0]]) look(moved(state.active, ...[step[0], to]));
    });
  }

  // --- the runs of a cell ----------------------------------------------------------------------

  function drawDetailTools() {
    const again = (change) => (value) => { change(value); drawDetailTools(); drawCurves(); };
    const both = (change) => (value) => { change(value); drawDetailTools(); drawCurves(); drawOverview(); };
    const options = [...curves.map((one, i) => [i, one.label]), ...axes.map((axis, a) => [`along${a}`, `score along ${axis.name}`])];
    const overTime = typeof state.curve === "number";
    detail.tools.replaceChildren(
      choice("Show", options, state.curve, again((v) => { state.curve = v.startsWith("along") ? v : Number(v); })),
      seeds.length > 1 ? choice("seeds", [["each", "each"], ["band", "median and range"], ["median", "median"]], state.seeds, both((v) => { state.seeds = v; })) : "",
      overTime ? tick("log time", state.logX, again((v) => { state.logX = v; })) : "",
      tick("log value", state.logY, again((v) => { state.logY = v; })));
  }

  // Of each seed of a cell its points: over the epochs, or along an axis through the cell.
  function pointsOf(cell) {
    if (typeof state.curve === "number") {
      const one = curves[state.curve];
      return rowsOf(cell).map((row) => ({ row, points: one.at.map((t, i) => [t, curveOf(one, row)[i]]) }));
    }
    const a = Number(state.curve.slice(5)), metric = metrics[state.metric];
    return seeds.map((_, seed) => ({ row: rowOf[cell * seeds.length + seed], points: axes[a].places.map((x, i) => {
      const row = rowOf[moved(cell, a, i) * seeds.length + seed];
      return [x, row < 0 ? NaN : metric.values[row]];
    }) }));
  }

  function drawCurves() {
    const overTime = typeof state.curve === "number";
    const shown = [...new Set([...state.pinned, state.active])];
    const colours = UNORDERED();
    const metric = overTime ? curves[state.curve] : metrics[state.metric];
    const series = [], bands = [], looks = [], all = [];
    let least = Infinity;
    shown.forEach((cell, k) => {
      const own = pointsOf(cell), colour = colours[k % colours.length], dash = DASHES[k % DASHES.length];
      const middle = own.length ? own[0].points.map(([x], i) => [x, median(own.map((one) => one.points[i][1]))]) : [];
      const ends = (pick) => middle.map(([x], i) => [x, pick(...own.map((one) => one.points[i][1]).filter(Number.isFinite))]).filter(([, v]) => Number.isFinite(v));
      if (state.seeds === "each") for (const { row, points } of own) {
        const chosen = cell === state.active && row >= 0 && seedOf(row) === state.seed;
        series.push({ points, colour, width: chosen ? 2.6 : 1, opacity: chosen ? 1 : 0.55 });
      }
      if (state.seeds === "band") bands.push({ low: ends(Math.min), high: ends(Math.max), colour });
      series.push({ points: middle, colour, dash, width: 2.2, dots: overTime ? undefined : 3 });
      looks.push({ words: axes.length ? named(cell) : "median", colour, dash, remove: state.pinned.includes(cell) ? () => pin(cell) : null });
      for (const { points } of own) for (const [x, v] of points) { if (Number.isFinite(v)) all.push(v); if (x > 0) least = Math.min(least, x); }
    });
    const at = overTime ? metric.at : null;
    const log = overTime && state.logX && at.at(-1) > 0;
    const x = overTime ? { ends: padded([log ? least : Math.min(at[0], at.length > 1 ? at[0] : at[0]), at.at(-1)], log), log, name: metric.time } : axisOf(Number(state.curve.slice(5)));
    let ends = [Math.min(...all), Math.max(...all)];
    if (!all.length) ends = [0, 1];
    const far = overTime ? ends : range(metric);
    if (!overTime && all.length) ends = [Math.max(ends[0], Math.min(far[0], ends[1])), Math.min(ends[1], Math.max(far[1], ends[0]))];
    const usable = state.logY && ends[0] > 0;
    const holder = html("div", {});
    detail.head.textContent = overTime ? `${titled(metric)} of the runs` : `${titled(metric)} along ${axes[Number(state.curve.slice(5))].name}`;
    detail.body.replaceChildren(
      html("p", { class: "readout", "aria-live": "polite" }, html("b", {}, axes.length ? named(state.active) : "the run"), `: ${told(state.active, metrics[state.metric])}`),
      holder, legend(looks), html("p", { class: "quiet hint" }, axes.length ? "Hover or move with the arrow keys to see a cell; click or press Enter to keep it." : ""));
    chart(holder, { series, bands, x, y: { ends: padded(ends, usable), log: usable, percent: metric.percent }, height: 300, title: `${metric.label} of ${shown.map((cell) => named(cell)).join("; ")}` });
  }

  // --- parallel coordinates --------------------------------------------------------------------

  let highlight = () => {};
  const drawHighlight = () => highlight();
  function drawParallel() {
    if (axes.length < 3) return;
    const metric = metrics[state.metric], values = ofCells(metric), ends = range(metric);
    const log = usableLog(ends);
    const width = Math.max(parallel.body.clientWidth, 300), height = 260, top = 26, bottom = 18;
    const px = (k) => 40 + (width - 100) * (k / axes.length);
    const place = (a, i) => (sizes[a] > 1 ? height - bottom - (height - top - bottom) * (i / (sizes[a] - 1)) : height / 2);
    const py = scaled(padded(ends, log), metric.better < 0 ? [top, height - bottom] : [height - bottom, top], log);
    const shade = scaled(ends, metric.better < 0 ? [1, 0] : [0, 1], log);
    const clip = (v) => Math.min(Math.max(v, ends[0]), ends[1]);
    const pathOf = (cell) => `M${axes.map((_, a) => `${px(a).toFixed(1)} ${place(a, along(cell, a)).toFixed(1)}`).join("L")}L${px(axes.length).toFixed(1)} ${py(clip(values[cell])).toFixed(1)}`;
    const BINS = 16;
    const lines = Array.from({ length: BINS }, () => []);
    const drawn = [];
    for (let cell = 0; cell < cells; cell++) {
      if (!isNumber(values[cell]) || !passes(cell)) continue;
      drawn.push(cell);
      lines[Math.min(Math.floor(Math.max(shade(clip(values[cell])), 0) * BINS), BINS - 1)].push(pathOf(cell));
    }
    const faint = Math.max(0.12, Math.min(0.75, 120 / Math.max(drawn.length, 1)));
    const over = svg("path", { class: "over" });
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-label": `Parallel coordinates of ${drawn.length} cells, coloured by ${metric.label}`, role: "group" },
      lines.map((bin, b) => (bin.length ? svg("path", { d: bin.join(""), fill: "none", stroke: rgb(viridis((b + 0.5) / BINS)), opacity: b > BINS * 0.8 ? Math.min(1, 2.5 * faint) : faint }) : null)), over);
    axes.forEach((axis, a) => {
      picture.append(svg("line", { class: "axis", x1: px(a), x2: px(a), y1: top, y2: height - bottom }), svg("text", { x: px(a), y: 12, "text-anchor": "middle", class: "name" }, axis.symbol));
      const every = Math.ceil(sizes[a] / 16);
      axis.labels.forEach((_, i) => {
        const on = state.filters[a] === i;
        if (i % every) return;
        picture.append(svg("text", { x: px(a) - 5, y: place(a, i) + 4, "text-anchor": "end", role: "button", tabindex: 0, "aria-pressed": on, class: on ? "value on" : "value", "aria-label": `only ${axis.name} ${label(a, i)}`,
          onclick: () => filterBy(a, on ? -1 : i), onkeydown: (e) => { if (e.key === "Enter") filterBy(a, on ? -1 : i); } }, label(a, i)));
      });
    });
    const k = axes.length;
    picture.append(svg("line", { class: "axis", x1: px(k), x2: px(k), y1: top, y2: height - bottom }), svg("text", { x: width - 2, y: 12, "text-anchor": "end", class: "name" }, titled(metric)));
    for (const v of ticks(ends, log, 5)) picture.append(svg("text", { x: px(k) + 6, y: py(v) + 4 }, short(v, metric.percent)));
    picture.addEventListener("pointermove", (event) => {
      const box = picture.getBoundingClientRect();
      const [u, v] = [(event.clientX - box.left) * (width / box.width), (event.clientY - box.top) * (height / box.height)];
      const s = Math.min(Math.max(((u - 40) / (width - 100)) * k, 0), k - 1e-6), a = Math.floor(s);
      let best = -1, least = 20;
      for (const cell of drawn) {
        const from = place(a, along(cell, a)), to = a + 1 < k ? place(a + 1, along(cell, a + 1)) : py(clip(values[cell]));
        const far = Math.abs(from + (s - a) * (to - from) - v);
        if (far < least) { least = far; best = cell; }
      }
      look(best);
    });
    highlight = () => over.setAttribute("d", isNumber(values[state.active]) ? pathOf(state.active) : "M0 0");
    highlight();
    parallel.body.replaceChildren(html("div", { class: "scroll" }, picture), html("p", { class: "quiet hint" }, "A line is a cell, its colour the score. A click on a value keeps its cells alone, here, in the map and in the table."));
  }

  function filterBy(axis, i) {
    state.filters[axis] = i;
    state.first = 0;
    drawParallel();
    drawFilters();
    drawRows();
    for (const node of overview.body.querySelectorAll("td[data-cell]")) node.classList.toggle("dim", !passes(Number(node.dataset.cell)));
  }

  // --- the table of runs -----------------------------------------------------------------------

  const PAGE = 25;
  const shownCurves = curves.slice(0, 6).map((one) => ({ ...one, label: `last ${one.label}`, values: metrics.find((m) => m.codes === one.codes && m.at)?.values }));
  const fields = [
    ...axes.map((axis, a) => ({ name: axis.name, axis: a, key: (row) => (axis.ordered ? along(cellOf(row), a) : axis.labels[along(cellOf(row), a)]), words: (row) => label(a, along(cellOf(row), a)) })),
    ...(seeds.length > 1 ? [{ name: "seed", seed: true, key: seedOf, words: (row) => seeds[seedOf(row)] }] : []),
    ...[...columns, ...shownCurves].map((column) => ({
      name: column.flag ? column.label : titled(column), column, key: (row) => column.values[row],
      words: (row) => (column.flag ? (column.values[row] ? "yes" : "") : number(column.values[row], column.percent)) })),
  ];
  state.sort ??= fields.findIndex((field) => field.column === columns[0]);
  const filterRow = html("tr", { class: "filters" });
  const headRow = html("tr", {});
  const tbody = html("tbody", {});
  const count = html("span", { class: "quiet", "aria-live": "polite" });
  const pager = html("span", {});

  // "> 0.9", "<= 3", "97": a condition on the number as it is shown.
  function condition(text, percent) {
    const match = /^\s*(<=|>=|<|>|=)?\s*([-+]?[\d.]+(?:e[-+]?\d+)?)\s*%?\s*$/i.exec(text.replace("−", "-").replace("≤", "<=").replace("≥", ">="));
    if (!match) return null;
    const value = Number(match[2]) / (percent ? 100 : 1);
    const near = (percent ? 0.0005 : Math.abs(value) * 0.0005) + 1e-12;
    return { "<": (v) => v < value, ">": (v) => v > value, "<=": (v) => v <= value, ">=": (v) => v >= value }[match[1]] ?? ((v) => Math.abs(v - value) <= near);
  }

  function drawFilters() {
    filterRow.replaceChildren(...fields.map((field, f) => {
      const name = `filter by ${field.name}`;
      const select = (options, value, change) => html("select", { "aria-label": name, onchange: (e) => change(Number(e.target.value)) },
        html("option", { value: -1 }, "all"), options.map((words, i) => html("option", { value: i, selected: i === value }, words)));
      if (field.axis !== undefined) return html("td", {}, select(axes[field.axis].labels.map((_, i) => label(field.axis, i)), state.filters[field.axis], (i) => filterBy(field.axis, i)));
      if (field.seed) return html("td", {}, select(seeds, state.seedFilter, (i) => { state.seedFilter = i; state.first = 0; drawRows(); }));
      if (field.column.flag) return html("td", {}, select(["no", "yes"], state.bounds[f] ?? -1, (i) => { state.bounds[f] = i; state.first = 0; drawRows(); }));
      return html("td", {}, html("input", { type: "text", size: 6, "aria-label": name, placeholder: "> …", value: state.bounds[f] ?? "",
        oninput: (e) => { state.bounds[f] = e.target.value; state.first = 0; e.target.setAttribute("aria-invalid", e.target.value.trim() !== "" && !condition(e.target.value, field.column.percent)); drawRows(); } }));
    }));
  }

  function chosenRows() {
    const tests = fields.map((field, f) => {
      if (!field.column || state.bounds[f] === undefined || state.bounds[f] === -1) return null;
      if (field.column.flag) return (row) => field.column.values[row] === state.bounds[f];
      const holds = condition(state.bounds[f], field.column.percent);
      return holds && ((row) => holds(field.column.values[row]));
    }).filter(Boolean);
    const found = [];
    for (let row = 0; row < runs.length; row++) {
      if ((state.seedFilter < 0 || seedOf(row) === state.seedFilter) && passes(cellOf(row)) && tests.every((holds) => holds(row))) found.push(row);
    }
    const { key } = fields[state.sort], sign = state.down ? -1 : 1;
    const keys = new Map(found.map((row) => [row, key(row)]));
    const missing = (v) => typeof v === "number" && Number.isNaN(v);
    return found.sort((a, b) => {
      const [u, v] = [keys.get(a), keys.get(b)];
      if (missing(u) || missing(v)) return missing(u) - missing(v) || a - b;
      return (u < v ? -sign : u > v ? sign : 0) || a - b;
    });
  }

  function drawRows() {
    const found = chosenRows();
    state.first = Math.min(state.first, Math.max(0, Math.floor((found.length - 1) / PAGE) * PAGE));
    const nodes = new Map();
    headRow.replaceChildren(...fields.map((field, f) => html("th", { scope: "col", "aria-sort": f === state.sort ? (state.down ? "descending" : "ascending") : null },
      html("button", { type: "button", onclick: () => {
        state.down = f === state.sort ? !state.down : Boolean(field.column && (field.column.better ?? 1) > 0);
        state.sort = f;
        state.first = 0;
        drawRows();
        headRow.children[f].firstChild.focus();
      } }, powers(field.name)[0], f === state.sort ? (state.down ? " ▾" : " ▴") : ""))));
    tbody.replaceChildren(...found.slice(state.first, state.first + PAGE).map((row, i) => {
      const cell = cellOf(row);
      const node = html("tr", { "data-cell": cell, "data-place": `${i},0`, tabindex: i ? -1 : 0, onpointerenter: () => look(cell, seedOf(row)), onfocus: () => look(cell, seedOf(row)), onclick: () => pin(cell),
        onkeydown: (e) => { if (e.key === "Enter") pin(cell); arrows(e, nodes); } }, fields.map((field) => html("td", {}, field.words(row))));
      nodes.set(`${i},0`, node);
      return node;
    }));
    count.textContent = `${found.length.toLocaleString("en")} of ${runs.length.toLocaleString("en")} runs`;
    const step = (words, by) => html("button", { type: "button", disabled: state.first + by < 0 || state.first + by >= found.length, onclick: () => { state.first += by; drawRows(); } }, words);
    pager.replaceChildren(step("‹ previous", -PAGE), ` ${found.length ? state.first + 1 : 0}–${Math.min(state.first + PAGE, found.length)} `, step("next ›", PAGE));
    mark();
  }

  function clear() {
    Object.assign(state, { filters: axes.map(() => -1), seedFilter: -1, bounds: {}, first: 0 });
    drawFilters();
    drawRows();
    drawParallel();
    if (axes.length) drawOverview();
  }

  // --- all together ----------------------------------------------------------------------------

  function drawAll() {
    if (axes.length) { drawOverviewTools(); drawOverview(); }
    drawDetailTools();
    drawCurves();
    drawParallel();
    mark();
  }
  root.hidden = false;
  const several = document.getElementById("explorer-more");
  several.hidden = false;
  root.append(...(axes.length ? [overview.box] : []), detail.box);
  if (axes.length > 2) several.append(parallel.box);
  table.tools.append(count, " ", pager, " ", html("button", { type: "button", onclick: clear }, "clear filters"));
  table.body.append(html("div", { class: "scroll" }, html("table", { class: "runs numbers" }, html("thead", {}, headRow, filterRow), tbody)));
  several.append(table.box);
  drawAll();
  drawFilters();
  drawRows();
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; drawAll(); } });
})();
