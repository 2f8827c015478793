"use strict";
// What all parts of the page share: the facts, the thumbnails, and other people's words as they are shown.
const report = (() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const round = JSON.parse(document.getElementById("round").textContent); // what label.py knows; null before it ran
  const percent = (value) => `${(value / 100).toFixed(1)} %`;
  const byId = (id) => document.getElementById(id);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  // ---- Thumbnails: each is a tile of a sprite, whose picture is made from its text when it is first shown.
  const tiles = new Map();
  facts.sprites.forEach((sprite, number) =>
    sprite.images.forEach((image, position) => tiles.has(image) || tiles.set(image, [number, position])));
  const addresses = [];

  function address(number) {
    if (!addresses[number]) {
      const text = atob(byId(`sprite-${number}`).textContent);
      const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
      addresses[number] = URL.createObjectURL(new Blob([bytes], { type: "image/webp" }));
    }
    return addresses[number];
  }

  function paint(element, image) {
    const tile = tiles.get(image);
    element.classList.toggle("missing", !tile);
    if (!tile) {
      element.style.backgroundImage = "none";
      return;
    }
    const { side, columns, rows } = facts.sprites[tile[0]];
    const cell = side + 2;
    const place = (index, count) => (100 * (index * cell + 1)) / (count * cell - side);
    element.style.backgroundImage = `url("${address(tile[0])}")`;
    element.style.backgroundSize = `${(100 * columns * cell) / side}% ${(100 * rows * cell) / side}%`;
    element.style.backgroundPosition =
      `${place(tile[1] % columns, columns)}% ${place(Math.floor(tile[1] / columns), rows)}%`;
    element.classList.toggle("coarse", side <= 16);
  }

  // The name of an image's cluster; -1 is of those that are left out of all.
  const clusterOf = (image) => facts.names[facts.clusters[image]] ?? "Other";

  // Arrays that would be long as JSON: little-endian numbers as base64.
  function numbers(id, kind) {
    const text = atob(byId(id).textContent);
    return new kind(Uint8Array.from(text, (character) => character.charCodeAt(0)).buffer);
  }

  const perImage = facts.num_neighbors;
  const neighbors = perImage ? numbers("neighbors", facts.paths.length > 65535 ? Uint32Array : Uint16Array) : null;
  const cosines = perImage ? numbers("cosines", Uint16Array) : null; // times 65,535
  const neighborsOf = (image) => [...neighbors.subarray(image * perImage, (image + 1) * perImage)];

  // The address of an image's file as seen from the page; null where it is unknown.
  const addressOf = (image) => (facts.links === null ? null
    : facts.links + (facts.addresses[image] ?? facts.paths[image].split("/").map(encodeURIComponent).join("/")));

  return { facts, round, byId, all, percent, tiles, paint, clusterOf, neighbors, cosines, perImage, neighborsOf, addressOf };
})();
