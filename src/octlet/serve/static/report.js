// The printed report: one page a file, made when its result comes, so that Ctrl+P finds its pictures loaded.

import { nameOf } from "./csv.js";
import { $, h, sign } from "./dom.js";
import { paint, place } from "./heat.js";
import { summary } from "./history.js";
import { openingSlice } from "./stack.js";
import { LABELS, NAMES, brief, isRefused, membership, percent, plural, setWords, urgencyWord, verdict } from "./words.js";

const sheets = new Map(); // item -> its page

export function addSheet(item) {
  const sheet = makeSheet(item);
  sheets.get(item)?.remove();
  sheets.set(item, sheet);
  $("report").append(sheet);
}

export function clearSheets() {
  sheets.clear();
  $("report").replaceChildren();
}

/** Print all results in the order of the list, or one alone. */
export async function printOut(items) {
  const wanted = items.filter((item) => sheets.has(item));
  $("report").replaceChildren(...wanted.map((item) => sheets.get(item)));
  await Promise.all([...$("report").querySelectorAll("img")].map((image) => image.decode().catch(() => {})));
  addEventListener("afterprint", () => $("report").replaceChildren(...sheets.values()), { once: true });
  print();
}

function makeSheet(item) {
  const slice = item.slices[item.slices.length > 1 ? openingSlice(item) : 0];
  const { prediction } = slice;
  const refused = isRefused(prediction);
  return h(
    "section",
    { className: "sheet" },
    h("header", {}, h("b", { textContent: "Octlet" }), h("span", { textContent: $("notice").textContent })),
    h("h2", { textContent: item.path }),
    ...volumeWords(item, prediction),
    saidOf(prediction),
    h("div", { className: "pictures" }, picture(item, slice, "Scan"), ...(refused ? [] : [picture(item, slice, heatWords(prediction.label), prediction.label)])),
    ...(refused ? [h("p", { className: "aside", textContent: `Had it been accepted: ${prediction.label}, ${percent(prediction.probabilities[prediction.label])}. Do not rely on it.` })] : [barsOf(prediction)]),
    footOf(item),
  );
}

function volumeWords(item, prediction) {
  if (item.slices.length < 2) return [];
  const whole = summary(item);
  const urgent = item.slices.filter((slice) => slice.prediction.urgency === "urgent").length;
  const words = `${plural(item.slices.length, "slice")}, ${urgent} urgent. In all: ${urgencyWord(whole.urgency)}, ${brief(whole)}. Below: ${nameOf(item, prediction)}, the most pressing.`;
  return [h("p", { textContent: words })];
}

function saidOf(prediction) {
  const told = verdict(prediction);
  return h(
    "div",
    { className: `said ${told.sign}` },
    sign(told.sign),
    h("div", {}, h("b", { textContent: told.word }), h("p", { textContent: `${told.line} ${told.share}` }), h("p", { textContent: told.why })),
  );
}

const heatWords = (label) => `Heatmap: brighter, the scan speaks more for ${label}. The dashed frame is what the model looked at.`;

function picture(item, slice, words, label) {
  const image = h("img", { alt: "", src: slice.url ?? item.url });
  const stage = h("div", { className: "stage" }, image);
  if (label) {
    const canvas = h("canvas", { className: "printed" });
    paint(canvas, slice.map, label, 192);
    stage.append(canvas);
    place(stage, canvas, slice.map);
  } else place(stage, null, slice.map);
  return h("figure", {}, stage, h("figcaption", { textContent: words }));
}

function barsOf(prediction) {
  const rows = LABELS.map((label) => {
    const share = prediction.probabilities[label];
    const fill = h("i");
    fill.style.width = `${100 * share}%`;
    return h(
      "tr",
      {},
      h("th", { scope: "row", textContent: label }),
      h("td", { textContent: NAMES[label] }),
      h("td", { className: "digits", textContent: percent(share) }),
      h("td", { className: "track" }, h("span", {}, fill)),
      h("td", { textContent: membership(prediction, label) }),
    );
  });
  return h("div", {}, h("table", {}, h("tbody", {}, ...rows)), h("p", { className: "aside", textContent: setWords(prediction) }));
}

function footOf(item) {
  const { name, sha256, engine } = item.model;
  return h(
    "footer",
    {},
    h("p", { textContent: `Model ${name} (${engine}), SHA-256 ${sha256}` }),
    h("p", { textContent: `Read ${item.time}. ${$("notice").textContent}` }),
  );
}
