const SVG = document.getElementById("svg").namespaceURI;
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const data = JSON.parse(document.getElementById("data").textContent);

function section(title, note, ...children) {
  document.getElementById("main").append(el("section", {}, el("h2", {}, title), note ? el("p", {class: "note"}, note) : null, children));
}
function choose(label, names, then) {
  const select = el("select", {onchange: () => then(select.selectedIndex)}, names.map(name => el("option", {}, name)));
  return names.length > 1 ? el("label", {}, label, select) : null;
}
const tip = document.getElementById("tip");
function showTip(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const width = document.documentElement.clientWidth;
  tip.style.left = Math.max(4, Math.min(x + 12, width - tip.offsetWidth - 4)) + scrollX + "px";
  tip.style.top = y + 16 + scrollY + "px";
}
const hideTip = () => { tip.hidden = true; };

/* --- Numbers ---------------------------------------------------------------------------------- */

const short = x => !isNumber(x) ? "–" : x !== 0 && Math.abs(x) < 0.001 ? x.toExponential(1) : digits(x, Math.abs(x) < 10 ? 3 : Math.abs(x) < 100 ? 1 : 0);
const mean = list => list.reduce((sum, x) => sum + x, 0) / list.length;
const spread = list => list.length < 2 ? 0 : Math.sqrt(list.reduce((sum, x) => sum + (x - mean(list)) ** 2, 0) / (list.length - 1));

/* Round numbers from low to high, about n of them. */
function ticks(low, high, n) {
  const raw = (high - low || 1) / n, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find(m => m * power >= raw * 0.999);
  const list = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) list.push(+(k * step).toPrecision(12));
  return list;
}
/* Ticks as text, all with as many digits as the finest needs. */
const tickText = (v, list) => digits(v, Math.max(...list.map(x => (String(x).split(".")[1] || "").length)));

/* --- Rows ------------------------------------------------------------------------------------- */

/* Of any report: rows, and what was tried to choose their settings. */
function rowsOf(report) {
  if (report.rows) return report.rows;
  return [{model: report.model, step: report.step, settings: report.decode || {}, likelihood: report.likelihood,
    nats_per_token: (report.likelihood || {}).nats_per_token, questions: report.questions, ...(report.answers || {}),
    order: report.order, samples: report.samples, best: true}];
}
const rows = data.reports.flatMap(rowsOf), tried = data.reports.flatMap(report => report.sweep || []);
const every = rows.concat(tried);
const decoderOf = row => row.decoder || (row.settings || {}).kind || "";
const nameOf = row => row.objective || (row.model || "").replace(/\/+$/, "").split("/").slice(-2).join("/");
const tasks = [...new Set(every.map(row => row.task || ""))];
const oneModel = new Set(every.map(nameOf)).size < 2, oneDecoder = new Set(every.map(decoderOf)).size < 2;
function seriesOf(row) {
  const decoder = decoderOf(row);
  if (!decoder || (oneDecoder && !oneModel)) return nameOf(row);
  return oneModel || decoder === nameOf(row) ? decoder : nameOf(row) + " · " + decoder;
}
const series = [...new Set(every.map(seriesOf))];
const colorOf = row => color(series.indexOf(seriesOf(row)));
/* Settings that differ among the rows. */
const swept = [...new Set(every.flatMap(row => Object.keys(row.settings || {})))].filter(key =>
  key !== "kind" && new Set(every.map(row => JSON.stringify((row.settings || {})[key])).filter(text => text !== undefined)).size > 1);
/* What is shown first: of the rows of any order, the most accurate. */
function bestOf(list) {
  const free = list.filter(row => decoderOf(row) === "refusion");
  return (free.length > 0 ? free : list).reduce((best, row) => (row.accuracy || 0) > (best.accuracy || 0) ? row : best);
}
const settingsText = row => swept.filter(key => key in (row.settings || {})).map(key => `${key}=${row.settings[key]}`).join(" ");

/* --- Table ------------------------------------------------------------------------------------ */

const columns = [
  {title: "", text: true, of: seriesOf, show: row => [el("span", {class: "key", style: `background:${colorOf(row)}`}), seriesOf(row), row.best && rows.length > 1 ? " ★" : ""]},
  {title: "task", text: true, field: "task", if: tasks.length > 1},
  {title: "seed", field: "seed", show: row => row.seed ?? "–", if: rows.some(row => "objective" in row)},
  {title: "accuracy", field: "accuracy", show: row => [percent(row.accuracy), row.accuracy_stderr ? el("span", {class: "pm"}, " ± " + digits(100 * row.accuracy_stderr, 1)) : ""]},
  {title: "tokens/s", field: "tokens_per_second", digits: 0},
  {title: "tokens/forward", field: "tokens_per_forward", digits: 2},
  {title: "forwards", field: "forwards", digits: 0},
  {title: "places", field: "places", digits: 0},
  {title: "latency ms", field: "latency_mean", show: row => isNumber(row.latency_mean) ? digits(1000 * row.latency_mean, 1) : "–"},
  {title: "nats/token", field: "nats_per_token", digits: 4},
  {title: "training s", field: "train_seconds", digits: 0},
  {title: "places trained", field: "train_places", digits: 0},
  {title: "settings", text: true, wrap: true, of: settingsText, if: swept.length > 0},
];
const valueOf = (column, row) => column.of ? column.of(row) : row[column.field];
const cell = (column, row) => column.show ? column.show(row) : column.digits !== undefined ? digits(row[column.field], column.digits) : valueOf(column, row) ?? "–";

function table(list, wanted) {
  const body = el("tbody"), order = list.slice();
  const draw = () => body.replaceChildren(...order.map(row => el("tr", {class: row.best && list.length > 1 ? "best" : ""},
    wanted.map(column => el("td", {class: (column.text ? "text" : "") + (column.wrap ? " wrap" : "")}, [cell(column, row)].flat().map(x => x instanceof Node ? x : String(x)))))));
  const heads = wanted.map(column => el("th", {scope: "col", class: column.text ? "text" : ""}, el("button", {onclick: () => {
    const head = heads[wanted.indexOf(column)], down = head.getAttribute("aria-sort") !== "descending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    order.sort((a, b) => {
      const x = valueOf(column, a) ?? -Infinity, y = valueOf(column, b) ?? -Infinity;
      return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
    });
    draw();
  }}, column.title || "decoder")));
  draw();
  return el("div", {class: "scroll", tabindex: 0, role: "region", "aria-label": "table"}, el("table", {}, el("thead", {}, el("tr", {}, heads)), body));
}
const worth = list => columns.filter(column => column.if !== false && (column.of || list.some(row => row[column.field] !== undefined && row[column.field] !== null)));

/* Mean and spread where there are several seeds. */
function meansOf(list) {
  const groups = Map.groupBy ? Map.groupBy(list, row => (row.task || "") + "\n" + seriesOf(row)) : new Map();
  if (!Map.groupBy) list.forEach(row => { const key = (row.task || "") + "\n" + seriesOf(row); groups.set(key, (groups.get(key) || []).concat(row)); });
  if ([...groups.values()].every(group => group.length < 2) || !list.some(row => "seed" in row && "objective" in row)) return null;
  return [...groups.values()].map(group => {
    const result = {...group[0], best: false, seed: group.length + " seeds", settings: group[0].settings};
    for (const column of columns.filter(one => one.field && isNumber(group[0][one.field]) && one.field !== "seed")) {
      result[column.field] = mean(group.map(row => row[column.field]).filter(isNumber));
    }
    result.accuracy_stderr = spread(group.map(row => row.accuracy).filter(isNumber));
    return result;
  });
}

/* --- Axes ------------------------------------------------------------------------------------- */

/* A frame with axes: {node, x, y, width}; x and y map values to places. */
function frame(width, height, xs, ys, options) {
  const left = 52, right = 12, top = options.title ? 26 : 10, bottom = 40;
  let [x0, x1] = [Math.min(...xs), Math.max(...xs)], [y0, y1] = [Math.min(...ys), Math.max(...ys)];
  if (options.zeroX) x0 = 0;
  if (options.zeroY) y0 = 0;
  const padX = options.padX ? (x1 - x0 || x1 || 1) * options.padX : 0, padY = (y1 - y0 || Math.abs(y1) || 1) * 0.06;
  if (!options.zeroX) x0 = x0 >= 0 ? Math.max(0, x0 - padX) : x0 - padX;
  x1 += padX || (x1 === x0 ? 1 : 0);
  if (!options.zeroY) y0 = y0 >= 0 ? Math.max(0, y0 - padY) : y0 - padY;
  y1 = options.maxY !== undefined ? Math.min(y1 + padY, options.maxY) : y1 + padY;
  const x = v => left + (v - x0) / (x1 - x0) * (width - left - right), y = v => height - bottom - (v - y0) / (y1 - y0) * (height - top - bottom);
  const node = svg("svg", {viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": options.label, tabindex: 0});
  const ticksY = ticks(y0, y1, height / 55), ticksX = ticks(x0, x1, (width - left) / 80);
  for (const v of ticksY) {
    node.append(svg("line", {class: "grid", x1: left, x2: width - right, y1: y(v), y2: y(v)}),
      svg("text", {x: left - 7, y: y(v) + 4, "text-anchor": "end"}, tickText(v, ticksY)));
  }
  for (const v of ticksX) {
    node.append(svg("line", {class: "grid", x1: x(v), x2: x(v), y1: height - bottom, y2: height - bottom + 4}),
      svg("text", {x: x(v), y: height - bottom + 18, "text-anchor": "middle"}, tickText(v, ticksX)));
  }
  node.append(svg("text", {x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle"}, options.xTitle || ""));
  if (options.title) node.append(svg("text", {class: "title", x: left, y: 14}, options.title));
  return {node, x, y, width, height, top, bottom, left, right};
}
/* Redraws a figure at the width that it has: once when the page is whole, then whenever it changes. */
const figures = [];
function figure(draw, caption) {
  const place = el("div"), node = el("figure", {}, place, caption ? el("figcaption", {}, caption) : null);
  let width = 0;
  const redraw = force => {
    const now = Math.round(place.clientWidth);
    if (now > 0 && (force || now !== width)) { width = now; hideTip(); place.replaceChildren(draw(now)); }
  };
  new ResizeObserver(() => requestAnimationFrame(() => redraw(false))).observe(place);
  node.redraw = () => redraw(true);
  figures.push(() => redraw(false));
  return node;
}
/* The mark next to the pointer, or the next one by arrow keys, tells what it is. marks: {x, y, text} in places of the picture. */
function tellMarks(f, marks) {
  const ring = svg("circle", {r: 9, fill: "none", stroke: "var(--ink)", "stroke-width": 1.5, visibility: "hidden"});
  let at = -1;
  const tell = i => {
    at = i;
    const box = f.node.getBoundingClientRect(), scale = box.width / f.width;
    fill(ring, {cx: marks[i].x, cy: marks[i].y, visibility: "visible"}, []);
    showTip(marks[i].text, box.left + marks[i].x * scale, box.top + marks[i].y * scale);
  };
  const leave = () => { hideTip(); ring.setAttribute("visibility", "hidden"); at = -1; };
  f.node.append(ring);
  marks.sort((a, b) => a.x - b.x);
  f.node.addEventListener("pointermove", event => {
    const box = f.node.getBoundingClientRect(), scale = box.width / f.width;
    const px = (event.clientX - box.left) / scale, py = (event.clientY - box.top) / scale;
    let best = -1, nearest = 30 ** 2;
    marks.forEach((mark, i) => {
      const distance = (mark.x - px) ** 2 + (mark.whole ? 0 : (mark.y - py) ** 2);
      if (distance < nearest) { nearest = distance; best = i; }
    });
    if (best >= 0) tell(best); else leave();
  });
  f.node.addEventListener("pointerleave", leave);
  f.node.addEventListener("blur", leave);
  f.node.addEventListener("keydown", event => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (event.key === "Escape") leave();
    if (!step || marks.length === 0) return;
    event.preventDefault();
    tell(at < 0 ? (step > 0 ? 0 : marks.length - 1) : Math.max(0, Math.min(marks.length - 1, at + step)));
  });
}
const legend = entries => el("div", {class: "legend"}, entries.map(([name, c]) => el("span", {}, el("span", {class: "key", style: `background:${c}`}), name)));

/* --- Accuracy and speed ----------------------------------------------------------------------- */

const speeds = [["tokens/s", "tokens_per_second", 1], ["tokens per forward", "tokens_per_forward", 1], ["latency, ms", "latency_mean", 1000], ["places computed", "places", 1]];
/* Rows that none is both more accurate and faster than. */
function frontier(list, speed) {
  const better = (a, b) => speed[1] === "latency_mean" || speed[1] === "places" ? a < b : a > b;
  return list.filter(row => !list.some(other => (other.accuracy > row.accuracy && !better(row[speed[1]], other[speed[1]])) ||
    (other.accuracy >= row.accuracy && better(other[speed[1]], row[speed[1]])))).sort((a, b) => a[speed[1]] - b[speed[1]]);
}
function speedChart(points, judged, speed, width) {
  const has = row => isNumber(row.accuracy) && isNumber(row[speed[1]]);
  points = points.filter(has);
  judged = judged.filter(has);
  const all = points.concat(judged), at = row => row[speed[1]] * speed[2];
  const f = frame(width, Math.min(420, Math.max(280, width * 0.5)), all.map(at), all.map(row => 100 * row.accuracy),
    {xTitle: speed[0], title: "accuracy, %", padX: 0.05, zeroX: true, maxY: 100.5, label: "accuracy against " + speed[0] + "; arrow keys go from setting to setting"});
  const marks = [], mark = (row, what) => marks.push({x: f.x(at(row)), y: f.y(100 * row.accuracy), text: [seriesOf(row) + (what ? ", " + what : ""), settingsText(row),
    `${percent(row.accuracy)}, ${digits(row.tokens_per_second, 0)} tokens/s, ${digits(row.tokens_per_forward, 2)} tokens per forward`].filter(Boolean).join("\n")});
  for (const name of series) {
    const own = points.filter(row => seriesOf(row) === name), line = frontier(own, speed);
    if (own.length === 0) continue;
    f.node.append(svg("polyline", {class: "curve", stroke: colorOf(own[0]), points: line.map(row => f.x(at(row)) + "," + f.y(100 * row.accuracy)).join(" ")}));
    for (const row of own) {
      f.node.append(svg("circle", {cx: f.x(at(row)), cy: f.y(100 * row.accuracy), r: row.best ? 6 : 3.5, fill: row.best ? "var(--page)" : colorOf(row),
        stroke: colorOf(row), "stroke-width": row.best ? 3 : 0, class: line.includes(row) ? "" : "faint"}));
      mark(row, row.best ? "best" : "");
    }
  }
  for (const row of judged) {
    const x = f.x(at(row)), y = f.y(100 * row.accuracy);
    f.node.append(svg("path", {d: `M${x} ${y - 8}L${x + 8} ${y}L${x} ${y + 8}L${x - 8} ${y}Z`, fill: colorOf(row), stroke: "var(--page)", "stroke-width": 1.5}));
    mark(row, "judged");
  }
  tellMarks(f, marks);
  return f.node;
}
function speedSection() {
  const measured = every.filter(row => isNumber(row.accuracy) && isNumber(row.tokens_per_second));
  if (measured.length < 2) return;
  let speed = speeds[0], task = 0;
  const pick = list => list.filter(row => (row.task || "") === tasks[task]);
  const chart = figure(width => tried.length > 0 ? speedChart(pick(tried), pick(rows), speed, width) : speedChart(pick(rows), [], speed, width));
  const redraw = () => chart.redraw();
  section("Accuracy and speed", tried.length > 0
    ? "Points: settings tried on questions to choose them; rings: the best of each; diamonds: these on the questions that count. Lines join settings that none beats on both."
    : "Each point is a setting; rings: the best of each. Lines join settings that none beats on both.",
  el("div", {class: "controls"}, choose("task", tasks, i => { task = i; redraw(); }), choose("across", speeds.map(one => one[0]), i => { speed = speeds[i]; redraw(); })),
  chart, legend(series.map((name, i) => [name, color(i)])));
}

/* --- Losses ----------------------------------------------------------------------------------- */

function curveChart(runs, column, colorOf, width, options) {
  const lines = [];
  runs.forEach(run => ["step", "valid"].forEach(kind => {
    const at = run[kind].columns.indexOf(column);
    const points = at < 0 ? [] : run[kind].rows.map(row => [row[0], row[at]]).filter(point => isNumber(point[1]));
    if (points.length > 0) lines.push({run, color: colorOf(run), held: kind === "valid", points});
  }));
  const all = lines.flatMap(line => line.points);
  if (all.length === 0) return el("p", {class: "note"}, "no values");
  /* The first steps would flatten all that is interesting. */
  const last = Math.max(...all.map(point => point[0])), settled = all.filter(point => point[0] >= last / 20);
  const high = Math.max(...(options.zeroY ? all : settled).map(point => point[1]));
  const f = frame(width, options.height, all.map(point => point[0]), all.map(point => Math.min(point[1], high)),
    {xTitle: "optimizer step", title: options.title, zeroX: true, zeroY: options.zeroY, label: `${options.title}; arrow keys tell values`});
  const clip = "clip" + Math.random().toString(36).slice(2);
  f.node.append(svg("clipPath", {id: clip}, svg("rect", {x: f.left, y: f.top - 4, width: Math.max(0, width - f.left - f.right), height: f.height - f.top - f.bottom + 8})));
  const body = svg("g", {"clip-path": `url(#${clip})`}), marks = [];
  for (const line of lines) {
    const place = line.points.map(point => [f.x(point[0]), f.y(point[1])]);
    if (line.held) place.forEach(([x, y]) => body.append(svg("circle", {cx: x, cy: y, r: 3.5, fill: "var(--page)", stroke: line.color, "stroke-width": 2})));
    else body.append(svg("polyline", {class: "curve", stroke: line.color, points: place.map(p => p.join(",")).join(" ")}));
    place.forEach(([x, y], i) => { if (y >= f.top - 4) marks.push({x, y, text: `${runs.length > 1 ? line.run.name + ", " : ""}step ${digits(line.points[i][0], 0)}${line.held ? ", held out" : ""}\n${short(line.points[i][1])}`}); });
  }
  f.node.append(body);
  tellMarks(f, marks);
  return f.node;
}
/* Of many runs those of a name's first word at a time, such as a task; names that differ in numbers only share a color. */
function lossSection() {
  if (data.runs.length === 0) return;
  const many = data.runs.length > 8, groupOf = run => run.name.split("-")[0], kindOf = run => many ? run.name.replace(/\d+/g, "#") : data.runs.indexOf(run);
  const groups = many ? [...new Set(data.runs.map(groupOf))] : [];
  const parts = [...new Set(data.runs.flatMap(run => run.step.columns.concat(run.valid.columns)))].filter(name => name.startsWith("loss"));
  const titles = {loss: "loss of the objective", loss_ar: "next token, nats per target", loss_denoise: "denoising, nats per target"};
  const keys = el("div");
  let part = 0, runs, kinds;
  const colorOf = run => color(kinds.indexOf(kindOf(run)));
  const chart = figure(width => curveChart(runs, parts[part], colorOf, width, {height: Math.min(400, Math.max(260, width * 0.45)), title: titles[parts[part]] || parts[part]}));
  const panels = [["lr", "learning rate"], ["grad_norm", "norm of the gradient"], ["tokens_per_second", "tokens/s in training"]].map(([column, title]) =>
    figure(width => curveChart(runs, column, colorOf, width, {height: 200, title, zeroY: column !== "grad_norm"})));
  function take(group) {
    runs = data.runs.filter(run => !group || groupOf(run) === group);
    kinds = [...new Set(runs.map(kindOf))];
    keys.replaceChildren(legend(kinds.map((kind, i) => {
      const own = runs.filter(run => kindOf(run) === kind);
      return [own[0].name + (own.length > 1 ? ` and ${own.length - 1} more` : ""), color(i)];
    })));
    [chart, ...panels].forEach(one => one.redraw());
  }
  section("Training", "Lines: means over neighbouring steps; rings: held-out samples.",
    el("div", {class: "controls"}, choose("runs", groups.length > 1 ? [...groups, "all"] : [], i => take(groups[i])),
      choose("loss", parts.map(name => titles[name] || name), i => { part = i; chart.redraw(); })),
    chart, keys, el("div", {class: "panels"}, panels));
  take(groups.length > 1 ? groups[0] : "");
}

/* --- Order of slots --------------------------------------------------------------------------- */

const titleOf = row => [tasks.length > 1 ? row.task : "", seriesOf(row), row.objective && isNumber(row.seed) ? "seed " + row.seed : "", settingsText(row)].filter(Boolean).join(", ");

function orderChart(row, width) {
  const order = row.order, rounds = 1 + Math.max(...order.cells.map(cell => cell[1])), slots = 1 + Math.max(...order.cells.map(cell => cell[0]));
  const left = 52, top = 26, size = Math.min(44, (width - left - 8) / rounds), tall = Math.max(14, Math.min(size, 30));
  const node = svg("svg", {viewBox: `0 0 ${width} ${top + slots * tall + 8}`, role: "img", tabindex: 0, "aria-label": "share of answers in which a slot is filled in a round; arrow keys tell values"});
  const marks = [], name = (what, i) => order.slots_per_cell > 1 ? `${what}s ${i * order.slots_per_cell + 1}–${(i + 1) * order.slots_per_cell}` : `${what} ${i + 1}`;
  node.append(svg("text", {x: left - 7, y: 18, "text-anchor": "end"}, "round"));
  for (let r = 0; r < rounds; r++) if (size > 17 || r % 4 === 0) node.append(svg("text", {x: left + (r + 0.5) * size, y: 18, "text-anchor": "middle"}, r * order.slots_per_cell + 1));
  for (let s = 0; s < slots; s++) {
    if (slots < 17 || s % 4 === 0) node.append(svg("text", {x: left - 7, y: top + (s + 0.5) * tall + 4, "text-anchor": "end"}, (s === 0 ? "slot " : "") + (s * order.slots_per_cell + 1)));
    for (let r = 0; r < rounds; r++) node.append(svg("rect", {x: left + r * size + 1, y: top + s * tall + 1, width: size - 2, height: tall - 2, rx: 3, fill: "var(--card)"}));
  }
  for (const [s, r, count] of order.cells) {
    const share = count / (order.answers * order.slots_per_cell), x = left + r * size, y = top + s * tall;
    node.append(svg("rect", {x: x + 1, y: y + 1, width: size - 2, height: tall - 2, rx: 3, fill: colorOf(row), "fill-opacity": 0.08 + 0.92 * Math.min(1, share)}));
    if (size >= 32 && share >= 0.01) node.append(svg("text", {x: x + size / 2, y: y + tall / 2 + 4, "text-anchor": "middle", style: `fill:${share > 0.55 ? "var(--on)" : "var(--ink)"}`}, digits(100 * share, 0)));
    marks.push({x: x + size / 2, y: y + tall / 2, text: `${name("slot", s)}, ${name("round", r)}\n${percent(share)} of ${digits(order.answers, 0)} answers`});
  }
  tellMarks({node, width}, marks);
  return node;
}
function orderSection() {
  const list = rows.filter(row => row.order && row.order.cells.length > 0);
  if (list.length === 0) return;
  let at = list.indexOf(bestOf(list));
  const chart = figure(width => orderChart(list[at], width));
  const picker = choose("decoder", list.map(titleOf), i => { at = i; chart.redraw(); });
  if (picker) picker.querySelector("select").selectedIndex = at;
  section("Order of the slots", "Percent of the answers in which a slot (a row, from the left of the answer) was filled in a round (a column). From left to right is the diagonal.",
    el("div", {class: "controls"}, picker), chart);
}

/* --- Answers that play ------------------------------------------------------------------------ */

function answerSection() {
  const list = rows.flatMap(row => (row.samples || []).map(sample => ({row, sample})));
  if (list.length === 0) return;
  const first = list.findIndex(one => one.row === bestOf(list.map(one => one.row)));
  const query = el("p", {class: "note mono query"}), film = player();
  function take(i) {
    const sample = list[i].sample;
    query.textContent = sample.query;
    film.show(sample, sample.correct ? "right" : `wrong${sample.expected ? ", expected " + sample.expected : ""}`);
  }
  const picker = choose("answer", list.map(one => `${titleOf(one.row)}, question ${one.sample.index + 1}`), take);
  if (picker) picker.querySelector("select").selectedIndex = first;
  section("How answers come about", player.legend, el("div", {class: "controls"}, picker), query, film.node);
  take(first);
}

/* --- All together ----------------------------------------------------------------------------- */

function pairs(object) {
  const simple = Object.entries(object || {}).filter(([, value]) => value !== null && (typeof value !== "object" || Array.isArray(value) && value.length > 0 && value.every(x => typeof x !== "object")));
  return el("dl", {}, simple.map(([key, value]) => [el("dt", {}, key), el("dd", {class: "mono"}, String(value))]));
}
function resultsSection() {
  if (rows.length === 0) return;
  const means = meansOf(rows);
  section("Results", tried.length > 0 ? "Each decoder at the setting that was best on questions to choose it." : "", table(means || rows, worth(means || rows)),
    means ? el("details", {}, el("summary", {}, "each seed"), table(rows, worth(rows))) : null,
    tried.length > 0 ? el("details", {}, el("summary", {}, tried.length === 1 ? "1 setting that was tried" : `${tried.length} settings that were tried`), table(tried, worth(tried))) : null);
}
function settingsSection() {
  const best = rows.filter(row => row.settings && Object.keys(row.settings).length > 0 && (row.best || rows.length < 9 || row.objective));
  section("Settings and machine", "",
    data.reports.map(report => el("details", {open: data.reports.length < 2}, el("summary", {}, "evaluation" + (report.data ? " on " + report.data : "")), pairs(report))),
    best.map(row => el("details", {}, el("summary", {}, "decoding: " + titleOf(row)), pairs(row.settings))),
    data.runs.map(run => el("details", {}, el("summary", {}, "training: " + run.name), pairs(run.begin))));
}

document.title = data.title;
document.getElementById("title").textContent = data.title;
document.getElementById("subtitle").textContent = [...new Set(data.reports.flatMap(report => [report.program, (report.machine || "").split(";")[0]]).filter(Boolean))].join(" · ");
resultsSection();
speedSection();
lossSection();
orderSection();
answerSection();
settingsSection();
figures.forEach(draw => draw());
