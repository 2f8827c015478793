"use strict";
// The next round: what a classifier of the names says of every image, and the images of which it is unsure first.
(() => {
  const { facts, round, byId, edits, sheet } = report;
  if (!round?.sure) {
    document.querySelector("#sheet-order [value=unsure]").remove();
    return;
  }
  const hadName = new Map(); // the groups that had a name when the classifier learned it
  for (const [group, name] of Object.entries(round.edits.names)) {
    if (group in round.edits.merged || round.edits.rejected.includes(Number(group))) continue;
    hadName.has(name) ? hadName.get(name).push(Number(group)) : hadName.set(name, [Number(group)]);
  }

  // What the classifier says of an image; where its groups have all been given another name since, by that.
  function nameOf(image) {
    const name = round.classes[round.likely[image]];
    const [now, ...others] = new Set((hadName.get(name) ?? []).map((group) => edits.nameOf(edits.groupOfCluster(group))));
    return now && !others.length ? now : name;
  }

  const isNone = (image) => edits.groupOf(image) === edits.OUT || edits.isRejected(edits.groupOf(image));
  const differs = (image) => !isNone(image) && edits.label(image) !== nameOf(image);

  // Its own name, and that of the classifier where it is another.
  report.says = (image) => {
    if (isNone(image)) return "";
    const own = edits.label(image) || "no name";
    return differs(image) ? `${own} → ${nameOf(image)}?` : own;
  };

  // All images that belong anywhere: those first whose label the classifier doubts most, and those that a person moved last.
  function doubtful() {
    const images = facts.paths.map((_, image) => image).filter((image) => !isNone(image));
    return images.sort((one, other) => edits.isByHand(one) - edits.isByHand(other) || round.sure[one] - round.sure[other]);
  }

  function say() {
    const num = facts.paths.filter((_, image) => differs(image)).length;
    byId("round-count").textContent = `The classifier has another name for ${num.toLocaleString("en")} image${num === 1 ? "" : "s"}.`;
  }

  const show = () => report.openImages([doubtful()], "Doubtful ones first");

  // Every selected image goes to the group that has the name which the classifier gives it.
  function take() {
    const groups = new Map(edits.groups().filter((group) => !edits.isRejected(group)).map((group) => [edits.nameOf(group), group]));
    const pairs = new Map();
    const [selected, nameless] = [sheet.selected(), []];
    for (const image of selected) {
      const group = groups.get(nameOf(image));
      if (group === undefined) nameless.push(image);
      else pairs.has(group) ? pairs.get(group).push(image) : pairs.set(group, [image]);
    }
    if (pairs.size) edits.moveAll([...pairs].map(([group, images]) => [images, group]));
    if (nameless.length) {
      say();
      const names = [...new Set(nameless.map(nameOf))].join(", ");
      byId("round-count").textContent += ` ${nameless.length.toLocaleString("en")} of the selected were not moved, as no group is called ${names}.`;
    }
    sheet.clear();
    byId("sheet").focus({ preventScroll: true });
  }

  byId("round-note").hidden = false;
  byId("show-doubtful").addEventListener("click", show);
  byId("take-likely").addEventListener("click", take);
  edits.onChange(say);
  sheet.onSelect((num) => { byId("take-likely").disabled = num === 0; });
  say();
  byId("sheet-size").value = 132; // there is room for two names
  show();
  // Again once the cards above have their heights.
  requestAnimationFrame(() => requestAnimationFrame(() => byId("label").scrollIntoView({ behavior: "instant" })));
})();
performance.mark("ready");
