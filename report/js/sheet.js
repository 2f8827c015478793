"use strict";
// The contact sheet: all images of a group, of which only those in sight are elements of the page. Images are selected by
// click, shift-click and keyboard, and moved to another group.
report.sheet = (() => {
  const { facts, round, byId, paint, percent, edits } = report;
  const box = byId("sheet");
  const space = box.firstElementChild;
  const LARGE = 132; // px of a tile from which on it shows the file itself, where that is next to the page
  const REST = 150; // ms without scrolling after which files are opened
  const MARGIN = 3; // rows that are kept above and below those in sight
  const ORDERS = {
    confident: (one, other) => facts.confidence[other] - facts.confidence[one],
    doubtful: (one, other) => facts.confidence[one] - facts.confidence[other],
    near: (one, other) => facts.distance[one] - facts.distance[other],
    far: (one, other) => facts.distance[other] - facts.distance[one],
    unsure: (one, other) => round.sure[one] - round.sure[other],
    path: (one, other) => one - other,
    listed: null, // as a list from elsewhere has them
  };
  const listeners = [];
  let group = null; // whose images are shown; null: `fixed`, a list from elsewhere
  let fixed = [];
  let framed = new Set(); // in such a list, the images of every other group
  let images = [];
  let selected = new Set();
  let current = 0; // position of the image that the keyboard is at
  let resting = 0;
  let anchor = 0; // where a selection by Shift begins
  let columns = 1;
  let side = 64;
  const cells = new Map(); // position → element

  function layout() {
    side = Number(byId("sheet-size").value);
    columns = Math.max(1, Math.floor(box.clientWidth / side));
    const height = Math.ceil(images.length / columns) * side;
    space.style.height = `${height}px`;
    box.style.height = `${Math.max(side, Math.min(height, 0.7 * innerHeight)) + 2}px`;
    byId("no-image").hidden = images.length > 0;
    for (const cell of cells.values()) cell.remove();
    cells.clear();
    draw();
  }

  // Give the cells in sight their images; those that went out of it are used again.
  function draw() {
    const first = Math.max(0, Math.floor(box.scrollTop / side) - MARGIN) * columns;
    const last = Math.min(images.length, (Math.ceil((box.scrollTop + box.clientHeight) / side) + MARGIN) * columns);
    const free = [];
    for (const [position, cell] of cells) {
      if (position >= first && position < last) continue;
      cells.delete(position);
      free.push(cell);
    }
    for (let position = first; position < last; position += 1) {
      if (!cells.has(position)) cells.set(position, place(free.pop() ?? make(), position));
    }
    for (const cell of free) cell.remove();
    mark();
    clearTimeout(resting);
    if (side >= LARGE) resting = setTimeout(sharpen, REST);
  }

  // The files in front of the tiles in sight; where one cannot be shown, its tile stays.
  function sharpen() {
    for (const [position, cell] of cells) {
      const address = report.addressOf(images[position]);
      if (address === null || cell.dataset.sharp) continue;
      cell.dataset.sharp = true;
      const { backgroundImage, backgroundSize, backgroundPosition } = cell.style;
      cell.style.backgroundImage = `url("${address}"), ${backgroundImage}`;
      cell.style.backgroundSize = `cover, ${backgroundSize}`;
      cell.style.backgroundPosition = `center, ${backgroundPosition}`;
      cell.classList.remove("coarse");
    }
  }

  function make() {
    const cell = document.createElement("div");
    cell.className = "cell";
    cell.setAttribute("role", "option");
    space.append(cell);
    return cell;
  }

  function place(cell, position) {
    const image = images[position];
    const said = report.says?.(image) ?? (group === null ? edits.title(edits.groupOf(image)) : "");
    cell.id = `cell-${position}`;
    cell.dataset.position = position;
    cell.style.cssText = `left:${(position % columns) * side}px;top:${Math.floor(position / columns) * side}px;width:${side - 2}px;height:${side - 2}px`;
    cell.setAttribute("aria-label", `${facts.paths[image]}, ${percent(facts.confidence[image])}${said ? `, ${said}` : ""}`);
    cell.setAttribute("aria-setsize", images.length);
    cell.setAttribute("aria-posinset", position + 1);
    cell.title = said ? `${facts.paths[image]}: ${said}` : facts.paths[image];
    cell.dataset.said = said;
    cell.classList.toggle("framed", framed.has(image) && byId("sheet-order").value === "listed");
    delete cell.dataset.sharp;
    paint(cell, image);
    return cell;
  }

  function mark() {
    for (const [position, cell] of cells) {
      cell.setAttribute("aria-selected", selected.has(images[position]));
      cell.classList.toggle("current", position === current);
    }
    if (images.length) box.setAttribute("aria-activedescendant", `cell-${current}`);
    else box.removeAttribute("aria-activedescendant");
    byId("num-selected").textContent = `${selected.size.toLocaleString("en")} selected`;
    for (const button of [byId("move"), byId("take-out"), byId("new-group")]) button.disabled = selected.size === 0;
    byId("similar").disabled = !report.perImage || !images.length;
    for (const act of listeners) act(selected.size);
  }

  function clear() {
    selected.clear();
    mark();
  }

  // The images again, as they are in the group now; the place in the sheet is kept.
  function refresh() {
    const order = ORDERS[byId("sheet-order").value];
    images = [...(group === null ? fixed : edits.membersOf(group))];
    if (order) images.sort(order);
    const there = new Set(images);
    selected = new Set([...selected].filter((image) => there.has(image)));
    current = Math.min(current, Math.max(0, images.length - 1));
    anchor = Math.min(anchor, current);
    layout();
  }

  // A group by its number, or groups of images from elsewhere.
  function open(from) {
    group = Array.isArray(from) ? null : from;
    fixed = group === null ? from.flat() : [];
    framed = new Set(group === null ? from.filter((_, number) => number % 2).flat() : []);
    selected = new Set();
    current = anchor = 0;
    box.scrollTop = 0;
    if (group === null) byId("sheet-order").value = "listed";
    else if (byId("sheet-order").value === "listed") byId("sheet-order").value = round?.sure ? "unsure" : "confident";
    refresh();
  }

  function selectTo(position, extend) {
    current = position;
    if (extend) {
      for (let i = Math.min(anchor, position); i <= Math.max(anchor, position); i += 1) selected.add(images[i]);
    } else {
      anchor = position;
    }
  }

  function toggle(position) {
    selectTo(position, false);
    const image = images[position];
    selected.has(image) ? selected.delete(image) : selected.add(image);
  }

  function reveal() {
    const top = Math.floor(current / columns) * side;
    if (top < box.scrollTop) box.scrollTop = top;
    if (top + side > box.scrollTop + box.clientHeight) box.scrollTop = top + side - box.clientHeight;
    draw();
  }

  box.addEventListener("click", (event) => {
    const cell = event.target.closest(".cell");
    if (!cell) return;
    const position = Number(cell.dataset.position);
    event.shiftKey ? selectTo(position, true) : toggle(position);
    mark();
  });
  box.addEventListener("dblclick", (event) => {
    const cell = event.target.closest(".cell");
    if (cell) report.show(images[Number(cell.dataset.position)], images);
  });
  box.addEventListener("keydown", (event) => {
    if (!images.length) return;
    const rows = Math.max(1, Math.floor(box.clientHeight / side));
    const by = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -rows * columns, PageDown: rows * columns,
      Home: -images.length, End: images.length,
    }[event.key];
    if (by !== undefined) selectTo(Math.min(Math.max(0, current + by), images.length - 1), event.shiftKey);
    else if (event.key === " ") toggle(current);
    else if (event.key === "Enter") report.show(images[current], images);
    else if (event.key === "Escape") selected.clear();
    else if (event.key === "a" && (event.ctrlKey || event.metaKey)) selected = new Set(images);
    else return;
    event.preventDefault();
    reveal();
  });
  let waiting = false;
  box.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      draw();
    });
  });
  let width = 0;
  new ResizeObserver(() => {
    if (box.clientWidth === width) return draw(); // the height follows the number of images
    width = box.clientWidth;
    return layout();
  }).observe(box);
  byId("sheet-order").addEventListener("change", refresh);
  byId("sheet-size").addEventListener("change", layout);
  byId("select-all").addEventListener("click", () => { selected = new Set(images); mark(); });
  byId("select-none").addEventListener("click", clear);

  return { open, refresh, clear, selected: () => [...selected], at: () => images[current], group: () => group, onSelect: (act) => listeners.push(act) };
})();
