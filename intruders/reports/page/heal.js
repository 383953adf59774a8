// The report of a healing: its figures, and tables that sort.

DATA.figures.forEach((figure, i) => onDraw(() => (figure.kind === "grid" ? drawGrid : drawChart)($(`figure-${i}`), figure)));

for (const table of document.querySelectorAll("table.sortable")) makeSortable(table);
