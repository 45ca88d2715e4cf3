"use strict";
const rows = document.getElementById("rows");
const all = [...rows.querySelectorAll(".pair")];
const find = id => document.getElementById(id);
const LARGEST = 16;

// What a row shows, the same part of each of its pictures: x and y in widths and heights of a picture.
const states = new WeakMap();
const state = views => states.get(views) ?? {zoom: 1, x: 0, y: 0};

function show(views, zoom, x, y) {
  zoom = Math.min(LARGEST, Math.max(1, zoom));
  [x, y] = [x, y].map(place => Math.min(0, Math.max(1 - zoom, place)));
  states.set(views, {zoom, x, y});
  const style = {zoom, x, y, rendering: zoom >= 4 ? "pixelated" : "auto", touch: zoom > 1 ? "none" : "pan-y"};
  for (const [name, value] of Object.entries(style)) views.style.setProperty("--" + name, value);
}

// The point (u, v) of a frame, from 0 to 1, stays where it is.
function zoomAt(views, factor, u = 0.5, v = 0.5) {
  const {zoom, x, y} = state(views);
  const real = Math.min(LARGEST, Math.max(1, zoom * factor)) / zoom;
  show(views, zoom * real, u - (u - x) * real, v - (v - y) * real);
}

rows.addEventListener("wheel", event => {
  const frame = event.target.closest(".frame");
  if (!frame || !event.ctrlKey) return;
  event.preventDefault();
  const box = frame.getBoundingClientRect();
  zoomAt(frame.closest(".views"), 2 ** (-event.deltaY / 200),
    (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
}, {passive: false});

rows.addEventListener("pointerdown", event => {
  const frame = event.target.closest(".frame");
  if (!frame || event.button) return;
  const views = frame.closest(".views"), box = frame.getBoundingClientRect(), start = state(views);
  if (start.zoom === 1) return;
  frame.setPointerCapture(event.pointerId);
  frame.onpointermove = move => show(views, start.zoom,
    start.x + (move.clientX - event.clientX) / box.width, start.y + (move.clientY - event.clientY) / box.height);
  frame.onpointerup = frame.onpointercancel = () => { frame.onpointermove = null; };
});

rows.addEventListener("keydown", event => {
  const views = event.target.closest(".views");
  if (!views || event.ctrlKey || event.metaKey) return;
  const {zoom, x, y} = state(views), step = 0.1;
  const actions = {"+": () => zoomAt(views, 1.25), "-": () => zoomAt(views, 0.8)};
  if (zoom > 1) Object.assign(actions, {
    ArrowLeft: () => show(views, zoom, x + step, y), ArrowRight: () => show(views, zoom, x - step, y),
    ArrowUp: () => show(views, zoom, x, y + step), ArrowDown: () => show(views, zoom, x, y - step)});
  if (!(event.key in actions)) return;
  event.preventDefault();
  actions[event.key]();
});

find("zoom").addEventListener("input", event => {
  const zoom = 2 ** Number(event.target.value);
  for (const views of rows.querySelectorAll(".views")) zoomAt(views, zoom / state(views).zoom);
});

const byName = new Intl.Collator(undefined, {numeric: true}).compare;

function sort() {
  const key = "data-" + find("sort").value;
  const value = row => row.getAttribute(key);
  const number = row => Number(value(row) ?? -Infinity);
  rows.append(...[...all].sort((a, b) => key === "data-name" ? byName(value(a), value(b)) : number(b) - number(a) || 0));
}

find("sort").addEventListener("change", sort);
find("filter").addEventListener("input", () => {
  const words = find("filter").value.toLowerCase();
  for (const row of all) row.hidden = !row.dataset.name.toLowerCase().includes(words);
  const shown = all.filter(row => !row.hidden).length;
  find("shown").textContent = shown === all.length ? "" : `${shown} of ${all.length}`;
});
find("tools").addEventListener("submit", event => event.preventDefault());
