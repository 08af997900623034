// The file of `octlet predict --csv`, from what is on the page.

import { LABELS } from "./words.js";

export const COLUMNS = ["file", "label", "urgency", ...LABELS.map((label) => `p_${label}`), "set", "abstain", "notice"];
const NOTICE = document.getElementById("notice").textContent;

/** A spreadsheet computes what begins with one of these: an apostrophe makes it text. */
const guarded = (text) => (/^[=+\-@\t\r]/.test(text) ? `'${text}` : text);
const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

function cell(column, file, prediction) {
  if (column === "file") return file;
  if (column === "notice") return NOTICE;
  if (column === "set") return (prediction.set ?? []).join(" ");
  if (column.startsWith("p_")) return prediction.probabilities[column.slice(2)].toFixed(6);
  return prediction[column] ?? "";
}

/** One row a slice; `items` that hold no result have none. */
export function csvOf(items) {
  const rows = items.flatMap((item) =>
    (item.slices ?? []).map(({ prediction }) => COLUMNS.map((column) => guarded(cell(column, nameOf(item, prediction), prediction)))),
  );
  return [COLUMNS, ...rows].map((row) => `${row.map(quoted).join(",")}\n`).join("");
}

/** The path as it was chosen, and what the server told a volume's slices apart by, FILE#3. */
export function nameOf(item, { file }) {
  const { name } = item.file;
  return item.path + (file.startsWith(name) ? file.slice(name.length) : /#\d+$/.exec(file)?.[0] ?? "");
}

export function save(text, name) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const link = document.createElement("a");
  Object.assign(link, { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
