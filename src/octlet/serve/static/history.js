// The list of the sitting: one row a file, in the order of arrival or of urgency.

import { $, h, setSign, sign } from "./dom.js";
import { brief, plural, pressing, urgencyWord } from "./words.js";

const rows = new Map(); // item -> its elements

/** What the whole item comes to: a volume's most pressing eye, else its most pressing slice. */
export function summary(item) {
  if (!item.slices?.length) return null;
  const candidates = item.eyes.length ? item.eyes : item.slices.map((slice) => slice.prediction);
  return candidates.reduce((a, b) => (pressing(b) < pressing(a) ? b : a));
}

/** Return the items in the order that is chosen; what has no result comes last. */
export function inOrder(items, sort) {
  if (sort !== "urgency") return items;
  const rank = (item) => (item.state === "done" ? pressing(summary(item)) : Infinity);
  const ranks = new Map(items.map((item) => [item, rank(item)]));
  return [...items].sort((a, b) => (ranks.get(a) === ranks.get(b) ? 0 : ranks.get(a) - ranks.get(b)));
}

export function renderList(items, current, sort, choose) {
  for (const item of rows.keys()) if (!items.includes(item)) rows.delete(item);
  const ordered = inOrder(items, sort);
  for (const item of ordered) {
    if (!rows.has(item)) rows.set(item, makeRow(item, choose));
    updateRow(rows.get(item), item, item === current);
  }
  const wanted = ordered.map((item) => rows.get(item).row);
  const list = $("list");
  if (wanted.length !== list.children.length || wanted.some((row, i) => list.children[i] !== row)) {
    const focused = document.activeElement;
    list.replaceChildren(...wanted);
    if (list.contains(focused)) focused.focus(); // moving an element takes the focus from it
  }
  $("nothing").hidden = items.length > 0;
  $("count").textContent = tally(items);
}

function makeRow(item, choose) {
  const picture = h("span", { className: "thumb" });
  const mark = sign("waiting");
  const name = h("span", { className: "name", textContent: item.path.split("/").pop(), title: item.path });
  const folder = h("span", { className: "folder", textContent: item.folder });
  const word = h("b");
  const said = h("span");
  const button = h(
    "button",
    { type: "button", className: "entry", on: { click: () => choose(item) } },
    picture,
    h("span", { className: "text" }, name, ...(item.folder ? [folder] : []), h("span", { className: "said" }, mark, word, said)),
  );
  return { row: h("li", {}, button), button, picture, mark, word, said };
}

function updateRow({ button, picture, mark, word, said }, item, current) {
  if (current) button.setAttribute("aria-current", "true");
  else button.removeAttribute("aria-current");
  const url = item.slices?.[item.slice].url ?? item.url;
  if (url && !picture.firstChild) {
    const gone = (event) => event.target.remove(); // not a picture: the row says so
    picture.append(h("img", { alt: "", draggable: false, loading: "lazy", decoding: "async", src: url, on: { error: gone } }));
  }
  const told = item.state === "done" ? summary(item) : null;
  setSign(mark, told ? told.urgency : item.state === "failed" ? "failed" : "waiting");
  button.dataset.state = told ? told.urgency : item.state;
  const refused = told?.urgency === "unknown";
  word.textContent = told ? (refused ? brief(told) : urgencyWord(told.urgency)) : { failed: "No result", sending: "Reading …" }[item.state] ?? "Waiting";
  said.textContent = told && !refused ? brief(told) : "";
  if (item.slices?.length > 1) said.textContent = [refused ? "" : told.label, plural(item.slices.length, "slice")].filter(Boolean).join(" · ");
}

export function focusRow(item) {
  const { button } = rows.get(item);
  button.scrollIntoView({ block: "nearest" });
  if ($("list").contains(document.activeElement)) button.focus();
}

function tally(items) {
  const done = items.filter((item) => item.state === "done");
  const urgent = done.filter((item) => summary(item).urgency === "urgent").length;
  const failed = items.filter((item) => item.state === "failed").length;
  if (!items.length) return "";
  const parts = [plural(done.length, "result"), `${urgent} urgent`];
  if (failed) parts.push(`${failed} not read`);
  return parts.join(" · ");
}
