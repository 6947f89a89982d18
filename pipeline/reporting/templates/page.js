"use strict";
// Filter, sort and the drawer. Without this script the page shows the same: every number links to its runs.
const cellValue = (row, column) => {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim().toLowerCase();
};

const compare = (a, b) => {
  if (typeof a === typeof b) return a < b ? -1 : a > b ? 1 : 0;
  return typeof a === "number" ? -1 : 1;
};

const sortBy = (table, column, button) => {
  const body = table.tBodies[0];
  const numbers = [...body.rows].some((row) => typeof cellValue(row, column) === "number");
  // The first press brings the best number, or the first name, to the top; the next one turns the order round.
  const before = button.parentElement.getAttribute("aria-sort");
  const rising = before ? before === "descending" : !numbers;
  const sign = rising ? 1 : -1;
  const rows = [...body.rows].map((row) => [cellValue(row, column), row]);
  rows.sort(([a], [b]) => {
    const mixed = numbers && typeof a !== typeof b;
    return mixed ? compare(a, b) : sign * compare(a, b);
  });
  table.querySelectorAll("[aria-sort]").forEach((head) => head.removeAttribute("aria-sort"));
  button.parentElement.setAttribute("aria-sort", rising ? "ascending" : "descending");
  body.append(...rows.map(([, row]) => row));
};

// The place of a head among the cells of a row: the first head spans both header rows.
const columnOf = (head, table) => {
  const rows = table.tHead.rows;
  const inSecond = rows.length > 1 && head.parentElement === rows[1];
  return head.cellIndex + (inSecond ? 1 : 0);
};

for (const label of document.querySelectorAll("th > .sort")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "sort";
  button.textContent = label.textContent;
  label.replaceWith(button);
  const table = button.closest("table");
  button.addEventListener("click", () => sortBy(table, columnOf(button.parentElement, table), button));
}

for (const tools of document.querySelectorAll(".tools")) {
  const [text, ours] = tools.querySelectorAll("input");
  const body = tools.nextElementSibling.querySelector("tbody");
  const theirs = body.querySelector("tr.theirs");
  tools.hidden = body.rows.length < 4;
  ours.parentElement.hidden = theirs === null;
  const update = () => {
    for (const row of body.rows) {
      const named = row.cells[0].textContent.toLowerCase().includes(text.value.trim().toLowerCase());
      row.hidden = !named || (ours.checked && row.classList.contains("theirs"));
    }
  };
  text.addEventListener("input", update);
  ours.addEventListener("change", update);
}

const drawer = document.getElementById("drawer");
const shown = drawer.querySelector("div");
drawer.querySelector(".close").addEventListener("click", () => drawer.close());
drawer.addEventListener("click", (event) => {
  if (event.target === drawer) drawer.close();
});

for (const link of document.querySelectorAll("td.ours > a")) {
  link.addEventListener("click", (event) => {
    event.preventDefault();
    const panel = document.getElementById(link.hash.slice(1));
    const title = document.createElement("h3");
    title.append(...panel.closest("details").querySelector("summary").cloneNode(true).childNodes);
    const copy = panel.cloneNode(true);
    copy.removeAttribute("id");
    shown.replaceChildren(title, copy);
    drawer.showModal();
  });
}
