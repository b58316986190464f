// A click on a column's name sorts by it, another one the other way round. Cells without a figure stay last.
const table = document.getElementById("figures"), body = table.tBodies[0];
const value = (row, column) => row.cells[column].dataset.value;
table.tHead.addEventListener("click", (event) => {
  const head = event.target.closest("th");
  if (!head || !event.target.closest("button")) return;
  const column = head.cellIndex, words = head.hasAttribute("data-words");
  const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
  const order = (a, b) => {
    const [x, y] = [value(a, column), value(b, column)];
    if (x === "" || y === "") return (x === "") - (y === "");
    return sign * (words ? x.localeCompare(y) : x - y);
  };
  body.append(...[...body.rows].sort(order));
});
