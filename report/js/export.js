"use strict";
// labels.csv and edits.json: out as files of the browser's downloads, edits.json in again.
(() => {
  const { facts, byId, edits } = report;
  const FORMULA = /^[=+\-@\t\r\n]/; // what a spreadsheet takes for the beginning of a formula
  const NUMBER = /^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$/;

  function download(parts, type, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob(parts, { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  // The bytes of a path: a file's name need not be UTF-8, and is then kept as an address.
  function pathBytes(image) {
    const address = facts.addresses[image];
    if (address === undefined) return new TextEncoder().encode(facts.paths[image]);
    const bytes = address.match(/%[0-9A-F]{2}|[^%]/g).map((one) => (one.length === 3 ? parseInt(one.slice(1), 16) : one.charCodeAt(0)));
    return Uint8Array.from(bytes);
  }

  const cell = (text) => (FORMULA.test(text) && !NUMBER.test(text) ? `'${text}` : text);
  const quote = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

  function pathCell(image) {
    const before = FORMULA.test(facts.paths[image]) ? "./" : "";
    if (!/[",\r\n]/.test(facts.paths[image])) return [before, pathBytes(image)];
    const doubled = [...pathBytes(image)].flatMap((byte) => (byte === 34 ? [34, 34] : [byte]));
    return ['"', before, Uint8Array.from(doubled), '"'];
  }

  // Tables that other parts of the page hand out: cells are lists of parts.
  function save(name, header, rows) {
    const parts = [`${header.join(",")}\n`];
    for (const row of rows) {
      for (const part of row) parts.push(...[part].flat(), ",");
      parts[parts.length - 1] = "\n";
    }
    download(parts, "text/csv", name);
  }

  function labelsCsv() {
    const parts = ["path,label,cluster,confidence,by_hand\n"];
    for (let image = 0; image < facts.paths.length; image += 1) {
      const more = [facts.clusters[image], (facts.confidence[image] / 10_000).toFixed(4), edits.isByHand(image)];
      parts.push(...pathCell(image), `,${quote(cell(edits.label(image)))},${more.join(",")}\n`);
    }
    return parts;
  }

  async function take(file) {
    const note = byId("import-note");
    let found = null;
    try {
      found = JSON.parse(await file.text());
    } catch {
      // said below, as for any other file
    }
    note.textContent = edits.fault(found) || "Imported; Undo brings back what was here before.";
    if (!edits.fault(found)) edits.replace(found);
  }

  // A file that is no image of the page is only known by its name.
  const fileCell = (path) => quote(FORMULA.test(path) ? `./${path}` : path);

  report.csv = { save, path: pathCell, file: fileCell, text: (text) => quote(cell(text)) };
  byId("export-labels").addEventListener("click", () => download(labelsCsv(), "text/csv", "labels.csv"));
  byId("export-edits").addEventListener("click", () =>
    download([`${JSON.stringify(edits.pack(), null, 1)}\n`], "application/json", "edits.json"));
  byId("import-edits").addEventListener("change", (event) => {
    if (event.target.files[0]) take(event.target.files[0]);
    event.target.value = "";
  });
})();
