"use strict";
// Sorts a table by the column whose header is clicked: numbers by value, what was not measured last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  for (const head of table.querySelectorAll("thead th[aria-sort]")) {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      const numeric = head.classList.contains("number");
      const keyed = [...body.rows].map((row) => {
        const text = row.cells[head.cellIndex].textContent;
        return { row, key: numeric ? parseFloat(text) : text };
      });
      const compare = numeric
        ? (a, b) => a - b
        : (a, b) => a.localeCompare(b, "en", { numeric: true });
      keyed.sort((a, b) => {
        if (Number.isNaN(a.key) || Number.isNaN(b.key)) {
          return Number.isNaN(a.key) - Number.isNaN(b.key);
        }
        return (up ? 1 : -1) * compare(a.key, b.key);
      });
      body.append(...keyed.map(({ row }) => row));
      for (const other of table.querySelectorAll("thead th[aria-sort]")) {
        other.setAttribute("aria-sort", other === head ? (up ? "ascending" : "descending") : "none");
      }
    });
  }
}
