"use strict";

// Numbers by their full precision, texts as a reader would; what is missing stays last in both directions.
function sortBy(table, column, descending) {
  const body = table.tBodies[0];
  const keyed = Array.from(body.rows, (row) => {
    const cell = row.cells[column];
    const text = cell.textContent.trim();
    return { row, text, number: "order" in cell.dataset ? Number(cell.dataset.order) : NaN };
  });
  const missing = (entry) => Number.isNaN(entry.number) && (entry.text === "-" || entry.text === "");
  keyed.sort((a, b) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    const numeric = !Number.isNaN(a.number) && !Number.isNaN(b.number);
    // Infinities of one sign differ by NaN: they are equal.
    const difference = numeric ? a.number - b.number || 0 : a.text.localeCompare(b.text, "en", { numeric: true });
    return descending ? -difference : difference;
  });
  body.append(...keyed.map((entry) => entry.row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = Array.from(table.tHead.rows[0].cells);
  headings.forEach((heading, column) => {
    heading.firstElementChild.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sortBy(table, column, descending);
    });
  });
}

for (const figure of document.querySelectorAll("button.figure")) {
  figure.addEventListener("click", () => figure.classList.toggle("large"));
}

// The contents fold on a narrow screen, and mark the section that is being read on a wide one.
const contents = document.querySelector("nav details");
contents.open = window.matchMedia("(min-width: 80rem)").matches;
const links = new Map(Array.from(document.querySelectorAll("nav a"), (link) => [link.getAttribute("href"), link]));
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    links.forEach((link) => link.removeAttribute("aria-current"));
    links.get(`#${entry.target.id}`)?.setAttribute("aria-current", "true");
  }
}, { rootMargin: "0px 0px -70% 0px" });
document.querySelectorAll("main section[id]").forEach((section) => watcher.observe(section));

window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((details) => { details.open = true; });
});
