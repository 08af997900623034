// The slider over the slices of a volume, or over the scans of one folder, with the urgent ones marked.

import { $, h, sign } from "./dom.js";
import { brief, plural, pressing, urgencyWord, verdict } from "./words.js";

let shown = []; // the stops that the marks stand for

/** The stops that belong together: slices of a volume, or finished scans of one folder. */
export function stopsOf(item, items) {
  if (item.slices.length > 1) return item.slices.map((slice, index) => ({ item, index, prediction: slice.prediction }));
  if (!item.group) return [];
  return items
    .filter((each) => each.group === item.group && each.state === "done" && each.slices.length === 1)
    .map((each) => ({ item: each, index: 0, prediction: each.slices[0].prediction }));
}

const positionOf = (stops, item) => stops.findIndex((stop) => stop.item === item && stop.index === item.slice);

export function renderStack(item, items) {
  const stops = stopsOf(item, items);
  $("stack").hidden = stops.length < 2;
  if (stops.length < 2) return;
  const at = positionOf(stops, item);
  const volume = item.slices.length > 1;
  const slider = $("slice");
  slider.max = stops.length - 1;
  slider.value = at;
  const { prediction } = stops[at];
  const what = volume ? "Slice" : "Scan";
  slider.setAttribute("aria-valuetext", `${what} ${at + 1} of ${stops.length}, ${urgencyWord(prediction.urgency)}, ${brief(prediction)}`);
  $("stack-title").textContent = `${what} ${at + 1} of ${stops.length}${volume ? "" : ` in ${item.folder.split("/").pop()}`}`;
  const urgent = stops.flatMap((stop, i) => (stop.prediction.urgency === "urgent" ? [i + 1] : []));
  $("next-urgent").hidden = !urgent.length;
  $("stack-note").textContent = urgent.length
    ? `Urgent: ${urgent.slice(0, 24).join(", ")}${urgent.length > 24 ? " …" : ""}.`
    : "No slice is urgent.";
  if (item.faults.length) $("stack-note").textContent += ` ${plural(item.faults.length, "slice")} could not be read: ${item.faults[0].message}.`;
  $("eyes").replaceChildren(...item.eyes.map(eyeRow));
  if (stops.length !== shown.length || stops.some((stop, i) => stop.prediction !== shown[i].prediction)) drawMarks(stops);
  $("marks").lastChild.style.left = `${(100 * at) / (stops.length - 1)}%`;
}

/** What the slices come to for the eye: the server's own judgement, docs/clinical.md. */
function eyeRow(eye) {
  const side = { R: "Right eye", L: "Left eye" }[eye.eye] ?? "This eye";
  const words = `${side}: ${verdict(eye).word}, ${brief(eye)}`;
  const left = eye.refused ? ` ${plural(eye.refused, "slice")} of ${eye.scans} left out.` : "";
  return h("li", {}, sign(eye.urgency), h("span", {}, h("b", { textContent: words }), h("span", { textContent: `${eye.explanation}${left}` })));
}

/** Height and shape tell urgency apart as well as colour. */
function drawMarks(stops) {
  shown = stops;
  const marks = stops.map((stop, i) => {
    const mark = h("i", { className: stop.prediction.urgency });
    mark.style.left = `${(100 * i) / (stops.length - 1)}%`;
    return mark;
  });
  $("marks").replaceChildren(...marks, h("i", { className: "at" }));
  $("marks").style.setProperty("--step", `${100 / (stops.length - 1)}%`);
}

/** The stop so many further; null at an end. */
export function step(item, items, by) {
  const stops = stopsOf(item, items);
  return stops[positionOf(stops, item) + by] ?? null;
}

export const stopAt = (item, items, index) => stopsOf(item, items)[index];

/** The next urgent stop after this one, and then from the first; null where none is. */
export function nextUrgent(item, items) {
  const stops = stopsOf(item, items);
  const at = positionOf(stops, item);
  const later = [...stops.slice(at + 1), ...stops.slice(0, at + 1)];
  return later.find((stop) => stop.prediction.urgency === "urgent") ?? null;
}

/** Where a volume is opened: at its most pressing slice. */
export function openingSlice(item) {
  const ranks = item.slices.map((slice) => pressing(slice.prediction));
  return ranks.indexOf(Math.min(...ranks));
}
