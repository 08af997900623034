// The only place that asks the server. A fault is {code, message, remedy, wait}, whoever found it.

const STORED = "octlet-token";
let token = "";
try {
  token = sessionStorage.getItem(STORED) ?? "";
} catch { /* storage is switched off: the token lives as long as the page */ }

export class Fault extends Error {
  constructor({ code, message, remedy }, wait = 0) {
    super(message);
    Object.assign(this, { code, remedy: remedy ?? "", wait });
  }
}

export function setToken(text) {
  token = text;
  try {
    sessionStorage.setItem(STORED, text);
  } catch { /* as above */ }
}

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let answer;
  let document;
  try {
    answer = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit", redirect: "error" });
    document = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault({ code: "offline", message: "The server does not answer.", remedy: "See that octlet serve is running, then press Continue." });
  }
  if (answer.ok || document.status === "stopping") return document;
  throw new Fault(document.error, Number(answer.headers.get("Retry-After")) || 0);
}

export const health = () => ask("api/health");

const SHOWN = /\.(jpe?g|png|bmp)$/i; // by every browser; of the others the server sends the picture

export const isShown = (name) => SHOWN.test(name);

/** Ask for one file's predictions, with the coarse maps of all classes. */
export async function predict(file, signal) {
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch { // moved, deleted or changed since it was added: fetch would only say that it failed
    throw new Fault({ code: "unreadable", message: "The file can no longer be read.", remedy: "Add it again." });
  }
  const body = new FormData();
  body.append("scan", file, file.name);
  return ask(`api/predict?map=all${isShown(file.name) ? "" : "&scan=png"}`, { method: "POST", body, signal });
}
