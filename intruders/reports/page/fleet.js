// The report of a fleet. What is drawn of one adapter is unpacked when its row is opened.

const ROWS_AT_FIRST = 100;
const NOT_JUDGED = 65535;
const STEPS = 50000; // of a share of 1
const NUMBERS = DATA.numbers.map(([key, title, kind]) => ({ key, title, kind }));
const textAt = (key) => NUMBERS.length + DATA.texts.indexOf(key);
const numberAt = (key) => NUMBERS.findIndex((one) => one.key === key);
const shown = ({ kind }, value) => (value === null ? "-" : kind === "share" ? percentText(value) : kind === "count" ? value.toLocaleString("en") : numberText(value));

const hasNats = DATA.rows.some((row) => row[numberAt("nats")] !== null);
const COLUMNS = [
  { key: "adapter", title: "adapter", at: textAt("adapter") },
  ...(hasNats ? [{ ...NUMBERS[numberAt("nats")], at: numberAt("nats"), number: true, text: textAt("predicted_nats") }, { ...NUMBERS[numberAt("nats_in_affected")], at: numberAt("nats_in_affected"), number: true }] : []),
  ...["intruders", "energy_share", "update_relative_median", "update_relative_max", "frobenius", "effective_rank", "rank_max", "unusual"].map((key) => ({ ...NUMBERS[numberAt(key)], at: numberAt(key), number: true, optional: ["frobenius", "effective_rank", "rank_max"].includes(key) })),
  { key: "status", title: "status", at: textAt("status") },
];
const state = { sort: hasNats ? "nats" : "intruders", descending: true, all: false, selected: null, found: [] };
const haystacks = DATA.rows.map((row) => DATA.texts.map((_, i) => row[NUMBERS.length + i] ?? "").join("\n").toLowerCase());
const isAudited = (i) => DATA.rows[i][textAt("status")] === "audited";

// --- the table

function buildTable() {
  const head = $("table").tHead.rows[0];
  for (const column of COLUMNS) {
    const button = element("button", { type: "button" }, column.title);
    button.addEventListener("click", () => {
      state.descending = state.sort === column.key ? !state.descending : Boolean(column.number);
      state.sort = column.key;
      fillTable();
    });
    head.append(element("th", { scope: "col", class: `${column.number ? "number" : ""} ${column.optional ? "optional" : ""}`, "data-key": column.key }, button));
  }
  for (const id of ["column", "across", "up"]) for (const [i, one] of NUMBERS.entries()) if (hasNats || !one.key.startsWith("nats")) $(id).append(element("option", { value: i }, one.title));
  $("column").value = String(numberAt(state.sort));
  $("across").value = String(numberAt("update_relative_median"));
  $("up").value = String(numberAt("intruders"));
}

function search() {
  const text = $("filter").value.toLowerCase();
  const least = $("least").value === "" ? null : Number($("least").value);
  const limited = Number($("column").value);
  state.found = DATA.rows.map((_, i) => i).filter((i) => haystacks[i].includes(text) && (!$("refused").checked || !isAudited(i)) && (least === null || (DATA.rows[i][limited] !== null && DATA.rows[i][limited] >= least)));
}

function fillTable() {
  const { at } = COLUMNS.find((one) => one.key === state.sort);
  const value = (i) => DATA.rows[i][at];
  const order = (a, b) => compareCells(value(a), value(b), state.descending) || a - b;
  const sorted = [...state.found].sort(order);
  const visible = state.all ? sorted : sorted.slice(0, ROWS_AT_FIRST);
  $("table").tBodies[0].replaceChildren(...visible.map(tableRow));
  $("shown").textContent = `${sorted.length.toLocaleString("en")} of ${DATA.rows.length.toLocaleString("en")} adapters${visible.length < sorted.length ? `, the first ${visible.length} listed` : ""}`;
  $("more").classList.toggle("hidden", visible.length === sorted.length);
  for (const head of $("table").tHead.rows[0].cells) {
    if (head.dataset.key === state.sort) head.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
}

function tableRow(i) {
  const row = element("tr", { "data-row": i, "aria-selected": String(i === state.selected) });
  for (const column of COLUMNS) {
    const cell = element("td", { class: `${column.number ? "number" : ""} ${column.optional ? "optional" : ""}` });
    const value = DATA.rows[i][column.at];
    if (column.key === "adapter") {
      const button = element("button", { type: "button" }, ...value.split(/(?<=\/)/).flatMap((part, at) => (at ? [element("wbr"), part] : [part])));
      button.addEventListener("click", () => open(i, true));
      cell.append(button);
    } else if (column.text) cell.append(DATA.rows[i][column.text] ?? "-");
    else cell.append(column.number ? shown(column, value) : String(value ?? "-"));
    row.append(cell);
  }
  return row;
}

// --- two columns

function drawScatter() {
  const [x, y] = [Number($("across").value), Number($("up").value)];
  const members = state.found.filter((i) => isAudited(i) && DATA.rows[i][x] !== null && DATA.rows[i][y] !== null);
  const side = (at, id) => axis(NUMBERS[at].title, $(id).checked ? { type: "log" } : { rangemode: "tozero", ...(NUMBERS[at].kind === "share" ? { tickformat: ".3~%" } : {}) });
  const text = (i) => `${plain(cut(DATA.rows[i][textAt("adapter")], 60))}<br>${plain(NUMBERS[x].title)}: ${shown(NUMBERS[x], DATA.rows[i][x])}<br>${plain(NUMBERS[y].title)}: ${shown(NUMBERS[y], DATA.rows[i][y])}`;
  draw("scatter-plot", [{
    type: "scatter", mode: "markers", x: members.map((i) => DATA.rows[i][x]), y: members.map((i) => DATA.rows[i][y]), customdata: members, text: members.map(text), hovertemplate: "%{text}<extra></extra>",
    marker: { color: members.map((i) => (i === state.selected ? colour("intruder") : colour("base"))), size: members.map((i) => (i === state.selected ? 13 : 7)), opacity: 0.75 },
  }], { height: 380, hovermode: "closest", xaxis: side(x, "across-log"), yaxis: side(y, "up-log"), showlegend: false });
}

// --- one adapter

/** The middle of a step; 0 and 1 are themselves. */
const shareAt = (step) => (step === 0 ? 0 : step > STEPS ? 1 : (step - 0.5) / STEPS);

function unpacked(i) {
  const packed = DATA.packed[i];
  if (!packed) return null;
  const [counts, steps, relative] = packed.map((text) => new DataView(Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer));
  const values = (read) => DATA.matrices.map((_, m) => (counts.getUint16(2 * m, true) === NOT_JUDGED ? null : read(m)));
  return [values((m) => counts.getUint16(2 * m, true)), values((m) => shareAt(steps.getUint16(2 * m, true))), values((m) => relative.getFloat32(4 * m, true))];
}

const [NAME, STACK, LAYER, KIND] = [0, 1, 2, 3];
const stacks = [...new Set(DATA.matrices.filter((m) => m[LAYER] !== null).map((m) => m[STACK]))];
const placeOf = (m) => (m[LAYER] === null ? "outside" : stacks.length > 1 ? `${m[STACK]}.${m[LAYER]}` : String(m[LAYER]));
const places = [...new Set([...DATA.matrices].sort((a, b) => stacks.indexOf(a[STACK]) - stacks.indexOf(b[STACK]) || (a[LAYER] ?? -1) - (b[LAYER] ?? -1)).map(placeOf))];
const kinds = [...new Set(DATA.matrices.map((m) => m[KIND]))];

function drawLayers() {
  if (state.selected === null) return;
  const measure = Number($("measure").value);
  const values = unpacked(state.selected);
  const grid = kinds.map(() => places.map(() => null));
  const text = kinds.map(() => places.map(() => ""));
  DATA.matrices.forEach((matrix, m) => {
    if (!values || values[0][m] === null) return;
    const [row, column] = [kinds.indexOf(matrix[KIND]), places.indexOf(placeOf(matrix))];
    if (grid[row][column] !== null && grid[row][column] >= values[measure][m]) return; // of several experts the worst
    grid[row][column] = values[measure][m];
    text[row][column] = `${plain(cut(matrix[NAME], 70))}<br>${intrudersText(values[0][m], values[0][m])}, energy share ${percentText(values[1][m])}, relative update ${percentText(values[2][m])}`;
  });
  const step = Math.max(1, Math.ceil(places.length / (isNarrow() ? 6 : 16)));
  const ticks = places.map((_, i) => i).filter((i) => i % step === 0);
  const title = $("measure").selectedOptions[0].textContent, darkest = Math.max(measure ? 0.01 : 3, ...grid.flat().filter((value) => value !== null));
  draw("layers-plot", [{
    type: "heatmap", z: grid, zmin: 0, zmax: darkest, colorscale: measure === 2 ? coolScale() : warmScale(), colorbar: measure ? { ...bar(title), tickformat: ".3~%" } : countBar(title, darkest),
    xgap: 1, ygap: 1, text, hovertemplate: "%{text}<extra></extra>", hoverongaps: false,
  }], {
    height: Math.max(190, 90 + 28 * kinds.length),
    xaxis: axis(stacks.length > 1 ? "" : "layer", { tickvals: ticks, ticktext: ticks.map((i) => plain(places[i])), tickangle: 0, showgrid: false, range: [-0.5, places.length - 0.5] }),
    yaxis: axis("", { tickvals: kinds.map((_, i) => i), ticktext: kinds.map((name) => plain(cut(name, isNarrow() ? 14 : 34))), showgrid: false, range: [kinds.length - 0.5, -0.5] }),
  });
}

const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

function open(i, scroll) {
  state.selected = i;
  const row = DATA.rows[i];
  $("name").replaceChildren(row[textAt("adapter")]);
  const facts = [
    ...DATA.texts.filter((key) => key !== "adapter").map((key) => [key.replaceAll("_", " "), row[textAt(key)]]),
    ...NUMBERS.map((one, at) => [one.title, row[at] === null || one.key === "nats" ? null : shown(one, row[at])]),
  ].filter(([, value]) => value !== null);
  $("facts").replaceChildren(...facts.flatMap(([term, value]) => [element("dt", null, term), element("dd", null, value)]));
  $("command").textContent = `intruders audit ${quoted(DATA.base)} ${quoted(row[textAt("adapter")])} ${DATA.options} --html audit.html`;
  for (const one of $("table").tBodies[0].rows) one.setAttribute("aria-selected", String(Number(one.dataset.row) === i));
  drawScatter();
  drawLayers();
  if (scroll) $("one").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
}

// --- start

function changed() {
  search();
  fillTable();
  drawScatter();
}

buildTable();
search();
fillTable();
onDraw(drawScatter);
onDraw(drawLayers);
for (const id of ["filter", "least", "column", "refused"]) $(id).addEventListener("input", changed);
for (const id of ["across", "up", "across-log", "up-log"]) $(id).addEventListener("input", drawScatter);
$("measure").addEventListener("input", drawLayers);
$("more").addEventListener("click", () => {
  state.all = true;
  fillTable();
});
$("scatter-plot").on("plotly_click", ({ points: [point] }) => open(point.customdata, true));
if (DATA.rows.length) {
  const at = numberAt("intruders");
  open(DATA.rows.reduce((most, row, i) => ((row[at] ?? -1) > (DATA.rows[most][at] ?? -1) ? i : most), 0), false);
}
