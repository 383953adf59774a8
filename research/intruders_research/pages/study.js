// The report of a study: its figures, its tables, and similarity matrices in a row.

// A study has dozens of figures: each is drawn when it comes near the window, and all of them before printing.
const waiting = new Map(); // frame -> function that draws into it
const seen = new IntersectionObserver((entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => start(entry.target)), { rootMargin: "800px" });

function start(frame) {
  const drawNow = waiting.get(frame);
  seen.unobserve(frame);
  waiting.delete(frame);
  if (drawNow) onDraw(drawNow);
}

function drawWhenNear(frame, height, drawNow) {
  frame.style.minHeight = `${height}px`; // what is below keeps its place
  waiting.set(frame, drawNow);
  seen.observe(frame);
}

addEventListener("beforeprint", () => [...waiting.keys()].forEach(start));

DATA.figures.forEach((figure, i) => {
  const frame = $(`figure-${i}`);
  drawWhenNear(frame, heightOf(frame, figure), () => (figure.kind === "grid" ? drawGrid : drawChart)(frame, figure));
});

for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
makeFilter($("filter"), $("table"), $("shown"));

// --- similarity matrices in a row

function showSimilarities({ title, runs, matrices }, row) {
  const HEIGHT = 230;
  const choose = $(`choose-${row}`);
  matrices.forEach((name, i) => choose.append(element("option", { value: i }, name)));
  const drawers = runs.map((run) => {
    const count = element("p", { class: "small muted" });
    const plot = element("div", { class: "plot", role: "img", "aria-label": `Similarity matrix of ${run.label}${title ? `, ${title}` : ""}` });
    $(`similarities-${row}`).append(element("div", { class: "card" }, element("h4", null, run.label), count, plot));
    const drawRun = () => {
      const matrix = run.matrices[Number(choose.value)];
      count.textContent = `${intrudersText(matrix.intruders, matrix.intruders)} of ${matrix.vectors}, effective rank ${numberText(matrix.effectiveRank)}`;
      drawSimilarity(plot, matrix, { height: HEIGHT, margin: { l: 40, r: 4, t: 4, b: 36 } }, { showscale: false });
    };
    drawWhenNear(plot, HEIGHT, drawRun);
    return drawRun;
  });
  choose.addEventListener("change", () => drawers.forEach((drawRun) => drawRun()));
}

DATA.similarities.forEach(showSimilarities);
