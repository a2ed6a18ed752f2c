"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    const value = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...body.rows].sort((one, two) => {
        const [a, b] = [value(one), value(two)];
        // What is not known comes last, either way.
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = Number.isNaN(a - b) ? a.localeCompare(b) : a - b;
        return up ? order : -order;
      });
      body.append(...rows);
    });
  });
}
const code = document.getElementById("code");
code?.addEventListener("click", () => {
  const open = code.getAttribute("aria-pressed") !== "true";
  code.setAttribute("aria-pressed", open);
  code.textContent = open ? "Hide all code" : "Show all code";
  for (const cell of document.querySelectorAll("details.code")) cell.open = open;
});
// The appendix opens for who follows a link into it, and on paper.
const appendix = document.querySelector("details.appendix");
if (appendix) {
  const follow = () => {
    const place = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!place || !appendix.contains(place)) return;
    appendix.open = true;
    place.scrollIntoView();
  };
  addEventListener("hashchange", follow);
  follow();
  // A second click on the link changes no hash.
  document.getElementById("contents").addEventListener("click", (event) => {
    if (event.target.hash === location.hash) follow();
  });
  addEventListener("beforeprint", () => {
    if (appendix.open) return;
    appendix.open = true;
    addEventListener("afterprint", () => { appendix.open = false; }, { once: true });
  });
}
