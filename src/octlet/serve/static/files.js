// From what is dropped or chosen to a list of {file, path, folder}, in the order of a person's numbering.

// a name without a suffix may be DICOM's; DICOMDIR is the contents of such a folder
const SCANS = /(\.(jpe?g|png|bmp|tiff?|dcm|dicom|vol|e2e|fda|img)|(^|\/)(?!DICOMDIR$)[^./]+)$/i;
const order = new Intl.Collator("en", { numeric: true });

const folderOf = (path) => path.split("/").slice(0, -1).join("/");

/** Of a folder only scans are taken; what a person names is taken as it is, and the server says what it is. */
function sorted(entries, whole) {
  const taken = entries
    .filter(({ file }) => file) // else it cannot be read
    .filter(({ path }) => whole || !path.includes("/") || SCANS.test(path))
    .filter(({ path }) => !path.split("/").pop().startsWith("."))
    .sort((a, b) => order.compare(a.path, b.path))
    .map(({ file, path }) => ({ file, path, folder: folderOf(path) }));
  return { taken, left: entries.length - taken.length };
}

export const fromInput = (input) =>
  sorted([...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })), !input.webkitdirectory);

/** Read a drop, folders too. The entries must be asked for before the event ends. */
export function fromDrop(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const entries = items.map((item) => item.webkitGetAsEntry?.());
  if (entries.some((entry) => !entry)) {
    return Promise.resolve(sorted([...transfer.files].map((file) => ({ file, path: file.name })), true));
  }
  return Promise.all(entries.map(walk)).then((found) => sorted(found.flat(), false));
}

async function walk(entry) {
  if (entry.isFile) {
    const file = await new Promise((done) => entry.file(done, () => done(null)));
    return [{ file, path: entry.fullPath.replace(/^\//, "") }];
  }
  const reader = entry.createReader();
  const children = [];
  for (;;) { // a reader gives at most 100 at a time
    const some = await new Promise((done) => reader.readEntries(done, () => done(null)));
    if (!some) return [{ file: null, path: entry.fullPath }]; // counted as one that is left out
    if (!some.length) break;
    children.push(...some);
  }
  return (await Promise.all(children.map(walk))).flat();
}
