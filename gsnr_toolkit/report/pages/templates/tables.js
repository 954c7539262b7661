"use strict";
(() => {
  const order = (row, column) => row.cells[column].dataset.order;

  /* What has no number goes last, whichever way; equal rows stay in the order of the file. */
  function compare(first, second, column, numeric, sign) {
    const a = order(first, column), b = order(second, column);
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    if (!numeric) return sign * a.localeCompare(b, undefined, { numeric: true });
    const x = Number(a), y = Number(b);
    return x === y ? 0 : sign * (x < y ? -1 : 1);
  }

  function makeSortable(table) {
    const body = table.tBodies[0], rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      head.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const next = { none: "ascending", ascending: "descending", descending: "none" }[head.getAttribute("aria-sort")];
        for (const other of heads) other.setAttribute("aria-sort", "none");
        head.setAttribute("aria-sort", next);
        const sign = next === "descending" ? -1 : 1, numeric = head.classList.contains("number");
        const sorted = next === "none" ? rows : [...rows].sort((a, b) => compare(a, b, column, numeric, sign));
        body.append(...sorted);
      });
    });
  }

  function makeSearchable(table) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length < 16) return;
    const label = document.createElement("label"), input = document.createElement("input");
    const count = document.createElement("output");
    label.className = "find";
    input.type = "search";
    label.append("Rows with", input, count);
    const update = () => {
      const wanted = input.value.trim().toLowerCase();
      for (const row of rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
      const shown = rows.filter((row) => !row.hidden).length;
      count.textContent = `${shown} of ${rows.length}`;
    };
    input.addEventListener("input", update);
    update();
    table.closest(".scroll").before(label);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    makeSortable(table);
    makeSearchable(table);
  }
})();
