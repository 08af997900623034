// Elements are made from text alone: a file's name that holds HTML is shown, never read as HTML.

export const $ = (id) => document.getElementById(id);

/** Make an element: properties by name, `data` and `on` as objects, attributes where no property is. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "data") Object.assign(element.dataset, value);
    else if (name === "on") for (const [type, act] of Object.entries(value)) element.addEventListener(type, act);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** A sign of index.html's symbols; its words stand beside it. */
export function sign(kind) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", `sign ${kind}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(SVG, "use"));
  setSign(svg, kind);
  return svg;
}

export function setSign(svg, kind) {
  svg.setAttribute("class", `sign ${kind}`);
  svg.querySelector("use").setAttribute("href", `#i-${kind}`);
}

let spoken;

/** Tell a screen reader; of what comes within a moment the last alone, or it would never end. */
export function announce(text) {
  clearTimeout(spoken);
  spoken = setTimeout(() => { $("live").textContent = text; }, 150);
}
