// Tables of a report: click a heading to sort, type to filter, click an outcome to see its nodes.
for (const heading of document.querySelectorAll("th[data-sort]")) {
  heading.addEventListener("click", () => {
    const up = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = heading.closest("table").tBodies[0];
    const key = (row) => row.cells[heading.cellIndex].dataset.value ?? row.cells[heading.cellIndex].textContent;
    const compare = (a, b) =>
      heading.dataset.sort === "number" ? Number(key(a)) - Number(key(b)) : key(a).localeCompare(key(b));
    body.append(...[...body.rows].sort((a, b) => (up ? compare(a, b) : compare(b, a))));
  });
}
const filter = document.getElementById("filter");
if (filter) {
  const rows = [...document.querySelectorAll("#ledger tbody tr")];
  const apply = () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    for (const row of rows) row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
  };
  filter.addEventListener("input", apply);
  for (const chip of document.querySelectorAll(".chips button")) {
    chip.addEventListener("click", () => {
      filter.value = filter.value === chip.dataset.word ? "" : chip.dataset.word;
      apply();
    });
  }
}
