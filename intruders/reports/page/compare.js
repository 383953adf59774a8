// The report that puts several audits side by side; all have the same matrices, in the same order.

const audits = DATA.audits.map(prepare);
const names = audits[0].matrices.map((matrix) => matrix.name);
const largestK = Math.min(...audits.map((audit) => audit.k));
const state = { k: largestK, epsilon: audits[0].epsilon, selected: 0 };

const totalsAt = (audit, k, epsilon) => addUp(audit.matrices.map((matrix) => tally(audit, matrix, k, epsilon)));
const rankOf = (audit) => (audit.matrices.some((matrix) => matrix.rank === null) ? null : Math.max(...audit.matrices.map((matrix) => matrix.rank)));

function median(values) {
  const sorted = values.filter((value) => value !== null).sort((a, b) => a - b);
  if (!sorted.length) return null;
  const middle = (sorted.length - 1) / 2;
  return (sorted[Math.floor(middle)] + sorted[Math.ceil(middle)]) / 2;
}

function showTotals() {
  const sums = audits.map((audit) => totalsAt(audit, state.k, state.epsilon));
  const order = sums.map((_, i) => i).sort((a, b) => sums[a].least - sums[b].least);
  const fewest = order[0];
  const most = order[order.length - 1];
  $("answer").replaceChildren(
    `${rangeText(sums[fewest].least, sums[fewest].most)} to ${rangeText(sums[most].least, sums[most].most)} intruders`,
    element("small", null, `fewest in ${audits[fewest].label}, most in ${audits[most].label}`),
  );
  $("audits").tBodies[0].replaceChildren(...audits.map((audit, i) => {
    const numbers = [
      rankOf(audit) ?? "full",
      rangeText(sums[i].least, sums[i].most),
      percentText(shareOf(sums[i])),
      numberText(Math.hypot(...audit.matrices.map((matrix) => matrix.frobenius ?? NaN))),
      percentText(median(audit.matrices.map((matrix) => matrix.relative))),
      numberText(median(audit.matrices.map((matrix) => matrix.effectiveRank))),
    ];
    return element("tr", null, element("th", { scope: "row" }, audit.label), element("td", null, audit.kind), ...numbers.map((text) => element("td", { class: "number" }, String(text))));
  }));
}

// --- similarity of one matrix in every audit

const frames = audits.map((audit, i) => {
  const plot = element("div", { class: "plot", role: "img", "aria-label": `Similarity matrix of ${audit.label}` });
  $("similarities").append(element("div", { class: "card" }, element("h3", null, audit.label), element("p", { class: "small muted", id: `similarity-count-${i}` }), plot));
  return plot;
});

function countInSelected() {
  audits.forEach((audit, i) => {
    const matrix = audit.matrices[state.selected];
    const sum = tally(audit, matrix, state.k, state.epsilon);
    $(`similarity-count-${i}`).textContent = `${intrudersText(sum.least, sum.most)}, effective rank ${numberText(matrix.effectiveRank)}`;
  });
}

function drawSimilarities() {
  audits.forEach((audit, i) => drawSimilarity(frames[i], audit.matrices[state.selected], { height: 260 }));
}

// --- lines

const isMany = audits.length > MANY;
const labels = audits.map((audit) => audit.label);
const shade = (i) => (isMany ? orderColour(i, audits.length) : lineColour(i));
const style = (i) => (isMany ? { color: shade(i), width: 1.5 } : { color: shade(i), width: 2, dash: DASHES[markOf(i)] });

/** Many audits have a bar of colours for a legend, and tell their names where the pointer is. */
function drawAudits(id, traces, layout) {
  const named = traces.map((trace) => (isMany && trace.name ? { ...trace, hovertemplate: trace.hovertemplate.replace("<extra></extra>", `<extra>${trace.name}</extra>`) } : trace));
  draw(id, isMany ? [...named, orderBar(labels)] : named, { yaxis: axis("intruders", { rangemode: "tozero" }), showlegend: !isMany, height: isMany ? 300 : 300 + legendGrowth(id), ...layout });
}

/** Height for the rows of the legend beyond the second. */
function legendGrowth(id) {
  const across = Math.max(1, Math.floor(($(id).clientWidth - 70) / (55 + 6.5 * Math.max(...labels.map((label) => label.length)))));
  return 19 * Math.max(0, Math.ceil(labels.length / across) - 2);
}

function drawOverEpsilon() {
  const traces = audits.flatMap((audit, i) => countLines(curveOverEpsilon(audit, state.k), audit.label, style(i)));
  drawAudits("epsilon-plot", traces, { xaxis: axis("epsilon", { range: [0, 1] }), shapes: [verticalLine(state.epsilon)] });
}

function drawOverK() {
  const steps = Array.from({ length: largestK }, (_, i) => i + 1);
  const traces = audits.flatMap((audit, i) => countLines(steps.map((k) => {
    const sum = totalsAt(audit, k, state.epsilon);
    return [k, sum.least, sum.most];
  }), audit.label, style(i)));
  drawAudits("k-plot", traces, { xaxis: axis("k, leading vectors examined"), shapes: [verticalLine(state.k)] });
}

function drawOverLayers() {
  const layers = [...new Set(audits[0].matrices.map((matrix) => matrix.layer).filter((layer) => layer !== null))].sort((a, b) => a - b);
  const traces = audits.flatMap((audit, i) => countLines(layers.map((layer) => {
    const sum = addUp(audit.matrices.filter((matrix) => matrix.layer === layer).map((matrix) => tally(audit, matrix, state.k, state.epsilon)));
    return [layer, sum.least, sum.most];
  }), audit.label, style(i)));
  drawAudits("layers-plot", traces, { xaxis: axis("layer") });
}

function drawOverRank() {
  const ranks = [...new Set(audits.map(rankOf))].sort((a, b) => (a ?? Infinity) - (b ?? Infinity));
  const traces = audits.map((audit, i) => {
    const sum = totalsAt(audit, state.k, state.epsilon);
    return {
      // Many audits of one rank would lie on one another: they are put side by side in their order.
      x: [ranks.indexOf(rankOf(audit)) + (isMany ? 0.7 * (i / (audits.length - 1) - 0.5) : 0)], y: [sum.least], name: plain(audit.label), mode: "markers",
      marker: isMany ? { color: shade(i), size: 8 } : { color: shade(i), symbol: SYMBOLS[markOf(i)], size: 11 },
      error_y: { type: "data", symmetric: false, array: [sum.most - sum.least], arrayminus: [0], color: shade(i) },
      hovertemplate: `${plain(audit.label)}: ${rangeText(sum.least, sum.most)}<extra></extra>`,
    };
  });
  const xaxis = axis("rank of the update", { tickvals: ranks.map((_, i) => i), ticktext: ranks.map((rank) => String(rank ?? "full")), range: [-0.5, ranks.length - 0.5] });
  drawAudits("rank-plot", traces, { xaxis });
}

function drawEffectiveRanks() {
  const named = evenly(audits.length, isNarrow() ? 4 : MANY);
  const texts = named.map((i) => plain(cut(labels[i], isNarrow() ? 14 : 28)));
  const left = named.length > 4 ? Math.max(48, 12 + 6 * texts[0].length) : 48; // a slanted name that begins outside is not shown
  const traces = audits.map((audit, i) => ({
    type: "box", y: audit.matrices.map((matrix) => matrix.effectiveRank), x: audit.matrices.map(() => i), name: plain(audit.label),
    line: { color: shade(i), width: 1.5 }, fillcolor: faint(shade(i)), boxpoints: false,
  }));
  draw("effective-plot", traces, {
    showlegend: false, margin: { l: left, r: 20, t: 12, b: 40 }, xaxis: axis("", { autotickangles: [0, -30, -90], tickvals: named, ticktext: texts }), yaxis: axis("effective rank", { type: "log" }),
  });
}

// --- start

// What the sliders change; heat maps of many audits take long to draw, and show the same for every k and epsilon.
const counted = [drawOverEpsilon, drawOverK, drawOverLayers, drawOverRank];
const figures = [drawSimilarities, ...counted, drawEffectiveRanks];

function changed() {
  showTotals();
  countInSelected();
  for (const figure of counted) figure();
}

names.forEach((name, i) => $("choose").append(element("option", { value: i }, name)));
const spread = (i) => Math.max(...audits.map((audit) => tally(audit, audit.matrices[i], state.k, state.epsilon).least)) - Math.min(...audits.map((audit) => tally(audit, audit.matrices[i], state.k, state.epsilon).least));
state.selected = names.reduce((widest, _, i) => (spread(i) > spread(widest) ? i : widest), 0);
$("choose").value = String(state.selected);
wireSliders(state, largestK, changed);
showTotals();
countInSelected();
figures.forEach(onDraw);
$("choose").addEventListener("change", () => {
  state.selected = Number($("choose").value);
  countInSelected();
  drawSimilarities();
});
