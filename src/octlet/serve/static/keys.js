// Single keys. They can be switched off: who dictates, or rests a hand on the keyboard, presses keys unasked.

import { $, h } from "./dom.js";

const STORED = "octlet-keys";
let on = true;
try {
  on = localStorage.getItem(STORED) !== "off";
} catch { /* storage is switched off: keys are on until the page closes */ }

/** `keys`: rows of [keys, what they do, act]; the first key of a row is the one that is shown first. */
export function listen(keys) {
  $("key-list").append(
    ...keys.map(([names, what]) =>
      h("div", {}, h("dt", {}, ...names.map((name) => h("kbd", { textContent: shown(name) }))), h("dd", { textContent: what })),
    ),
  );
  const acts = new Map(keys.flatMap(([names, , act]) => names.map((name) => [name, act])));
  $("keys-on").checked = on;
  $("keys-on").addEventListener("change", () => switchKeys($("keys-on").checked));
  addEventListener("keydown", (event) => {
    const act = acts.get(event.key);
    if (!act || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (!(on || event.key === "?") || takes(event.target, event.key)) return;
    event.preventDefault();
    act(event.key);
  });
}

function switchKeys(wanted) {
  on = wanted;
  try {
    localStorage.setItem(STORED, on ? "on" : "off");
  } catch { /* as above */ }
}

const ARROWS = { ArrowUp: "↑", ArrowDown: "↓", ArrowLeft: "←", ArrowRight: "→" };
const shown = (key) => ARROWS[key] ?? key;

/** Whether the element has a use of its own for the key. */
function takes(element, key) {
  if (element.matches("input:not([type=range], [type=radio], [type=checkbox]), textarea, select")) return true;
  return key.startsWith("Arrow") && element.matches("input");
}
