"use strict";
// One panel: measured points over what theory expects, as SVG, and what is read off where one points.
// A panel is drawn anew whenever its size, its axes or the series that are shown change.

const HEIGHT = 250, TOP = 10, BOTTOM = 28, RIGHT = 14, LETTER = 8.2;
// Beyond it, sums of numbers are not finite.
const LARGEST = 1e300;
const EDGES = [["low", "high"], ["expected_low", "expected_high"]];

function make(name, attributes = {}, ...inside) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...inside);
  return made;
}

function shape(name, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// -- Numbers in words: 0.0123, 1.5·10⁻¹², also of an exponent that no float holds.

const raised = (n) => String(n).replace(/./g, (c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]));
const plain = (v, digits = 4) => String(Number(v.toPrecision(digits))).replace("-", "−");

function power(exponent, digits = 4) {
  let place = Math.floor(exponent + 1e-9);
  let front = Number((10 ** (exponent - place)).toPrecision(digits));
  if (front >= 10) [front, place] = [front / 10, place + 1];
  if (place >= -3 && place < 5) return plain(front * 10 ** place, digits);
  return front === 1 ? `10${raised(place)}` : `${plain(front, digits)}·10${raised(place)}`;
}

function number(v, powers = false, digits = 4) {
  if (v === null || v === undefined) return "not finite";
  if (powers) return power(v, digits);
  if (v === 0 || (Math.abs(v) >= 1e-3 && Math.abs(v) < 1e5)) return plain(v, digits);
  return (v < 0 ? "−" : "") + power(Math.log10(Math.abs(v)), digits);
}

// -- Axes: numbers to places along them, NaN where they have none; places to pixels; ticks.

function placing(scale, powers) {
  const place = scale === "log"
    ? (powers ? (v) => v : (v) => (v > 0 ? Math.log10(v) : NaN))
    : (powers ? (v) => 10 ** v : (v) => v);
  return (v) => {
    const at = v === null || v === undefined ? NaN : place(v);
    return Math.abs(at) < LARGEST ? at : NaN;
  };
}

function roundSteps(from, to, most, least = 0) {
  const rough = Math.max(least, (to - from) / most), unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find((m) => m * unit >= rough * 0.999);
  const first = Math.ceil(from / step - 1e-9), last = Math.floor(to / step + 1e-9);
  return Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
}

/** As many digits as tell neighbouring ticks apart. */
function digitsOf(values) {
  const step = values[1] - values[0], most = Math.max(...values.map(Math.abs));
  return Math.min(15, Math.max(4, Math.ceil(Math.log10(most / step)) + 2)) || 4;
}

function linearTicks(from, to, most, least) {
  const found = roundSteps(from, to, most, least), digits = digitsOf(found);
  const zero = (at) => Math.abs(at) < (to - from) * 1e-9;
  return found.map((at) => ({ at, text: number(zero(at) ? 0 : at, false, digits) }));
}

function logTicks(from, to, most) {
  const rough = Math.max(1, (to - from) / most), unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 3, 5, 10].find((m) => m * unit >= rough * 0.999);
  const decades = Array.from(
    { length: Math.floor(to / step) - Math.ceil(from / step) + 1 },
    (_, i) => (Math.ceil(from / step) + i) * step,
  );
  if (decades.length >= 3) return decades.map((at) => ({ at, text: power(at) }));
  const between = Array.from({ length: Math.ceil(to - from) + 2 }, (_, i) => Math.floor(from) + i)
    .flatMap((k) => [k, k + Math.log10(2), k + Math.log10(5)])
    .filter((at) => at >= from && at <= to);
  if (between.length >= 3) return between.map((at) => ({ at, text: power(at) }));
  // Less than a factor of ten: as on a linear axis, as long as floats hold the numbers.
  if (Math.max(-from, to) > 300) return roundSteps(from, to, most).map((at) => ({ at, text: power(at) }));
  return linearTicks(10 ** from, 10 ** to, most).map(({ at, text }) => ({ at: Math.log10(at), text }));
}

function axisOf(values, scale, powers, most) {
  const place = placing(scale, powers);
  const places = values.map(place).filter((at) => !Number.isNaN(at));
  let from = places.reduce((a, b) => Math.min(a, b), Infinity);
  let to = places.reduce((a, b) => Math.max(a, b), -Infinity);
  if (!places.length) [from, to] = [0, 1];
  const room = to > from ? (to - from) * 0.05 : Math.abs(to) * 0.05 || 0.5;
  [from, to] = [from - room, to + room];
  // There is no layer 2.5.
  const least = places.every(Number.isInteger) ? 1 : 0;
  const ticks = scale === "log" ? logTicks(from, to, most) : linearTicks(from, to, most, least);
  return { place, from, to, ticks };
}

const stretched = (axis, start, end) => (at) =>
  start + ((end - start) * (at - axis.from)) / (axis.to - axis.from);

// -- Drawing. `view` says how: {width, scales: {x, y}, shown(label), colours, among: panels of one range}.

function heights(panel, shown) {
  const found = panel.level === null ? [] : [panel.level];
  for (const one of panel.series.filter((s) => shown(s.label)))
    for (const name of ["y", "expected", ...EDGES.flat()]) found.push(...(one[name] || []));
  return found;
}

const across = (panel, shown) => panel.series.filter((s) => shown(s.label)).flatMap((s) => s.x);

/** Draws a panel; returns the SVG, the points that can be pointed at, and how many have no place. */
function drawPanel(panel, view) {
  const { width, scales, shown, among } = view, powers = panel.yscale === "powers";
  const y = axisOf(among.flatMap((p) => heights(p, shown)), scales.y, powers, 6);
  const x = axisOf(among.flatMap((p) => across(p, shown)), scales.x, false, Math.floor(width / 50));
  const left = 14 + LETTER * Math.max(...y.ticks.map((t) => t.text.length), 2);
  const px = stretched(x, left, width - RIGHT), py = stretched(y, HEIGHT - BOTTOM, TOP);
  const svg = shape("svg", { width, height: HEIGHT, role: "img", tabindex: 0 });
  svg.setAttribute("aria-label", `${panel.title}: ${panel.ylabel} against ${panel.xlabel}`);
  drawFrame(svg, { x, y, px, py, left, width });
  if (panel.level !== null && !Number.isNaN(y.place(panel.level))) {
    const at = py(y.place(panel.level));
    svg.append(shape("line", { class: "level", x1: left, x2: width - RIGHT, y1: at, y2: at }));
  }
  const to = {
    x: (v) => px(x.place(v)),
    y: (v) => py(y.place(v)),
    // The end of a whisker or of a band that has no place lies at the axis.
    end: (v) => (Number.isNaN(y.place(v)) ? HEIGHT - BOTTOM : py(y.place(v))),
  };
  const points = [];
  let lost = 0;
  for (const series of panel.series.filter((s) => shown(s.label))) {
    const group = shape("g", { class: "series", style: `--c:${view.colours[series.label]}` });
    group.dataset.label = series.label;
    lost += drawSeries(group, series, to, points, radius(series.x.length, width));
    svg.append(group);
  }
  return { svg, points, lost };
}

function drawFrame(svg, { x, y, px, py, left, width }) {
  const floor = HEIGHT - BOTTOM, end = width - RIGHT;
  svg.append(shape("path", { class: "frame", d: `M${left},${TOP}V${floor}H${end}` }));
  let last = -Infinity;
  for (const { at, text } of x.ticks) {
    const half = (text.length * LETTER) / 2, middle = px(at);
    svg.append(shape("line", { class: "grid", x1: middle, x2: middle, y1: TOP, y2: floor }));
    // A label that would touch the one before it, or leave the panel, is left out.
    if (middle - half < last + 8 || middle + half > width) continue;
    last = middle + half;
    svg.append(shape("text", { class: "tick x", x: middle, y: floor + 19 }, text));
  }
  last = Infinity;
  for (const { at, text } of y.ticks) {
    svg.append(shape("line", { class: "grid", x1: left, x2: end, y1: py(at), y2: py(at) }));
    if (py(at) > last - 15) continue;
    last = py(at);
    svg.append(shape("text", { class: "tick y", x: left - 7, y: py(at), dy: "0.34em" }, text));
  }
}

const radius = (count, width) => Math.min(3.2, Math.max(1.6, (0.4 * width) / count));

/** Draws one series, adds its points to those that can be pointed at, returns how many have no place. */
function drawSeries(group, series, to, points, r) {
  const band = ([low, high]) => bandPath(series, to, low, high);
  const line = (name) => linePath(series.x.map((v, i) => [to.x(v), to.y(series[name][i])]));
  if (series.expected_low && series.expected_high)
    group.append(shape("path", { class: "band", d: band(EDGES[1]) }));
  if (series.expected) group.append(shape("path", { class: "expected", d: line("expected") }));
  const whiskers = series.y && series.low && series.high;
  if (whiskers && series.shaded) group.append(shape("path", { class: "band", d: band(EDGES[0]) }));
  if (whiskers && !series.shaded)
    group.append(shape("path", { class: "whiskers", d: whiskerPath(series, to) }));
  if (series.y && series.joined) group.append(shape("path", { class: "joined", d: line("y") }));
  const heard = series.y || series.expected || [];
  let lost = 0;
  heard.forEach((v, i) => {
    const [cx, cy] = [to.x(series.x[i]), to.y(v)];
    if (Number.isNaN(cx) || Number.isNaN(cy)) return lost++;
    points.push({ cx, cy, series, i });
    if (series.y) group.append(shape("circle", { cx, cy, r }));
  });
  return lost;
}

const missing = (at) => at.some(Number.isNaN);

function linePath(places) {
  return places.map((at, i) =>
    missing(at) ? "" : `${i && !missing(places[i - 1]) ? "L" : "M"}${at}`).join("");
}

function whiskerPath(series, to) {
  return series.x.map((v, i) => {
    const at = [to.x(v), to.end(series.low[i]), to.end(series.high[i])];
    return missing([at[0], to.y(series.high[i])]) ? "" : `M${at[0]},${at[1]}V${at[2]}`;
  }).join("");
}

function bandPath(series, to, low, high) {
  const known = series.x.map((v, i) => i)
    .filter((i) => !missing([to.x(series.x[i]), to.y(series[high][i])]));
  if (!known.length) return "";
  const along = (name, order) => order.map((i) => `${to.x(series.x[i])},${to.end(series[name][i])}`);
  return `M${[...along(high, known), ...along(low, [...known].reverse())].join("L")}Z`;
}

// -- Reading.

function nearest(points, x, y) {
  let best = null, least = Infinity;
  for (const one of points) {
    const away = (one.cx - x) ** 2 + (one.cy - y) ** 2;
    if (away < least) [best, least] = [one, away];
  }
  return best;
}

/** Returns what is said of a point: pairs of words and numbers. */
function reading(panel, { series, i }, shown) {
  const say = (name, from = series, at = i) => number(from[name][at], panel.yscale === "powers");
  const rows = [[panel.xlabel.replace(/ \(.*\)$/, ""), number(series.x[i])]];
  if (series.names) rows.push(["place", series.names[i]]);
  if (series.y) rows.push(["measured", say("y")]);
  if (series.y && series.low && series.high) rows.push(["from, to", `${say("low")}, ${say("high")}`]);
  const beside = panel.series.filter((s) => !s.y && s !== series && shown(s.label));
  for (const one of [series, ...beside]) {
    const at = one === series ? i : one.x.indexOf(series.x[i]);
    if (!one.expected || at < 0) continue;
    rows.push([one === series ? "expected" : one.label, say("expected", one, at)]);
    if (one.expected_low && one.expected_high)
      rows.push(["band", `${say("expected_low", one, at)}, ${say("expected_high", one, at)}`]);
  }
  return rows;
}
