"use strict";
// The map: thumbnail under the pointer or at the arrow keys; what the filter leaves out is faint.
report.map = (() => {
  const { facts, byId, all, percent, paint, figures, edits } = report;
  let plot = null;
  let focused = -1;
  let visible = new Set();

  function dim() {
    visible = new Set(report.visible());
    if (!plot) return;
    const strong = facts.map.map((image) => (visible.has(image) ? 0.85 : 0.06));
    Plotly.restyle(plot, { "marker.opacity": [strong] }, [0]);
  }

  function tip(point, box) {
    const image = facts.map[point];
    const note = byId("tip");
    paint(note.firstElementChild, image);
    note.lastElementChild.textContent = `${facts.paths[image]} · ${report.clusterOf(image)} · ${percent(facts.confidence[image])}${edits.since(image)}`;
    note.hidden = false;
    const right = box.x1 + 10 + note.offsetWidth < plot.clientWidth;
    note.style.left = `${Math.max(4, right ? box.x1 + 10 : box.x0 - 10 - note.offsetWidth)}px`;
    note.style.top = `${Math.max(4, Math.min(box.y0, plot.clientHeight - note.offsetHeight - 4))}px`;
  }

  // The nearest point in the arrow's direction: ahead counts once, aside twice.
  function neighbor(from, [dx, dy]) {
    const { x, y } = figures.map.data[0];
    let best = -1;
    let least = Infinity;
    for (let i = 0; i < x.length; i += 1) {
      if (!visible.has(facts.map[i])) continue;
      const ahead = (x[i] - x[from]) * dx + (y[i] - y[from]) * dy;
      const aside = Math.abs((x[i] - x[from]) * dy) + Math.abs((y[i] - y[from]) * dx);
      if (ahead > 0 && aside <= 2 * ahead && ahead + 2 * aside < least) [best, least] = [i, ahead + 2 * aside];
    }
    return best;
  }

  async function focusPoint(point) {
    if (point < 0) return;
    focused = point;
    const { x, y } = figures.map.data[0];
    await Plotly.restyle(plot, { x: [[x[point]]], y: [[y[point]]] }, [1]);
    const axes = plot.layout;
    const inside = ([low, high], value) => value >= low && value <= high;
    if (!inside(axes.xaxis.range, x[point]) || !inside(axes.yaxis.range, y[point])) await zoom(1, [x[point], y[point]]);
    const ring = [...plot.querySelectorAll(".point")].at(-1).getBoundingClientRect();
    const { left, top } = plot.getBoundingClientRect();
    tip(point, { x0: ring.left - left, x1: ring.right - left, y0: ring.top - top });
    const image = facts.map[point];
    byId("map-status").textContent = `${facts.paths[image]}, ${report.clusterOf(image)}, ${percent(facts.confidence[image])}${edits.since(image)}`;
  }

  function zoom(factor, center) {
    if (!plot) return null;
    if (!factor) return Plotly.relayout(plot, { "xaxis.range": [-1.05, 1.05], "yaxis.range": [-1.05, 1.05] });
    const ranges = ["xaxis", "yaxis"].map((axis, i) => {
      const [low, high] = plot.layout[axis].range;
      const middle = center ? center[i] : (low + high) / 2;
      return [middle - (factor * (high - low)) / 2, middle + (factor * (high - low)) / 2];
    });
    return Plotly.relayout(plot, { "xaxis.range": ranges[0], "yaxis.range": ranges[1] });
  }

  // ---- Colors: by cluster, by the names given here, or by class, with their legend.
  const UNKNOWN = "#7b828c";
  const MAX_LEGEND = 40;

  // The text that an image is colored by; empty where there is none.
  const textOf = {
    cluster: (image) => (facts.clusters[image] < 0 ? "" : report.clusterOf(image)),
    name: edits.label,
    class: (image) => facts.classes[facts.targets[image]] ?? "",
  };

  function color() {
    if (!plot) return;
    const by = byId("color-by").value;
    const texts = facts.map.map(textOf[by]);
    const counts = new Map();
    for (const text of texts) counts.set(text, (counts.get(text) ?? 0) + 1);
    const order = by === "cluster" ? facts.names : by === "class" ? facts.classes : [...counts.keys()].filter(Boolean).sort();
    const colors = new Map(order.map((text, number) => [text, facts.colors[number % facts.colors.length]]));
    Plotly.restyle(plot, { "marker.color": [texts.map((text) => colors.get(text) ?? UNKNOWN)] }, [0]);
    const used = order.filter((text) => counts.has(text));
    const entries = used.slice(0, MAX_LEGEND).map((text) => entry(colors.get(text), `${text} (${counts.get(text).toLocaleString("en")})`));
    if (used.length > MAX_LEGEND) entries.push(entry(UNKNOWN, `and ${used.length - MAX_LEGEND} more`));
    if (counts.has("")) entries.push(entry(UNKNOWN, `none (${counts.get("").toLocaleString("en")})`));
    byId("legend").replaceChildren(...entries);
  }

  function entry(shade, text) {
    const one = document.createElement("li");
    const dot = document.createElement("span");
    const words = document.createElement("bdi");
    dot.className = "dot";
    dot.style.background = shade;
    words.textContent = text;
    one.append(dot, words);
    return one;
  }

  // ---- A frame around points: their images, as far as the filter shows them, go to the sheet.
  function frame(on) {
    byId("frame").setAttribute("aria-pressed", on);
    if (plot) Plotly.relayout(plot, { dragmode: on ? "select" : false, selections: [] });
  }

  function framed(event) {
    if (!event?.points?.length) return; // also said when a frame is taken away
    const images = event.points.filter((point) => point.curveNumber === 0).map((point) => facts.map[point.pointNumber]);
    frame(false);
    Plotly.restyle(plot, { selectedpoints: [null] }, [0]);
    if (images.some((image) => visible.has(image))) report.openImages([images.filter((image) => visible.has(image))], "Selected on the map");
  }

  function drawn(element, first) {
    plot = element;
    if (report.visible().length < facts.paths.length) dim();
    color();
    if (!first) return;
    plot.on("plotly_selected", framed);
    plot.on("plotly_hover", (event) => {
      if (event.points[0].curveNumber === 0) tip(event.points[0].pointNumber, event.points[0].bbox);
    });
    plot.on("plotly_unhover", () => { byId("tip").hidden = true; });
    plot.on("plotly_click", (event) => open(event.points[0].pointNumber));
  }

  const open = (point) => report.show(facts.map[point], facts.map.filter((image) => visible.has(image)));
  const map = byId("map");
  const firstVisible = () => facts.map.findIndex((image) => visible.has(image));
  map.addEventListener("focus", () => {
    if (!plot || !map.matches(":focus-visible")) return;
    focusPoint(focused >= 0 && visible.has(facts.map[focused]) ? focused : firstVisible());
  });
  map.addEventListener("blur", () => { byId("tip").hidden = true; });
  map.addEventListener("keydown", (event) => {
    const direction = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    if (!plot || (!direction && event.key !== "Enter")) return;
    event.preventDefault();
    if (event.key === "Enter") open(focused);
    else focusPoint(focused < 0 ? firstVisible() : neighbor(focused, direction));
  });
  all("[data-zoom]").forEach((button) => button.addEventListener("click", () => {
    const { x, y } = figures.map.data[0];
    const factor = Number(button.dataset.zoom);
    zoom(factor, factor && factor < 1 && focused >= 0 ? [x[focused], y[focused]] : null);
  }));

  byId("color-by").addEventListener("change", color);
  byId("frame").addEventListener("click", () => frame(byId("frame").getAttribute("aria-pressed") !== "true"));
  edits.onChange(() => { if (byId("color-by").value === "name") color(); });
  dim();
  return { dim, drawn };
})();
