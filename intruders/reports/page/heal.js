// The reports of a healing and of an attribution: their figures, and tables that sort.

DATA.figures.forEach((figure, i) => onDraw(() => (figure.kind === "grid" ? drawGrid : drawChart)($(`figure-${i}`), figure)));

for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
