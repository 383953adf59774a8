// How figures look, in one place. Names come from files, and plotly reads markup: every text goes through `plain`.

const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const isNarrow = () => document.documentElement.clientWidth < 760;
const cut = (text, length) => (text.length <= length ? text : `${text.slice(0, length / 2 - 1)}…${text.slice(-length / 2)}`);

// Okabe and Ito's, which the colour-blind can tell apart; the dashes and symbols do the same in grey.
const LINES = { light: ["#0072b2", "#b34700", "#007a5a", "#a0467d", "#8a6d00", "#222222"], dark: ["#56b4e9", "#ff9a5c", "#2fc79a", "#e29ac4", "#f0e442", "#eeeeee"] };
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "x", "star"];
const lineColour = (i) => LINES[document.documentElement.dataset.theme][i % 6];
/** The dash and the symbol of series i: a colour that comes again has another of each. */
const markOf = (i) => (i + Math.floor(i / 6)) % 6;

const ORDER = { light: ["#440154", "#3e4a89", "#25848e", "#35b779", "#aadc32"], dark: ["#5a64b0", "#2f7f9e", "#22a884", "#7ad151", "#fde725"] };
const orderColours = () => ORDER[document.documentElement.dataset.theme];

function orderColour(i, count) {
  const colours = orderColours();
  const at = (i / Math.max(1, count - 1)) * (colours.length - 1);
  const before = Math.min(Math.floor(at), colours.length - 2);
  const channel = (hex, from) => parseInt(hex.slice(from, from + 2), 16);
  const mixed = [1, 3, 5].map((from) => channel(colours[before], from) + (at - before) * (channel(colours[before + 1], from) - channel(colours[before], from)));
  return `#${mixed.map((value) => Math.round(value).toString(16).padStart(2, "0")).join("")}`;
}

/** At most `most` of the positions below `count`: evenly apart, with the first and the last. */
const evenly = (count, most) => (count <= most ? Array.from({ length: count }, (_, i) => i) : Array.from({ length: most }, (_, i) => Math.round((i * (count - 1)) / (most - 1))));

/** A trace without points that brings the bar of these colours, with some of the names. */
function orderBar(names, title) {
  const named = evenly(names.length, 6);
  const colours = orderColours();
  return {
    x: [null], y: [null], mode: "markers", showlegend: false, hoverinfo: "skip",
    marker: {
      color: [0], cmin: 0, cmax: names.length - 1, showscale: true, colorscale: colours.map((shade, i) => [i / (colours.length - 1), shade]),
      colorbar: { ...bar(plain(title)), tickvals: named, ticktext: named.map((i) => plain(cut(names[i], isNarrow() ? 12 : 20))) },
    },
  };
}

function axis(title, more) {
  return {
    title: { text: title, font: { size: 12 } }, gridcolor: colour("line"), linecolor: colour("line"),
    zeroline: false, automargin: true, fixedrange: true, ...more,
  };
}

function draw(id, traces, layout) {
  const target = typeof id === "string" ? $(id) : id;
  return Plotly.react(
    target,
    traces,
    {
      height: 300, margin: { l: 48, r: 20, t: 12, b: 40 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: isNarrow() ? 11 : 12, color: colour("text") },
      hoverlabel: { bgcolor: colour("surface"), bordercolor: colour("line"), font: { color: colour("text") } },
      legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, traceorder: "normal" },
      ...layout,
      // The browser lays paper out at once and does not wait for a responsive figure to notice.
      ...(printing ? { width: target.clientWidth } : {}),
    },
    { responsive: true, displayModeBar: false },
  );
}

const coolScale = () => [[0, colour("low")], [0.5, colour("middle")], [1, colour("high")]];
const warmScale = () => [[0, colour("warm-low")], [0.5, colour("warm-middle")], [1, colour("warm-high")]];

const signedScale = () => [[0, colour("high")], [0.25, colour("middle")], [0.5, colour("low")], [0.75, colour("warm-middle")], [1, colour("warm-high")]];

const bar = (title) => ({ title: { text: title, side: "right" }, thickness: 12, outlinewidth: 0 });
/** The bar of counts, which has no ticks between two of them. */
const countBar = (title, largest) => ({ ...bar(title), tickformat: "d", ...(largest <= 5 ? { dtick: 1 } : {}) });

/** Rows of cosines from the bytes that reports/audit.py packed. */
function similarityRows(matrix) {
  const bytes = Uint8Array.from(atob(matrix.similarity.bytes), (character) => character.charCodeAt(0));
  const [rows, columns] = matrix.similarity.shape;
  return Array.from({ length: rows }, (_, i) => Array.from(bytes.subarray(i * columns, (i + 1) * columns), (value) => value / 255));
}

function drawSimilarity(id, matrix, layout, trace) {
  return draw(
    id,
    [{
      type: "heatmap", z: similarityRows(matrix), x0: 1, y0: 1, dx: 1, dy: 1, zmin: 0, zmax: 1, colorscale: coolScale(), colorbar: bar("|cosine|"),
      xgap: 1, ygap: 1, ...trace,
      hovertemplate: "tuned vector %{x}, base vector %{y}: %{z:.2f}<extra></extra>",
    }],
    { xaxis: axis("tuned vector", { dtick: 3, tick0: 1, showgrid: false }), yaxis: axis("base vector", { autorange: "reversed", tick0: 1, dtick: 5, showgrid: false }), ...layout },
  );
}

function faint(hex) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return `rgba(${r},${g},${b},0.22)`;
}

// --- the sliders of a page that counts again

function wireSliders(state, largestK, changed) {
  const epsilon = $("epsilon");
  const k = $("k");
  k.max = largestK;
  k.value = state.k;
  epsilon.value = state.epsilon;
  function show() {
    $("epsilon-now").textContent = state.epsilon;
    $("k-now").textContent = state.k;
  }
  epsilon.addEventListener("input", () => {
    state.epsilon = Number(epsilon.value);
    show();
    changed();
  });
  k.addEventListener("input", () => {
    state.k = Number(k.value);
    show();
    changed();
  });
  show();
}
