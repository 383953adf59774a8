// The reports whose figures do not change: of a healing, an attribution and a comparison of remedies; tables that sort.

DATA.figures.forEach((figure, i) => onDraw(() => (figure.kind === "grid" ? drawGrid : drawChart)($(`figure-${i}`), figure)));

for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
