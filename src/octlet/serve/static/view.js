// One result: verdict, scan beside heatmap, bars. A refusal comes first, and the class only when asked for.

import { nameOf } from "./csv.js";
import { $, h, setSign } from "./dom.js";
import { paint, place } from "./heat.js";
import { LABELS, NAMES, isRefused, membership, percent, setWords, verdict } from "./words.js";

let slice = null; // what is shown
let label = "CNV"; // whose map is
let second = false; // whether a refused scan's class is shown all the same

export function showOnly(id) {
  for (const each of ["empty", "failure", "result"]) $(each).hidden = each !== id;
}

export function showFailure(item) {
  showOnly("failure");
  slice = null;
  const failed = item.state === "failed";
  $("failure-title").textContent = failed ? "No result for this file" : "Not read yet";
  $("failure").querySelector("svg").style.display = failed ? "" : "none";
  $("failure-file").textContent = item.path;
  $("failure-message").textContent = failed ? sentence(item.error.message) : "It waits for its turn.";
  $("failure-remedy").textContent = failed ? sentence(item.error.remedy) : "";
  $("retry").hidden = !failed;
}

const sentence = (text) => (text ? text[0].toUpperCase() + text.slice(1).replace(/([^.!?])$/, "$1.") : "");

export function showResult(item) {
  showOnly("result");
  const next = item.slices[item.slice];
  if (next === slice) return; // it is shown: the queue goes on beside it
  second = false;
  slice = next;
  label = slice.prediction.label;
  const { prediction } = slice;
  showVerdict(prediction);
  showScan(item);
  showBars(prediction);
  showFacts(item);
  showSecond();
  showMap();
}

function showVerdict(prediction) {
  const told = verdict(prediction);
  $("verdict").className = `verdict ${told.sign}`;
  setSign($("verdict").querySelector("svg"), told.sign);
  $("verdict-word").textContent = told.word;
  $("verdict-line").textContent = told.line;
  $("verdict-why").textContent = told.why;
  $("verdict-share").textContent = told.share;
}

/** Of a refused scan the class is second-hand: it and its map are shown when asked for. */
function showSecond() {
  const refused = isRefused(slice.prediction);
  $("second").hidden = !refused;
  $("second").setAttribute("aria-expanded", String(second));
  $("second").textContent = second ? "Hide what the model would have said" : "What the model would have said";
  $("result").dataset.refused = String(refused);
  $("measures-title").textContent = refused ? "Had it been judged: do not rely on this" : "How probable";
  for (const id of ["heat", "measures"]) $(id).hidden = refused && !second;
}

export function toggleSecond() {
  second = !second;
  showSecond();
  showMap();
}

function showScan(item) {
  const url = slice.url ?? item.url;
  for (const id of ["scan", "under"]) {
    const image = $(id);
    if (image.getAttribute("src") !== url) image.src = url;
  }
  place($("scan").parentNode, null, slice.map);
  place($("under").parentNode, $("map"), slice.map);
  const name = nameOf(item, slice.prediction);
  $("scan").alt = `B-scan ${name}`;
  $("file").textContent = name;
}

export const seen = (shown) => { $("unseen").hidden = shown; };

function showBars(prediction) {
  const rows = LABELS.map((each) => {
    const share = prediction.probabilities[each];
    const inSet = prediction.set?.includes(each) ?? false;
    const fill = h("i");
    fill.style.width = `${100 * share}%`;
    const words = [h("b", { textContent: each }), h("span", { className: "full", textContent: NAMES[each] })];
    const member = h("span", { className: "member", textContent: membership(prediction, each) });
    return h(
      "li",
      { className: `${inSet ? "in" : "out"}${each === prediction.label ? " top" : ""}`, data: { label: each } },
      h("span", { className: "words" }, ...words),
      h("span", { className: "digits", textContent: percent(share) }),
      h("span", { className: "track", "aria-hidden": "true" }, fill),
      member,
    );
  });
  $("bars").replaceChildren(...rows);
  $("bars").classList.toggle("with-set", Boolean(prediction.set));
  $("set").textContent = setWords(prediction);
}

function showFacts(item) {
  const { name, sha256, engine } = item.model;
  const facts = { Model: name, "SHA-256": sha256, Engine: engine, Read: item.time };
  $("facts").replaceChildren(
    ...Object.entries(facts).map(([term, text]) => h("div", {}, h("dt", { textContent: term }), h("dd", { textContent: text }))),
  );
}

// The map ------------------------------------------------------------------------------------------------

export function makeClasses(changed) {
  for (const each of LABELS) {
    const input = h("input", { type: "radio", name: "class", value: each, on: { change: () => changed(each) } });
    $("classes").append(h("label", {}, input, h("span", { textContent: each })));
  }
}

export function showMap(chosen = label) {
  label = chosen;
  for (const input of $("classes").querySelectorAll("input")) input.checked = input.value === label;
  if (!slice || $("heat").hidden) return;
  paint($("map"), slice.map, label);
  const strongest = Math.max(...slice.map.evidence[label].flat());
  const words = strongest ? `Brighter: the scan speaks more for ${label}.` : `Nothing in this scan speaks for ${label}.`;
  $("map").setAttribute("aria-label", `Where the scan speaks for ${label}, laid over it. ${words}`);
  $("caption").textContent =
    `${words} One scale for all four classes of this scan, up to its strongest evidence; ` +
    "what speaks against a class is not drawn. The dashed frame is what the model looked at.";
}

export function setOpacity(value) {
  $("opacity").value = value;
  $("opacity-value").textContent = `${$("opacity").value} %`;
  $("map").style.opacity = $("opacity").value / 100;
}
