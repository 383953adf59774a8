// Draws the charts and grids that intruders/charts/chart.py describes.

/** Where a hidden or missing end of an interval is drawn: at the point itself. */
const gap = (end, at) => (end === null || at === null ? 0 : Math.abs(end - at));

function errorBars(values, low, high, colourNow) {
  if (!low || !high) return undefined;
  return { type: "data", symmetric: false, array: values.map((at, i) => gap(high[i], at)), arrayminus: values.map((at, i) => gap(low[i], at)), color: colourNow, thickness: 1.3, width: 3 };
}

function pointText(chart, series, i) {
  const side = (axisOf, values, low, high) => {
    const value = axisOf.ticks ? axisOf.ticks[Math.round(values[i])] : numberText(values[i]);
    const ends = low && high && low[i] !== null && high[i] !== null ? ` [${numberText(low[i])}, ${numberText(high[i])}]` : "";
    return `${plain(axisOf.title)}: ${plain(value)}${ends}`;
  };
  const lines = [`<b>${plain(cut(series.name, 60))}</b>`];
  if (series.notes && series.notes[i]) lines.push(plain(cut(series.notes[i], 70)));
  lines.push(side(chart.x, series.x, series.xLow, series.xHigh), side(chart.y, series.y, series.low, series.high));
  return lines.join("<br>");
}

/** The traces of series i. Of many in an order, a colour tells its place. */
function seriesTraces(chart, series, i) {
  const shade = chart.inOrder ? orderColour(i, chart.series.length) : lineColour(series.tone);
  const mark = chart.inOrder ? 0 : markOf(series.tone);
  const banded = series.band && series.low && series.high;
  const traces = banded
    ? [
        { x: series.x, y: series.low, mode: "lines", line: { width: 0 }, showlegend: false, hoverinfo: "skip" },
        { x: series.x, y: series.high, mode: "lines", line: { width: 0 }, fill: "tonexty", fillcolor: faint(shade), showlegend: false, hoverinfo: "skip" },
      ]
    : [];
  traces.push({
    x: series.x, y: series.y, cliponaxis: series.look === "line", name: plain(cut(series.name, isNarrow() ? 34 : 44)), showlegend: series.inLegend, opacity: series.faint ? 0.4 : 1,
    mode: { line: "lines", points: "markers", both: "lines+markers" }[series.look],
    line: { color: shade, width: series.faint ? 1 : 2, dash: DASHES[mark] },
    marker: { color: shade, symbol: SYMBOLS[mark], size: series.faint ? 6 : 9 },
    error_y: banded ? undefined : errorBars(series.y, series.low, series.high, shade),
    error_x: errorBars(series.x, series.xLow, series.xHigh, shade),
    text: series.x.map((_, i) => pointText(chart, series, i)), hovertemplate: "%{text}<extra></extra>",
  });
  return traces;
}

/** On a narrow window a long name takes two lines or more, since there is no room for it in one. */
function wrapped(text, length) {
  if (!isNarrow() || text.length <= length) return plain(text);
  const at = text.lastIndexOf(" ", length);
  return at <= 0 ? plain(cut(text, length)) : `${plain(text.slice(0, at))}<br>${wrapped(text.slice(at + 1), length)}`;
}

/** Whether powers of ten alone are ticks enough; 1, 2, 5 otherwise. */
function spansDecades(values) {
  const known = values.filter((value) => value > 0);
  return Math.max(...known) / Math.min(...known) > 200;
}

function chartAxis(side, values, isVertical) {
  // Numbers below the axis make room below it alone: a margin that follows the last of them to the side changes the ticks,
  // which can change the margin again without end.
  const more = side.ticks || isVertical ? {} : { automargin: "height" };
  if (side.log) Object.assign(more, { type: "log", dtick: spansDecades(values) ? 1 : "D2", tickformat: "~g" });
  if (side.marks) Object.assign(more, { tickvals: side.marks, ticktext: side.marks.map(numberText) });
  if (side.ticks) {
    const range = [-0.6, side.ticks.length - 0.4];
    Object.assign(more, { tickvals: side.ticks.map((_, i) => i), ticktext: side.ticks.map((name) => wrapped(cut(name, 44), 18)), showgrid: false, range: isVertical ? range.reverse() : range });
  } else if (side.limits) more.range = side.log ? side.limits.map(Math.log10) : side.limits;
  else if (side.fromZero && !side.log) more.rangemode = "tozero";
  return axis(wrapped(side.title, 34), more);
}

function ruleShape(rule) {
  const line = { color: colour("muted"), width: 1, dash: "dash" };
  if (rule.side === "x") return { type: "line", yref: "paper", x0: rule.at, x1: rule.at, y0: 0, y1: 1, line };
  return { type: "line", xref: "paper", x0: 0, x1: 1, y0: rule.at, y1: rule.at, line };
}

function ruleLabel(chart, rule) {
  const at = (side) => (side.log ? Math.log10(rule.at) : rule.at);
  const common = { text: plain(rule.label), showarrow: false, font: { size: 11, color: colour("muted") } };
  if (rule.side === "x") return { ...common, x: at(chart.x), y: 1, yref: "paper", xanchor: "left", yanchor: "top", xshift: 3 };
  return { ...common, xref: "paper", x: 1, y: at(chart.y), xanchor: "right", yanchor: "bottom" };
}

/** The line of equal values, from the least to the largest of both sides. */
function diagonal(chart) {
  const values = chart.series.flatMap((series) => [...series.x, ...series.y]).filter((value) => value !== null && (!chart.x.log || value > 0));
  const ends = [Math.min(...values), Math.max(...values)];
  return { x: ends, y: ends, mode: "lines", line: { color: colour("muted"), width: 1, dash: "dash" }, showlegend: false, hoverinfo: "skip" };
}

/** Its height: that of the axes, and of the rows of the legend above them. */
function heightOf(target, figure) {
  if (figure.kind === "grid" && !figure.hasNumbers) return 300;
  if (figure.kind === "grid") return 130 + (figure.rows.length > 12 ? 22 : 42) * figure.rows.length;
  const named = figure.series.filter((series) => series.inLegend).map((series) => series.name.length);
  const across = Math.max(1, Math.floor((target.clientWidth - 80) / (55 + 6.5 * Math.max(...named, 1))));
  const axes = Math.max(figure.wide ? 400 : 270, 90 + 30 * (figure.y.ticks ?? []).length);
  return axes + (named.length > 1 && !figure.inOrder ? 19 * Math.ceil(named.length / across) : 0);
}

function drawChart(target, chart) {
  const straight = chart.rules.filter((rule) => rule.side !== "diagonal");
  const traces = chart.series.flatMap((series, i) => seriesTraces(chart, series, i));
  if (straight.length < chart.rules.length) traces.unshift(diagonal(chart));
  if (chart.inOrder) traces.push(orderBar(chart.series.map((series) => series.name), chart.inOrder));
  draw(target, traces, {
    height: heightOf(target, chart), hovermode: "closest",
    xaxis: chartAxis(chart.x, chart.series.flatMap((series) => series.x), false), yaxis: chartAxis(chart.y, chart.series.flatMap((series) => series.y), true), showlegend: !chart.inOrder && chart.series.filter((series) => series.inLegend).length > 1,
    shapes: straight.map(ruleShape), annotations: straight.filter((rule) => rule.label).map((rule) => ruleLabel(chart, rule)),
  });
}

/** A side of a grid: every name, or those at equal steps where the cells are small. */
function gridAxis(grid, title, names, length, more) {
  const step = grid.hasNumbers ? 1 : Math.ceil(names.length / 8);
  const named = names.map((_, i) => i).filter((i) => i % step === 0);
  return axis(plain(title), { tickvals: named, ticktext: named.map((i) => plain(cut(names[i], length))), showgrid: false, ...more });
}

function drawGrid(target, grid) {
  const text = grid.values.map((row) => row.map((value) => (value === null ? "" : grid.counts ? String(value) : value.toFixed(2).replace(/^-(0\.0+)$/, "$1"))));
  draw(
    target,
    [{
      type: "heatmap", z: grid.values, text, ...(grid.hasNumbers ? { texttemplate: "%{text}" } : {}), hoverongaps: false, xgap: grid.hasNumbers ? 2 : 1, ygap: grid.hasNumbers ? 2 : 1, colorscale: grid.signed ? signedScale() : coolScale(), colorbar: grid.counts ? countBar(plain(grid.value.title), Math.max(...grid.values.flat())) : bar(plain(grid.value.title)),
      ...(grid.value.limits ? { zmin: grid.value.limits[0], zmax: grid.value.limits[1] } : {}),
      hovertemplate: "%{text}<extra></extra>",
    }],
    { height: heightOf(target, grid), xaxis: gridAxis(grid, grid.columnTitle, grid.columns, 16), yaxis: gridAxis(grid, grid.rowTitle, grid.rows, 20, { range: [grid.rows.length - 0.5, -0.5] }) },
  );
}
