"use strict";
// What deserves a look at once: duplicates, near duplicates, outliers, unreadable files; each list opens in the sheet and
// is exported.
(() => {
  const { facts, byId, all, cosines, neighbors, perImage, csv } = report;
  const MOST_OUTLIERS = 100;
  const SHARE_OF_OUTLIERS = 0.05;
  const count = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;

  // Groups of images that are connected by pairs of an image and one of its neighbors, above a cosine.
  function nearDuplicates(threshold) {
    const parent = facts.paths.map((_, image) => image);
    const root = (image) => {
      while (parent[image] !== image) image = parent[image] = parent[parent[image]];
      return image;
    };
    for (let pair = 0; pair < cosines.length; pair += 1) {
      if (cosines[pair] < threshold) continue;
      const [one, other] = [root(Math.floor(pair / perImage)), root(neighbors[pair])];
      parent[Math.max(one, other)] = Math.min(one, other);
    }
    const groups = new Map();
    parent.forEach((_, image) => {
      const own = root(image);
      groups.has(own) ? groups.get(own).push(image) : groups.set(own, [image]);
    });
    return [...groups.values()].filter((group) => group.length > 1);
  }

  // The images whose neighbors are the farthest away, the farthest first.
  function outliers() {
    const mean = (image) => cosines.subarray(image * perImage, (image + 1) * perImage).reduce((sum, one) => sum + one, 0);
    const closeness = facts.paths.map((_, image) => mean(image));
    const num = Math.min(MOST_OUTLIERS, Math.ceil(SHARE_OF_OUTLIERS * facts.paths.length));
    return facts.paths.map((_, image) => image).sort((a, b) => closeness[a] - closeness[b]).slice(0, num);
  }

  const lists = {
    exact: { title: "Exact duplicates", groups: facts.duplicates },
    near: { title: "Near duplicates", groups: [] },
    outliers: { title: "Outliers", groups: [] },
  };

  function say(name) {
    const { groups } = lists[name];
    const images = groups.reduce((sum, group) => sum + group.length, 0);
    byId(`${name}-count`).textContent = name === "outliers" ? count(images, "image") : `${count(images, "image")} in ${count(groups.length, "group")}`;
    for (const button of all(`[data-list="${name}"]`)) button.disabled = images === 0;
  }

  function findNear() {
    const percent = byId("near-threshold").valueAsNumber;
    byId("near-value").textContent = (percent / 100).toFixed(3);
    lists.near.groups = nearDuplicates((percent / 100) * 65535);
    say("near");
  }

  if (perImage) {
    lists.outliers.groups = [outliers()];
    let waiting = 0;
    byId("near-threshold").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(findNear, 80);
    });
    findNear();
    say("exact");
    say("outliers");
  }
  for (const button of all("[data-list]")) {
    const list = lists[button.dataset.list];
    button.addEventListener("click", () => {
      if (button.dataset.act === "show") report.openImages(list.groups, list.title);
      else csv.save(`${button.dataset.list}.csv`, ["path", "group"], list.groups.flatMap((group, number) => group.map((image) => [csv.path(image), number])));
    });
  }
  byId("export-unreadable")?.addEventListener("click", () =>
    csv.save("unreadable.csv", ["path"], facts.unreadable.map((path) => [csv.file(path)])));
  byId("export-clusters").addEventListener("click", () => {
    const rows = all("#cluster-table tbody tr").map((row) => [...row.cells].map((cell) => csv.text(cell.dataset.value ?? cell.textContent)));
    csv.save("clusters-summary.csv", ["cluster", "images", "mean_distance", "nearest_cluster", "cosine"], rows);
  });
})();
