// Tables that stand in the page as text: a click on a head sorts by its column, a field filters by any text of a row.

function makeSortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, at) => {
    const button = element("button", { type: "button" }, ...head.childNodes);
    head.replaceChildren(button);
    button.addEventListener("click", () => sortTable(table, heads, at));
  });
}

/** What a cell is sorted by: its number where it has one; cells without a value come last. */
function cellValue(row, at) {
  const { value } = row.cells[at].dataset;
  if (value === undefined) return row.cells[at].textContent;
  return value === "" ? null : Number(value);
}

function sortTable(table, heads, at) {
  const isNumber = heads[at].classList.contains("number");
  const was = heads[at].getAttribute("aria-sort");
  const descending = was ? was === "ascending" : isNumber;
  const rows = [...table.tBodies[0].rows].sort((a, b) => compareCells(cellValue(a, at), cellValue(b, at), descending));
  table.tBodies[0].append(...rows);
  for (const head of heads) head.removeAttribute("aria-sort");
  heads[at].setAttribute("aria-sort", descending ? "descending" : "ascending");
}

function makeFilter(field, table, counter) {
  const rows = [...table.tBodies[0].rows];
  function filter() {
    const wanted = field.value.toLowerCase();
    let shown = 0;
    for (const row of rows) {
      const fits = row.textContent.toLowerCase().includes(wanted);
      row.classList.toggle("hidden", !fits);
      shown += fits;
    }
    counter.textContent = `${shown} of ${rows.length} runs`;
  }
  field.addEventListener("input", filter);
  filter();
}
