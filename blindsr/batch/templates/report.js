"use strict";
const rows = document.getElementById("rows");
const all = [...rows.querySelectorAll(".row")];
const find = id => document.getElementById(id);

rows.addEventListener("input", event => {
  const slider = event.target.closest(".slider");
  if (slider) slider.style.setProperty("--at", event.target.value + "%");
});

function value(row, key) {
  const text = row.getAttribute("data-" + key.replaceAll("_", "-"));
  if (key === "name") return text;
  return text === null ? NaN : text === "inf" ? Infinity : text === "-inf" ? -Infinity : Number(text);
}

// Names as people count, 9 before 10; what has no value comes last either way.
const byName = new Intl.Collator(undefined, {numeric: true}).compare;

function sort() {
  const key = find("sort").value, sign = find("order").getAttribute("aria-pressed") === "true" ? -1 : 1;
  const sorted = all.map(row => [value(row, key), row]).sort(([a], [b]) => {
    if (key === "name") return sign * byName(a, b);
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return a === b ? 0 : sign * (a < b ? -1 : 1);
  });
  rows.append(...sorted.map(([, row]) => row));
}

function filter() {
  const words = find("filter").value.toLowerCase(), doubtful = find("doubts").checked;
  let shown = 0;
  for (const row of all) {
    row.hidden = !row.dataset.name.toLowerCase().includes(words) || (doubtful && row.dataset.doubts === "0");
    shown += !row.hidden;
  }
  find("shown").textContent = shown === all.length ? "" : `${shown} of ${all.length}`;
}

find("sort").addEventListener("change", sort);
find("order").addEventListener("click", event => {
  const descending = event.target.getAttribute("aria-pressed") !== "true";
  event.target.setAttribute("aria-pressed", descending);
  event.target.textContent = descending ? "descending" : "ascending";
  sort();
});
find("filter").addEventListener("input", filter);
find("doubts").addEventListener("change", filter);
find("tools").addEventListener("submit", event => event.preventDefault());
filter();  // what a browser remembers of the form
if (find("sort").value !== "name") sort();
