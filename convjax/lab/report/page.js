"use strict";
// Figures that answer: legends, axes and parts to choose, and what lies under the pointer.

/** What is chosen, for all figures of one group: the parts of one experiment are read alike. */
const choices = new Map();
const chosen = (key) => {
  if (!choices.has(key)) choices.set(key, { hidden: new Set(), scales: new Map(), figures: [] });
  return choices.get(key);
};

function setUpFigure(figure, index) {
  const sheet = JSON.parse(figure.querySelector("script").textContent);
  const choice = chosen(figure.dataset.group || `figure ${index}`);
  const shown = (label) => !choice.hidden.has(label);
  const board = make("div", { class: "panels", style: `--columns:${sheet.columns}` });
  const legend = make("div", { class: "legend" });
  figure.querySelector("h3").after(legend, board);
  figure.querySelector("details.static").open = false;
  const panels = sheet.panels.map((panel, i) => setUpPanel(panel, i, sheet, choice, shown));
  board.append(...panels.map((one) => one.box));
  const buttons = legendButtons(legend, sheet, choice);
  const redraw = () => {
    for (const { button, label } of buttons) button.setAttribute("aria-pressed", shown(label));
    for (const one of panels) one.redraw();
  };
  choice.figures.push(redraw);
  // Hidden parts have no width; they are drawn once they are shown.
  let width = 0;
  new ResizeObserver(() => {
    if (board.clientWidth && board.clientWidth !== width) {
      width = board.clientWidth;
      redraw();
    }
  }).observe(board);
}

function legendButtons(legend, sheet, choice) {
  const made = Object.entries(sheet.colours).map(([label, colour]) => {
    const swatch = make("span", { class: "swatch", style: `--c:${colour}` });
    const button = make("button", { type: "button" }, swatch, label);
    button.onclick = () => {
      if (!choice.hidden.delete(label)) choice.hidden.add(label);
      choice.figures.forEach((redraw) => redraw());
    };
    return { button, label };
  });
  const every = sheet.panels.flatMap((panel) => panel.series);
  const keys = [
    ["measured", every.some((s) => s.y)],
    ["expected", every.some((s) => s.expected)],
  ].filter(([, there]) => there);
  legend.append(...made.map((one) => one.button));
  for (const [name] of keys) legend.append(make("span", { class: `key ${name}` }, name));
  return made;
}

function setUpPanel(panel, index, sheet, choice, shown) {
  const box = make("div", { class: "panel" });
  const holder = make("div", { class: "chart" });
  const tip = make("div", { class: "tip", role: "status" });
  const note = make("p", { class: "note" });
  tip.hidden = true;
  const scales = () => ({
    x: choice.scales.get(`${index} x`) || panel.xscale,
    y: choice.scales.get(`${index} y`) || (panel.yscale === "powers" ? "log" : panel.yscale),
  });
  const switches = ["y", "x"].map((which) => setUpSwitch(which, panel, scales, (scale) => {
    for (const i of sheet.shared ? sheet.panels.keys() : [index])
      choice.scales.set(`${i} ${which}`, scale);
    choice.figures.forEach((redraw) => redraw());
  }));
  box.append(make("h4", {}, panel.title), switches[0].row, holder, switches[1].row, note);
  let drawn = null;
  const redraw = () => {
    if (!holder.clientWidth) return;
    const among = sheet.shared ? sheet.panels : [panel];
    const view = { width: holder.clientWidth, scales: scales(), shown, among, colours: sheet.colours };
    drawn = drawPanel(panel, view);
    tip.hidden = true;
    holder.replaceChildren(drawn.svg, tip);
    for (const one of switches) one.update();
    note.textContent = lostWords(drawn.lost, scales());
    follow(drawn, tip, panel, shown, sheet.colours);
  };
  return { box, redraw };
}

function lostWords(lost, scales) {
  if (!lost) return "";
  const why = Object.values(scales).includes("log") ? "0, negative, or no finite number" : "no finite number";
  return `${lost} point${lost > 1 ? "s" : ""} not shown: ${why}.`;
}

/** An axis's name, and the button that makes it logarithmic or linear. */
function setUpSwitch(which, panel, scales, choose) {
  const button = make("button", { type: "button", class: "scale" }, "log");
  const row = make("div", { class: `axis ${which}` }, make("span", {}, panel[`${which}label`]), button);
  const values = which === "x" ? across(panel, () => true) : heights(panel, () => true);
  const positive = (which === "y" && panel.yscale === "powers") || values.some((v) => v > 0);
  button.setAttribute("aria-label", `${panel[`${which}label`]}: logarithmic axis`);
  button.disabled = !positive;
  if (!positive) button.textContent = "log: nothing above 0";
  button.onclick = () => choose(scales()[which] === "log" ? "linear" : "log");
  const update = () => button.setAttribute("aria-pressed", scales()[which] === "log");
  return { row, update };
}

// -- What lies under the pointer, or is stepped to with the arrow keys.

function follow({ svg, points }, tip, panel, shown, colours) {
  const ring = shape("circle", { class: "ring", r: 6 });
  let current = null;
  const show = (point) => {
    current = point;
    if (!point) return;
    ring.setAttribute("cx", point.cx);
    ring.setAttribute("cy", point.cy);
    svg.append(ring);
    tell(tip, panel, point, shown, colours[point.series.label]);
  };
  const hide = () => {
    ring.remove();
    tip.hidden = true;
  };
  const point = (event) => {
    const box = svg.getBoundingClientRect();
    show(nearest(points, event.clientX - box.left, event.clientY - box.top));
  };
  svg.onpointermove = svg.onpointerdown = point;
  svg.onpointerleave = (event) => event.pointerType === "mouse" && hide();
  svg.onblur = hide;
  svg.onkeydown = (event) => {
    if (event.key === "Escape") hide();
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!step || !points.length) return;
    event.preventDefault();
    const at = current ? points.indexOf(current) + step : 0;
    show(points[(at + points.length) % points.length]);
  };
}

function tell(tip, panel, point, shown, colour) {
  const head = make("p", {}, make("span", { class: "swatch", style: `--c:${colour}` }), point.series.label);
  const list = make("dl");
  for (const [name, value] of reading(panel, point, shown))
    list.append(make("dt", {}, name), make("dd", {}, value));
  tip.replaceChildren(head, list);
  tip.hidden = false;
  const room = tip.parentElement.clientWidth - tip.offsetWidth;
  tip.style.left = `${Math.max(0, Math.min(room, point.cx - tip.offsetWidth / 2))}px`;
  const above = point.cy - tip.offsetHeight - 14;
  tip.style.top = `${above > -110 ? above : point.cy + 14}px`;
}

// -- Parts, such as depths: one at a time, and the page remembers which.

function setUpParts(parts, index) {
  const key = `convjax ${location.pathname} ${parts.closest("section").id} ${index}`;
  const every = [...parts.querySelectorAll(":scope > .part")];
  const row = make("div", { class: "chooser", role: "group", "aria-label": "What is shown" });
  const choose = (name) => {
    for (const one of every) one.hidden = one.dataset.part !== name;
    for (const one of row.children) one.setAttribute("aria-pressed", one.textContent === name);
  };
  for (const { dataset } of every) {
    const button = make("button", { type: "button" }, dataset.part);
    button.onclick = () => {
      choose(dataset.part);
      remember(key, dataset.part);
    };
    row.append(button);
  }
  parts.prepend(row);
  const before = remembered(key);
  choose((every.find((one) => one.dataset.part === before) || every[0]).dataset.part);
}

// Some browsers keep nothing for pages that come from disk.
function remember(key, value) {
  try { localStorage.setItem(key, value); } catch { /* chosen anew next time */ }
}

function remembered(key) {
  try { return localStorage.getItem(key); } catch { return null; }
}

async function copy(button) {
  const code = button.previousElementSibling;
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    getSelection().selectAllChildren(code);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

// The picture is in the page once, and saved from there.
document.querySelectorAll("a.picture").forEach((a) => (a.href = a.closest("figure").querySelector("img").src));
document.querySelectorAll(".parts").forEach(setUpParts);
document.querySelectorAll("figure:has(> script)").forEach(setUpFigure);
document.querySelectorAll("button.copy").forEach((button) => (button.onclick = () => copy(button)));
