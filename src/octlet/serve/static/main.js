// Wires the parts: what is added is queued, what is answered is listed, what is chosen is shown.

import { health, isShown, setToken } from "./api.js";
import { csvOf, save } from "./csv.js";
import { $, announce } from "./dom.js";
import { fromDrop, fromInput } from "./files.js";
import { focusRow, inOrder, renderList, summary } from "./history.js";
import { listen } from "./keys.js";
import { Queue } from "./queue.js";
import { addSheet, clearSheets, printOut } from "./report.js";
import { nextUrgent, openingSlice, renderStack, step, stopAt } from "./stack.js";
import { makeClasses, seen, setOpacity, showFailure, showMap, showOnly, showResult, toggleSecond } from "./view.js";
import { brief, plural, setCoverage, urgencyWord } from "./words.js";

let current = null; // the item that is shown
let awaited = null; // of what was added last: shown once it is done
let batches = 0;
let model = null;

const queue = new Queue(changed);
queue.fault = (error) => { if (error.code === "no-token") askToken(true); };

// Adding -------------------------------------------------------------------------------------------------

function add({ taken, left }) {
  $("left-out").hidden = !left;
  $("left-out").textContent = left ? `${plural(left, "file")} left out: not scans by their names, or unreadable.` : "";
  if (!taken.length) return;
  batches += 1;
  const items = taken.map(({ file, path, folder }) => ({
    file, path, folder, group: folder && `${batches} ${folder}`, state: "waiting", slice: 0,
    url: isShown(file.name) ? URL.createObjectURL(file) : null,
  }));
  [awaited] = items;
  queue.add(items);
}

/** Keep what the answer brought: when it came, the pictures that the server sent, and a page of the report. */
function finished(item) {
  item.time = new Date().toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  for (const slice of item.slices) if (slice.png) slice.url = pictureOf(slice);
  item.slice = openingSlice(item);
  addSheet(item);
  if (model && item.model.sha256 !== model.sha256) hello();
}

function pictureOf(slice) {
  const bytes = Uint8Array.from(atob(slice.png), (character) => character.charCodeAt(0));
  delete slice.png;
  return URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
}

function changed(item) {
  const over = item?.state === "done" || item?.state === "failed";
  if (item?.state === "done" && !item.time) finished(item);
  if ((item && item === awaited && over) || !current) choose(awaited ?? item ?? null, false);
  render();
  if (over && queue.waiting.length < 3) tell(item, queue.waiting.length ? "" : $("count").textContent);
}

/** Say it to a screen reader; of a long queue only the last results, and what they all came to. */
function tell(item, more = "") {
  const told = summary(item);
  const words = told ? `${urgencyWord(told.urgency)}, ${brief(told)}.` : `no result. ${item.error?.message ?? ""}`;
  announce(`${item.path}: ${words} ${more}`);
}

// Showing ------------------------------------------------------------------------------------------------

function choose(item, asked = true) {
  current = item;
  if (asked) awaited = null;
  render();
  if (!item || !asked) return;
  focusRow(item);
  if (document.activeElement === document.body) tell(item); // else what has the focus says it
}

/** A row was pressed: where the result stands below the list, it comes into view. */
function opened(item) {
  choose(item);
  if (matchMedia("(max-width: 60rem)").matches) $("viewer").scrollIntoView();
}

function chooseStop(stop) {
  if (!stop) return;
  stop.item.slice = stop.index;
  choose(stop.item);
}

function render() {
  const { items } = queue;
  document.body.dataset.empty = String(!items.length);
  renderList(items, current, $("sort").value, opened);
  const results = items.filter((item) => item.state === "done");
  $("sorting").hidden = items.length < 2;
  $("taking").hidden = !items.length;
  $("csv").disabled = $("print").disabled = !results.length;
  renderProgress(items);
  if (!current) return showOnly("empty");
  if (current.state !== "done") return showFailure(current);
  showResult(current);
  renderStack(current, items);
}

function renderProgress(items) {
  const waiting = queue.waiting.length;
  const halted = queue.paused && waiting > 0;
  $("progress").hidden = !waiting;
  $("cancel").hidden = halted;
  $("resume").hidden = !halted;
  $("progress-bar").max = items.length || 1;
  $("progress-bar").value = items.length - waiting;
  const place = `${items.length - waiting + 1} of ${items.length}`;
  const words = halted ? `${plural(waiting, "file")} not sent.` : `Reading ${place}`;
  $("progress-text").textContent = [words, queue.note].filter(Boolean).join(" ");
  document.title = waiting && !halted ? `${place} – Octlet` : "Octlet";
}

function move(by) {
  const ordered = inOrder(queue.items, $("sort").value);
  const next = ordered[current ? ordered.indexOf(current) + by : 0];
  if (next) choose(next);
}

// Token, model, theme ------------------------------------------------------------------------------------

async function hello() {
  try {
    const told = await health();
    model = told.model;
    if (model.coverage) setCoverage(model.coverage);
    queue.limit = told.limits.upload_bytes;
    $("model").textContent = `${model.name} · SHA-256 ${model.sha256.slice(0, 12)} · ${model.engine} · verified at the start · Octlet ${told.version}`;
    $("model").title = model.sha256;
    $("place").textContent = location.host;
    document.documentElement.dataset.ready = "true";
    performance.mark("usable"); // benchmarks/page.py
    return true;
  } catch (error) {
    $("model").textContent = `${error.message} ${error.remedy ?? ""}`;
    if (error.code === "no-token") askToken(false);
    return false;
  }
}

let refusedBefore = false;

function askToken(wrong) {
  $("token-wrong").textContent = wrong || refusedBefore ? "The server does not know this token." : "";
  if (!$("ask-token").open) $("ask-token").showModal();
}

async function gotToken(event) {
  event.preventDefault();
  setToken($("token").value.trim());
  $("token").value = "";
  $("ask-token").close();
  refusedBefore = true;
  if (await hello()) {
    refusedBefore = false;
    if (queue.waiting.length) queue.resume();
  }
}

const THEMES = ["auto", "light", "dark"];

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  $("theme-name").textContent = name[0].toUpperCase() + name.slice(1);
  $("theme").setAttribute("aria-label", `Colours: ${name}`);
}

function nextTheme() {
  const name = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length];
  setTheme(name);
  try {
    localStorage.setItem("octlet-theme", name);
  } catch { /* storage is switched off: it lasts until the page closes */ }
}

// Taking away --------------------------------------------------------------------------------------------

function saveCsv() {
  if ($("csv").disabled) return;
  save(csvOf(inOrder(queue.items, $("sort").value)), "octlet.csv");
}

function clear() {
  for (const item of queue.items) {
    for (const url of [item.url, ...(item.slices ?? []).map((slice) => slice.url)]) if (url) URL.revokeObjectURL(url);
  }
  current = awaited = null;
  clearSheets();
  queue.clear();
  $("left-out").hidden = true;
  $("choose-files").focus();
  announce("The sitting is cleared.");
}

// Listening ----------------------------------------------------------------------------------------------

function onClick(acts) {
  for (const [id, act] of Object.entries(acts)) $(id).addEventListener("click", act);
}

onClick({
  "add-files": () => $("files").click(),
  "add-folder": () => $("folder").click(),
  "choose-files": () => $("files").click(),
  "choose-folder": () => $("folder").click(),
  cancel: () => { queue.pause(); render(); },
  resume: () => queue.resume(),
  retry: () => queue.resume(current),
  second: toggleSecond,
  "next-urgent": () => chooseStop(nextUrgent(current, queue.items)),
  csv: saveCsv,
  print: () => printOut(inOrder(queue.items, $("sort").value)),
  "print-one": () => printOut([current]),
  clear: () => $("ask-clear").showModal(),
  theme: nextTheme,
  help: () => $("keys").showModal(),
});
for (const id of ["files", "folder"]) {
  $(id).addEventListener("change", () => {
    add(fromInput($(id)));
    $(id).value = ""; // the same file may be chosen again
  });
}
$("sort").addEventListener("change", render);
$("scan").addEventListener("load", () => seen(true));
$("scan").addEventListener("error", () => seen(false));
$("opacity").addEventListener("input", () => setOpacity($("opacity").value));
$("slice").addEventListener("input", () => chooseStop(stopAt(current, queue.items, Number($("slice").value))));
$("token-form").addEventListener("submit", gotToken);
$("ask-clear").addEventListener("close", () => {
  if ($("ask-clear").returnValue === "yes") clear();
  $("ask-clear").returnValue = "";
});

addEventListener("dragover", (event) => {
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  $("dropping").hidden = false;
});
addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("dropping").hidden = true; });
addEventListener("drop", async (event) => {
  event.preventDefault();
  $("dropping").hidden = true;
  add(await fromDrop(event.dataTransfer));
});
addEventListener("beforeunload", (event) => { if (queue.items.length) event.preventDefault(); });

const opacityBy = (by) => setOpacity(Number($("opacity").value) + by);
const slideBy = (by) => { if (current?.state === "done") chooseStop(step(current, queue.items, by)); };

listen([
  [["j", "ArrowDown"], "Next result", () => move(1)],
  [["k", "ArrowUp"], "Result before", () => move(-1)],
  [["l", "ArrowRight"], "Next slice", () => slideBy(1)],
  [["h", "ArrowLeft"], "Slice before", () => slideBy(-1)],
  [["n"], "Next urgent slice", () => { if (current?.state === "done") chooseStop(nextUrgent(current, queue.items)); }],
  [["1", "2", "3", "4"], "Heatmap of CNV, DME, drusen, normal", (key) => showMap(["CNV", "DME", "DRUSEN", "NORMAL"][key - 1])],
  [["+", "-"], "Heatmap stronger, fainter", (key) => opacityBy(key === "+" ? 10 : -10)],
  [["0"], "Heatmap off or on", () => setOpacity(Number($("opacity").value) ? 0 : 70)],
  [["u"], "Order by urgency, or as they came", () => { $("sort").value = $("sort").value === "urgency" ? "arrival" : "urgency"; render(); }],
  [["a"], "Add files", () => $("files").click()],
  [["c"], "Save CSV", saveCsv],
  [["p"], "Print report", () => { if (!$("print").disabled) $("print").click(); }],
  [["t"], "Colours: auto, light, dark", nextTheme],
  [["?"], "This list", () => $("keys").showModal()],
]);
makeClasses(showMap);
setOpacity(70);
setTheme(document.documentElement.dataset.theme);
render();
hello();
