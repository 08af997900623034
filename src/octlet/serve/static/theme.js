// Before the first paint, or a page in the chosen colours would flash in the others.
try {
  document.documentElement.dataset.theme = localStorage.getItem("octlet-theme") || "auto";
} catch {
  document.documentElement.dataset.theme = "auto"; // storage is switched off
}
