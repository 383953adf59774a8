// The report of one audit.

const audit = prepare(DATA);
const matrices = audit.matrices;
const state = { k: audit.k, epsilon: audit.epsilon, selected: 0, sort: "intruders", descending: true, all: false };
const ROWS_AT_FIRST = 300;
let tallies = []; // of every matrix, at the sliders' k and epsilon

function recount() {
  tallies = matrices.map((matrix) => tally(audit, matrix, state.k, state.epsilon));
}

function showTotals() {
  const sum = addUp(tallies);
  const vectors = matrices.reduce((count, matrix) => count + matrix.index.filter((index) => index < state.k).length, 0);
  const affected = tallies.filter((one) => one.least > 0).length;
  $("answer").replaceChildren(
    intrudersText(sum.least, sum.most),
    element("small", null, `of ${vectors.toLocaleString("en")} vectors, in ${affected} of ${matrices.length} matrices; energy share ${percentText(shareOf(sum))}`),
  );
  for (const head of document.querySelectorAll("#kinds [data-module]")) {
    const ofKind = addUp(tallies.filter((_, i) => matrices[i].module === head.dataset.module));
    head.parentElement.querySelector('[data-cell="intruders"]').textContent = rangeText(ofKind.least, ofKind.most);
    head.parentElement.querySelector('[data-cell="energy"]').textContent = percentText(shareOf(ofKind));
  }
}

// --- layers x modules

const stacks = [...new Set(matrices.filter((m) => m.layer !== null).map((m) => m.stack))];
const columnOf = (m) => (m.layer === null ? "outside" : stacks.length > 1 ? `${m.stack}.${m.layer}` : String(m.layer));
const columnNames = [...new Set([...matrices].sort((a, b) => stacks.indexOf(a.stack) - stacks.indexOf(b.stack) || (a.layer ?? -1) - (b.layer ?? -1)).map(columnOf))];
const moduleNames = [...new Set(matrices.map((m) => m.module))];
const cells = new Map(); // "module, column" -> the matrices there (several experts share a cell)
matrices.forEach((m, i) => {
  const key = JSON.stringify([m.module, columnOf(m)]);
  cells.set(key, [...(cells.get(key) ?? []), i]);
});
const cellAt = (module, column) => cells.get(JSON.stringify([module, column])) ?? [];
const worstOf = (indices) => indices.reduce((worst, i) => (tallies[i].least > tallies[worst].least ? i : worst), indices[0]);

function certificateText(matrix) {
  const counts = CERTIFICATES.map((name, c) => [name, matrix.certificate.filter((one) => one === c).length]);
  return counts.filter(([, count]) => count).map(([name, count]) => `${name} ${count}`).join(", ");
}

function hoverText(indices) {
  if (!indices.length) return "";
  const worst = matrices[worstOf(indices)];
  const sum = addUp(indices.map((i) => tallies[i]));
  const lines = [plain(cut(worst.name, 70)), `${intrudersText(sum.least, sum.most)}, energy share ${percentText(shareOf(sum))}`];
  if (indices.length > 1) lines.push(`worst of ${indices.length} matrices here`);
  lines.push(`decided by: ${certificateText(worst)}`);
  return lines.join("<br>");
}

function drawLayers() {
  const grid = moduleNames.map((module) => columnNames.map((column) => cellAt(module, column)));
  const selected = matrices[state.selected];
  const x = columnNames.indexOf(columnOf(selected));
  const y = moduleNames.indexOf(selected.module);
  const longest = Math.max(...moduleNames.map((name) => name.length));
  const narrow = isNarrow();
  const counted = grid.map((row) => row.map((indices) => (indices.length ? addUp(indices.map((i) => tallies[i])).least : null)));
  const darkest = Math.max(3, ...counted.flat()); // a lone intruder does not look like the worst there can be
  draw(
    "layers-plot",
    [{
      type: "heatmap", z: counted, zmin: 0, zmax: darkest, colorscale: warmScale(), colorbar: { ...countBar("intruders", darkest), ...(narrow ? { thickness: 8 } : {}) },
      xgap: 1, ygap: 1, text: grid.map((row) => row.map(hoverText)), hovertemplate: "%{text}<extra></extra>", hoverongaps: false,
    }],
    {
      height: Math.max(190, 90 + 28 * moduleNames.length),
      xaxis: axis(stacks.length > 1 ? "" : "layer", { tickvals: ticks(columnNames.length), ticktext: ticks(columnNames.length).map((i) => plain(cut(columnNames[i], 24))), tickangle: 0, showgrid: false, range: [-0.5, columnNames.length - 0.5] }),
      yaxis: axis("", { tickvals: moduleNames.map((_, i) => i), ticktext: moduleNames.map((name) => plain(cut(name, narrow ? 14 : 34))), showgrid: false, range: [moduleNames.length - 0.5, -0.5] }),
      margin: { l: Math.min(longest, 34) * 7 + 12, r: 12, t: 8, b: 40 },
      shapes: [{ type: "rect", x0: x - 0.5, x1: x + 0.5, y0: y - 0.5, y1: y + 0.5, line: { color: colour("text"), width: 2 } }],
    },
  );
}

function ticks(count) {
  const step = Math.max(1, Math.ceil(count / (isNarrow() ? 6 : stacks.length > 1 ? 8 : 16)));
  return Array.from({ length: Math.ceil(count / step) }, (_, i) => i * step);
}

// --- one matrix

const MARKS = {
  true: { name: "intruder", tone: 1 },
  false: { name: "not an intruder", tone: 0 },
  null: { name: "open at this epsilon", tone: 3 },
};

/** The vectors of a matrix as series of a chart, one for each decision; `more` gives what only one of the figures has. */
function judged(matrix, more) {
  const inside = matrix.index.map((_, j) => j).filter((j) => matrix.index[j] < state.k);
  return Object.entries(MARKS).map(([verdict, mark]) => [mark, inside.filter((j) => String(judge(audit, matrix, j, state.epsilon)) === verdict)])
    .filter(([, members]) => members.length)
    .map(([mark, members]) => ({ ...mark, look: "points", inLegend: true, x: members.map((j) => matrix.index[j] + 1), ...more(members, mark) }));
}

function drawCosines(matrix) {
  const series = judged(matrix, (members) => {
    const [low, high] = [matrix.lower, matrix.upper].map((ends) => members.map((j) => ends[j]));
    return { y: low, low, high, notes: members.map((j) => `by ${CERTIFICATES[matrix.certificate[j]]}${matrix.ambiguous.includes(matrix.index[j]) ? ", ambiguous" : ""}`) };
  });
  drawChart($("cosine-plot"), {
    x: { title: "tuned vector, by singular value", limits: [0.4, audit.k + 0.6] }, y: { title: "max cosine", limits: [-0.02, 1.05] },
    series, rules: [{ side: "y", at: state.epsilon, label: `ε = ${state.epsilon}` }],
  });
  describe("cosine-plot", `Max cosine of the leading ${matrix.index.length} vectors of ${matrix.name}`);
}

function drawValues(matrix) {
  const base = { name: "base", tone: 5, look: "line", inLegend: true, x: matrix.baseValues.map((_, i) => i + 1), y: matrix.baseValues };
  const tuned = judged(matrix, (members, mark) => ({ name: `tuned, ${mark.name}`, y: members.map((j) => matrix.values[j]) }));
  drawChart($("values-plot"), { x: { title: "position, largest first" }, y: { title: "singular value", fromZero: true }, series: [base, ...tuned], rules: [] });
  describe("values-plot", `Leading singular values of ${matrix.name} before and after fine-tuning`);
}

function describe(id, text) {
  $(id).setAttribute("aria-label", text);
}

function showFacts(matrix) {
  const sum = tallies[state.selected];
  const error = matrix.effectiveRankError ? ` ± ${numberText(matrix.effectiveRankError)} (estimated)` : "";
  const facts = {
    name: matrix.name,
    shape: matrix.shape.join(" × "),
    "rank of the update": matrix.rank ?? "full, or not known",
    intruders: `${rangeText(sum.least, sum.most)} of the top ${Math.min(state.k, matrix.index.length)}`,
    "energy share": percentText(shareOf(sum)),
    "effective rank": `${numberText(matrix.effectiveRank)}${error}`,
    "stable rank": numberText(matrix.stableRank),
    "Frobenius norm": numberText(matrix.frobenius),
    "spectral norm": `${numberText(matrix.spectral)}, ${percentText(matrix.relative)} of the base's`,
    ...subspaceFacts(matrix),
    "decided by": certificateText(matrix),
    ...(scaleOf(matrix) ? { "critical scale": `${scaleText(scaleOf(matrix))}; predicted ${numberText(scaleOf(matrix)[1])}` } : {}),
    ambiguous: matrix.ambiguous.length ? matrix.ambiguous.map((index) => `vector ${index + 1}`).join(", ") : "none",
  };
  $("facts").replaceChildren(...Object.entries(facts).flatMap(([term, value]) => [element("dt", null, term), element("dd", null, ...nameParts(String(value)))]));
}

function subspaceFacts(matrix) {
  const found = matrix.subspaces;
  if (!found) return {};
  const beside = (value, chance, text = numberText) => (value === null ? "not known" : `${text(value)}; chance ${text(chance)}`);
  const rotation = (side) => {
    const [mean, angle] = [found[`rotation_${side}_sine2`], found[`rotation_${side}_angle`]];
    if (mean === null) return "not known";
    return `mean sin² ${beside(mean, found[`rotation_${side}_sine2_chance`])}${angle === null ? "" : `; largest angle ${angle.toFixed(1)}°`}`;
  };
  const lowest = matrix.lower.indexOf(least(matrix));
  const [low, high] = [matrix.lower[lowest].toFixed(2), matrix.upper[lowest].toFixed(2)];
  return {
    "lowest max cosine": `${low === high ? low : `${low} to ${high}`}; chance ${found.max_cosine_chance.toFixed(2)}`,
    "rotation, left": rotation("left"),
    "rotation, right": rotation("right"),
    "spectral drift": found.spectral_drift === null ? "not known" : `${percentText(found.spectral_drift)} of at most ${percentText(found.spectral_drift_bound)}`,
    "rho_k": beside(found.rho_k, found.rho_k_chance, percentText),
    "off principal": beside(found.off_principal, found.off_principal_chance, percentText),
  };
}

function showMatrix() {
  const matrix = matrices[state.selected];
  $("choose").value = String(state.selected);
  drawCosines(matrix);
  drawValues(matrix);
  drawSimilarity("similarity-plot", matrix);
  describe("similarity-plot", `Absolute cosines between the leading base and tuned vectors of ${matrix.name}`);
  showFacts(matrix);
}

function select(index, scroll) {
  state.selected = index;
  drawLayers();
  showMatrix();
  for (const row of $("table").tBodies[0].rows) row.setAttribute("aria-selected", String(Number(row.dataset.matrix) === index));
  if (scroll) $("matrix").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

function drawCurve() {
  const rows = curveOverEpsilon(audit, state.k);
  const [x, y, high] = [0, 1, 2].map((at) => rows.map((row) => row[at]));
  const open = y.some((least, i) => least !== high[i]);
  drawChart($("curve-plot"), {
    x: { title: "epsilon", limits: [0, 1] }, y: { title: "intruders", fromZero: true }, rules: [{ side: "x", at: state.epsilon }],
    series: [{ name: "intruders", tone: 1, look: "line", inLegend: true, x, y, ...(open ? { low: y, high, band: true } : {}) }],
  });
}

// --- the table

const least = (m) => Math.min(...m.lower);
const COLUMNS = [
  { key: "name", title: "name", value: (m) => m.name },
  { key: "layer", title: "layer", number: true, value: (m) => m.layer ?? null, text: (m) => m.layer ?? "-", optional: true },
  { key: "module", title: "module", value: (m) => m.module, optional: true },
  { key: "shape", title: "shape", number: true, value: (m) => m.shape[0] * m.shape[1], text: (m) => m.shape.join(" × "), optional: true },
  { key: "intruders", title: "intruders", number: true, value: (m, t) => t.least + t.most * 1e-6 + shareOf(t) * 1e-9, text: (m, t) => rangeText(t.least, t.most) },
  { key: "energy", title: "energy share", number: true, value: (m, t) => shareOf(t), text: (m, t) => percentText(shareOf(t)) },
  { key: "cosine", title: "lowest max cosine", number: true, value: least, text: (m) => least(m).toFixed(2) },
  ...(matrices.some((m) => m.subspaces) ? [{ key: "chance", title: "chance", number: true, value: (m) => m.subspaces?.max_cosine_chance ?? null, text: (m) => (m.subspaces ? m.subspaces.max_cosine_chance.toFixed(2) : "-"), optional: true }] : []),
  { key: "frobenius", title: "update norm", number: true, value: (m) => m.frobenius ?? null, text: (m) => numberText(m.frobenius) },
  { key: "relative", title: "relative update", number: true, value: (m) => m.relative ?? null, text: (m) => percentText(m.relative) },
  { key: "effectiveRank", title: "effective rank", number: true, value: (m) => m.effectiveRank ?? null, text: (m) => numberText(m.effectiveRank) },
];
// Measured, predicted, and how far was searched, by name; null is infinite.
const scaleOf = (m) => DATA.scale?.matrices[m.name] ?? null;
const scaleText = ([measured, , searched]) => (measured === null ? `above ${numberText(searched)}` : numberText(measured));
if (DATA.scale) {
  COLUMNS.push({ key: "scale", title: "critical scale", number: true, value: (m) => (scaleOf(m) ? scaleOf(m)[0] ?? Infinity : null), text: (m) => (scaleOf(m) ? scaleText(scaleOf(m)) : "-") });
}

function drawScales() {
  drawChart($("scale-plot"), DATA.scale.figure);
}

function buildTable() {
  const head = $("table").tHead.rows[0];
  for (const column of COLUMNS) {
    const button = element("button", { type: "button" }, column.title);
    const cell = element("th", { scope: "col", class: `${column.number ? "number" : ""} ${column.optional ? "optional" : ""}`, "data-key": column.key }, button);
    button.addEventListener("click", () => {
      state.descending = state.sort === column.key ? !state.descending : Boolean(column.number);
      state.sort = column.key;
      fillTable();
    });
    head.append(cell);
  }
  for (const module of moduleNames) $("module").append(element("option", { value: module }, module));
  for (const [i, matrix] of matrices.entries()) $("choose").append(element("option", { value: i }, matrix.name));
}

function fillTable() {
  const text = $("filter").value.toLowerCase();
  const module = $("module").value;
  const column = COLUMNS.find((one) => one.key === state.sort);
  const value = matrices.map((matrix, i) => column.value(matrix, tallies[i]));
  const found = matrices.map((_, i) => i)
    .filter((i) => matrices[i].name.toLowerCase().includes(text) && (!module || matrices[i].module === module) && (!$("affected").checked || tallies[i].least > 0))
    .sort((a, b) => compareCells(value[a], value[b], state.descending) || a - b);
  const shown = state.all ? found : found.slice(0, ROWS_AT_FIRST);
  $("table").tBodies[0].replaceChildren(...shown.map(tableRow));
  $("shown").textContent = shown.length < found.length ? `${shown.length} of ${found.length} matrices` : `${found.length} of ${matrices.length} matrices`;
  $("more").classList.toggle("hidden", shown.length === found.length);
  for (const head of $("table").tHead.rows[0].cells) {
    if (head.dataset.key === state.sort) head.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

function tableRow(i) {
  const row = element("tr", { "data-matrix": i, "aria-selected": String(i === state.selected) });
  for (const column of COLUMNS) {
    const text = String((column.text ?? column.value)(matrices[i], tallies[i]));
    const cell = element("td", { class: `${column.number ? "number" : ""} ${column.optional ? "optional" : ""}` });
    if (column.key === "name") {
      const button = element("button", { type: "button" }, ...nameParts(text));
      button.addEventListener("click", () => select(i, true));
      cell.append(button);
    } else cell.append(text);
    row.append(cell);
  }
  return row;
}

// --- start

function changed() {
  recount();
  showTotals();
  drawLayers();
  showMatrix();
  drawCurve();
  fillTable();
}

if (matrices.length) {
  recount();
  state.selected = matrices.reduce((worst, _, i) => (tallies[i].least > tallies[worst].least || (tallies[i].least === tallies[worst].least && shareOf(tallies[i]) > shareOf(tallies[worst])) ? i : worst), 0);
  buildTable();
  wireSliders(state, audit.k, changed);
  showTotals();
  onDraw(drawLayers);
  onDraw(showMatrix);
  onDraw(drawCurve);
  if (DATA.scale) onDraw(drawScales);
  if (DATA.nats) onDraw(() => drawGrid($("nats-plot"), DATA.nats));
  fillTable();
  $("layers-plot").on("plotly_click", ({ points: [point] }) => select(worstOf(cellAt(moduleNames[point.y], columnNames[point.x])), true));
  $("choose").addEventListener("change", () => select(Number($("choose").value), false));
  for (const id of ["filter", "module", "affected"]) $(id).addEventListener("input", fillTable);
  $("more").addEventListener("click", () => {
    state.all = true;
    fillTable();
  });
}
