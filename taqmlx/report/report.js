"use strict";

// Tables can be sorted by their heads and searched; printing shows what is folded away.

function readKey(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.value === undefined) return cell.firstChild ? cell.firstChild.textContent : "";
  return cell.dataset.value === "" ? null : Number(cell.dataset.value);
}

function compare(a, b) {
  return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
}

function sortTable(table, column) {
  const heads = [...table.tHead.rows[0].cells];
  const sign = heads[column].getAttribute("aria-sort") === "ascending" ? -1 : 1;
  heads.forEach((head, index) => {
    head.setAttribute("aria-sort", index !== column ? "none" : sign > 0 ? "ascending" : "descending");
  });
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, key: readKey(row, column) }));
  // Rows without a value stay last in both orders.
  rows.sort((a, b) => {
    if (a.key === null || b.key === null) return (a.key === null) - (b.key === null);
    return a.key === b.key ? 0 : sign * compare(a.key, b.key);
  });
  body.append(...rows.map(({ row }) => row));
}

function filterRows(table, words, output) {
  const rows = [...table.tBodies[0].rows];
  for (const row of rows) {
    const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
  }
  const left = rows.filter((row) => !row.hidden).length;
  const count = left === rows.length ? String(left) : `${left} of ${rows.length}`;
  output.textContent = `${count} ${output.dataset.unit}`;
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.querySelectorAll("thead button").forEach((button, column) => {
    button.addEventListener("click", () => sortTable(table, column));
  });
  const search = table.closest(".table").querySelector("input");
  const output = table.closest(".table").querySelector("output");
  search.addEventListener("input", () => {
    filterRows(table, search.value.toLowerCase().split(/\s+/).filter(Boolean), output);
  });
}

addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details.plot:not([open])")) {
    details.open = true;
    details.dataset.folded = "";
  }
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-folded]")) {
    details.open = false;
    delete details.dataset.folded;
  }
});
