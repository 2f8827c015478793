"use strict";
// Looking at the result: cards, charts, the list, the map, and one picture larger.
(() => {
  const { facts, byId, all, percent, tiles, paint, clusterOf, addressOf } = report;
  const figures = JSON.parse(byId("figures").textContent);
  const PAGE = 50;

  function whenNear(elements, act) {
    const observer = new IntersectionObserver((entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        observer.unobserve(entry.target);
        act(entry.target);
      }
    }, { rootMargin: "400px" });
    elements.forEach((element) => observer.observe(element));
  }

  const paintAll = (root) => all(".tile", root).forEach((tile) => paint(tile, Number(tile.dataset.image)));
  whenNear(all(".card, .sheet.mistakes, #tree"), paintAll);

  // ---- Charts: drawn when they come near, in the colors of the page.
  function theme(figure) {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(name).trim();
    const axis = (old) => ({ ...old, gridcolor: color("--line"), linecolor: color("--line"), zerolinecolor: color("--line") });
    const layout = {
      ...figure.layout,
      xaxis: axis(figure.layout.xaxis),
      yaxis: axis(figure.layout.yaxis),
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: color("--text"), family: "system-ui, sans-serif", size: 12 },
      hoverlabel: { bgcolor: color("--page"), bordercolor: color("--line"), font: { color: color("--text") } },
      legend: { ...figure.layout.legend, bgcolor: "rgba(0,0,0,0)" },
    };
    const data = figure.data.map((trace) => {
      if (trace.type === "heatmap") return { ...trace, colorscale: [[0, color("--raised")], [1, color("--heat")]] };
      if (trace.marker?.symbol === "circle-open") return { ...trace, marker: { ...trace.marker, color: color("--text") } };
      return trace.marker?.color || trace.type !== "bar" ? trace : { ...trace, marker: { color: color("--accent") } };
    });
    return { data, layout };
  }

  const drawn = new Set();

  async function draw(element) {
    const { data, layout } = theme(figures[element.dataset.chart]);
    const first = !drawn.has(element);
    drawn.add(element);
    await Plotly.react(element, data, layout, { displayModeBar: false, responsive: true });
    if (element.dataset.chart === "map") report.map.drawn(element, first);
    if (first && element.dataset.chart === "sizes") element.on("plotly_click", (event) => goTo(event.points[0].x));
  }

  whenNear(all(".chart"), draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(draw));
  window.addEventListener("beforeprint", () => {
    all(".card, .sheet.mistakes, #tree").forEach(paintAll);
    all(".chart").forEach((chart) => drawn.has(chart) || draw(chart));
  });

  // ---- One picture larger.
  const viewer = byId("viewer");
  let among = [];
  let current = 0;

  function show(image, images) {
    among = images;
    current = among.indexOf(image);
    paint(viewer.querySelector(".picture"), image);
    byId("viewer-path").firstElementChild.textContent = facts.paths[image];
    const target = facts.targets ? facts.targets[image] : -1;
    byId("viewer-facts").textContent = `${clusterOf(image)}, confidence ${percent(facts.confidence[image])}${report.edits.since(image)}` +
      (target >= 0 ? `, labeled ${facts.classes[target]}` : "");
    viewer.querySelector('[data-step="-1"]').disabled = current <= 0;
    viewer.querySelector('[data-step="1"]').disabled = current >= among.length - 1;
    if (!viewer.open) viewer.showModal();
    showFile(image);
  }

  // The file itself in the place of its thumbnail, where it is next to the page, as it was when that was written.
  function showFile(image) {
    const address = addressOf(image);
    const note = byId("viewer-note");
    byId("viewer-link").hidden = address === null;
    note.textContent = address === null ? "" : "Opening the file …";
    if (address === null) return;
    byId("viewer-link").firstElementChild.href = address;
    const file = new Image();
    const stillShown = () => viewer.open && among[current] === image;
    file.onload = () => {
      if (!stillShown()) return;
      const picture = viewer.querySelector(".picture");
      picture.style.cssText = `background: center / contain no-repeat url("${file.src}")`;
      picture.classList.remove("missing", "coarse");
      note.textContent = `${file.naturalWidth} × ${file.naturalHeight} pixels`;
    };
    file.onerror = () => {
      if (!stillShown()) return;
      note.textContent = "The file is not where this page expects it, or the browser cannot show it; this is its thumbnail.";
      byId("viewer-link").hidden = true;
    };
    file.src = address;
  }

  function step(by) {
    const image = among[current + by];
    if (image !== undefined) show(image, among);
  }

  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) viewer.close();
    const by = event.target.dataset?.step;
    if (by !== undefined) by === "0" ? viewer.close() : step(Number(by));
  });
  viewer.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) step(by);
  });
  document.addEventListener("click", (event) => {
    const tile = event.target.closest?.(".tile");
    if (!tile) return;
    const image = Number(tile.dataset.image);
    if (tile.closest("#list")) show(image, shown);
    else show(image, all(".tile", tile.parentElement.closest(".sheet, .prototype")).map((one) => Number(one.dataset.image)));
  });

  // ---- Sheets: one stop of the Tab key each, arrow keys within.
  for (const sheet of all(".sheet")) {
    const members = all(".tile", sheet);
    const choose = (index) => members.forEach((tile, i) => { tile.tabIndex = i === index ? 0 : -1; });
    choose(0);
    sheet.addEventListener("focusin", (event) => choose(members.indexOf(event.target)));
    sheet.addEventListener("keydown", (event) => {
      const at = members.indexOf(event.target);
      const columns = members.filter((tile) => tile.offsetTop === members[0].offsetTop).length;
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns, ArrowDown: at + columns, Home: 0, End: members.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      members[to]?.focus();
    });
  }
  all(".in").forEach((place) => { place.textContent = clusterOf(Number(place.dataset.of)); });

  // ---- Clusters: sort, go to, show in the list.
  byId("sort-clusters").addEventListener("change", (event) => {
    const key = event.target.value;
    const order = {
      index: (a, b) => a.index - b.index,
      size: (a, b) => b.size - a.size || a.index - b.index,
      confidence: (a, b) => b.confidence - a.confidence || a.index - b.index,
      name: (a, b) => a.name.localeCompare(b.name) || a.index - b.index,
    }[key];
    byId("cards").append(...all(".card").sort((a, b) => order(a.dataset, b.dataset)));
  });

  function goTo(cluster) {
    const card = byId(`cluster-${cluster}`);
    if (!card) return; // it is empty
    card.scrollIntoView();
    card.focus({ preventScroll: true });
  }

  byId("go").addEventListener("click", () => goTo(byId("go-cluster").value));
  byId("cards").addEventListener("click", (event) => {
    const cluster = event.target.closest(".show")?.dataset.cluster;
    if (cluster === undefined) return;
    filter.reset();
    filter.elements.cluster.value = cluster;
    update();
    byId("images").scrollIntoView();
    filter.elements.cluster.focus({ preventScroll: true });
  });

  // ---- The list: filter, sort, pages.
  const filter = byId("filter");
  const body = document.querySelector("#list tbody");
  const lower = facts.paths.map((path) => path.toLowerCase());
  let shown = [];
  let page = 0;
  let sorting = { key: "path", sign: 1 };
  const ranks = {};

  function rank(key) {
    if (key !== "path") return { cluster: facts.clusters, confidence: facts.confidence, target: facts.targets }[key];
    if (!ranks.path) {
      const compare = new Intl.Collator(undefined, { numeric: true }).compare;
      const order = facts.paths.map((_, i) => i).sort((a, b) => compare(facts.paths[a], facts.paths[b]));
      ranks.path = new Int32Array(order.length);
      order.forEach((image, place) => { ranks.path[image] = place; });
    }
    return ranks.path;
  }

  function update() {
    const { text, cluster, low, high, target } = filter.elements;
    const part = text.value.trim().toLowerCase();
    const from = 100 * (low.value === "" ? 0 : low.valueAsNumber);
    const to = 100 * (high.value === "" ? 100 : high.valueAsNumber);
    shown = [];
    for (let i = 0; i < lower.length; i += 1) {
      if (cluster.value !== "" && facts.clusters[i] !== Number(cluster.value)) continue;
      if (target && target.value !== "" && facts.targets[i] !== Number(target.value)) continue;
      if (facts.confidence[i] < from || facts.confidence[i] > to || !lower[i].includes(part)) continue;
      shown.push(i);
    }
    const values = rank(sorting.key);
    shown.sort((a, b) => sorting.sign * (values[a] - values[b]) || a - b);
    byId("count").textContent = `${shown.length.toLocaleString("en")} of ${lower.length.toLocaleString("en")} images`;
    turnTo(0);
    report.map?.dim();
  }

  // A file's name, cut in the middle where the page is narrow: its end says as much as its beginning.
  function fitting(path) {
    const most = innerWidth < 600 ? 26 : Infinity;
    return path.length <= most ? path : `${path.slice(0, most / 2 - 1)}…${path.slice(-most / 2)}`;
  }

  function row(image) {
    const line = document.createElement("tr");
    const picture = document.createElement("button");
    picture.type = "button";
    picture.className = "tile";
    picture.dataset.image = image;
    picture.setAttribute("aria-label", `Open ${facts.paths[image]}`);
    if (tiles.has(image)) paint(picture, image);
    else picture.textContent = "…";
    const link = document.createElement("a");
    link.href = `#cluster-${facts.clusters[image]}`;
    link.textContent = clusterOf(image).replace("Cluster ", "");
    link.setAttribute("aria-label", clusterOf(image));
    const path = document.createElement("bdi");
    path.textContent = fitting(facts.paths[image]);
    path.title = facts.paths[image];
    const cells = [picture, path, link, percent(facts.confidence[image])];
    if (facts.targets) cells.push(facts.classes[facts.targets[image]] ?? "–");
    for (const content of cells) line.insertCell().append(content);
    return line;
  }

  function turnTo(number) {
    const last = Math.max(0, Math.ceil(shown.length / PAGE) - 1);
    page = Math.min(Math.max(0, number || 0), last);
    body.replaceChildren(...shown.slice(page * PAGE, (page + 1) * PAGE).map(row));
    byId("page").value = page + 1;
    byId("page").max = last + 1;
    byId("num-pages").textContent = `of ${last + 1}`;
    for (const button of all("[data-page]")) {
      button.disabled = ["first", "previous"].includes(button.dataset.page) ? page === 0 : page === last;
    }
  }

  for (const button of all("[data-page]")) {
    button.addEventListener("click", () => turnTo({ first: 0, previous: page - 1, next: page + 1, last: Infinity }[button.dataset.page]));
  }
  byId("page").addEventListener("change", (event) => turnTo(event.target.valueAsNumber - 1));
  for (const button of all("#list [data-sort]")) {
    button.addEventListener("click", () => {
      const key = button.dataset.sort;
      sorting = { key, sign: sorting.key === key ? -sorting.sign : key === "confidence" ? -1 : 1 };
      all("#list [aria-sort]").forEach((head) => head.setAttribute("aria-sort", "none"));
      button.parentElement.setAttribute("aria-sort", sorting.sign > 0 ? "ascending" : "descending");
      update();
    });
  }
  document.querySelector('#list [data-sort="path"]').parentElement.setAttribute("aria-sort", "ascending");
  let waiting = 0;
  const soon = () => {
    clearTimeout(waiting);
    waiting = setTimeout(update, 120);
  };
  filter.addEventListener("input", soon);
  filter.addEventListener("change", soon);
  filter.addEventListener("submit", (event) => event.preventDefault());
  filter.addEventListener("reset", () => setTimeout(update));

  Object.assign(report, { figures, show, visible: () => shown });
  update();
})();
