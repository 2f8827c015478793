"use strict";
// The groups: which one is open, what it is called, what it is merged into; and how much is named.
(() => {
  const { facts, byId, all, edits, sheet } = report;
  const choose = byId("group");
  const count = (number) => number.toLocaleString("en");

  function option(value, text) {
    const one = document.createElement("option");
    one.value = value;
    one.textContent = text;
    return one;
  }

  function fill(select, groups, first) {
    const before = select.value;
    const size = (group) => count(edits.membersOf(group).length);
    const mark = (group) => (edits.isRejected(group) ? " (not a group)" : "");
    const options = groups.map((group) => option(group, `${edits.title(group)} (${size(group)})${mark(group)}`));
    select.replaceChildren(...(first ? [option("", first)] : []), ...options);
    if ([...select.options].some((one) => one.value === before)) select.value = before;
  }

  function say() {
    const groups = edits.groups();
    const filled = groups.filter((group) => edits.membersOf(group).length);
    const settled = filled.filter((group) => edits.nameOf(group) || edits.isRejected(group));
    let named = 0;
    for (let image = 0; image < facts.paths.length; image += 1) named += edits.label(image) !== "";
    byId("named").textContent = `${count(settled.length)} of ${count(filled.length)} groups are named or set aside; ` +
      `${count(named)} of ${count(facts.paths.length)} images have a label.`;
    const names = groups.filter((group) => !edits.isRejected(group)).map(edits.nameOf).filter(Boolean);
    const shared = [...new Set(names.filter((name, i) => names.indexOf(name) !== i))];
    byId("shared").textContent = shared.length ? `Several groups are called ${shared.join(", ")}: they are one class.` : "";
    byId("not-kept").hidden = edits.isKept();
    byId("had-others").hidden = !edits.hadOthers();
  }

  function update() {
    const groups = edits.groups();
    const out = edits.membersOf(edits.OUT).length ? [edits.OUT] : [];
    fill(choose, [...groups, ...out]);
    const there = new Set([...groups, ...out]);
    for (const button of all(".label-it")) {
      button.disabled = !there.has(edits.groupOfCluster(Number(button.dataset.cluster)));
      button.title = button.disabled ? "All its images were moved away" : "";
    }
    const group = Number(choose.value);
    fill(byId("merge-into"), groups.filter((other) => other !== group), "merge into …");
    // Images from elsewhere on the page may belong in any group, this one too.
    fill(byId("move-to"), groups.filter((other) => sheet.group() === null || other !== group), "move to …");
    const isGroup = group !== edits.OUT;
    byId("group-name").value = isGroup ? edits.nameOf(group) : "";
    for (const field of [byId("group-name"), byId("merge-into"), byId("reject")]) field.disabled = !isGroup;
    byId("reject").setAttribute("aria-pressed", edits.isRejected(group));
    byId("undo").disabled = !edits.canUndo();
    byId("redo").disabled = !edits.canRedo();
    for (const card of all(".card")) {
      const given = edits.nameOf(edits.groupOfCluster(Number(card.dataset.index)));
      card.querySelector(".given").textContent = given ? ` – ${given}` : "";
    }
    say();
    if (sheet.group() !== null && sheet.group() !== group) sheet.open(group);
    else sheet.refresh();
  }

  function openGroup(group) {
    choose.value = group;
    byId("shown-from").textContent = "";
    sheet.open(group);
    update();
  }

  // Groups of images from elsewhere on the page, to be looked at and moved.
  function openImages(lists, title) {
    byId("shown-from").textContent = title + (lists.length > 1 ? ": every other group has frames" : "");
    sheet.open(lists);
    update();
    byId("label").scrollIntoView();
    byId("sheet").focus({ preventScroll: true });
  }

  function turn(by) {
    const at = choose.selectedIndex + by;
    if (at >= 0 && at < choose.options.length) openGroup(Number(choose.options[at].value));
  }

  const move = (group) => edits.move(sheet.selected(), group);
  choose.addEventListener("change", () => openGroup(Number(choose.value)));
  byId("previous-group").addEventListener("click", () => turn(-1));
  byId("next-group").addEventListener("click", () => turn(1));
  byId("group-name").addEventListener("change", (event) => edits.rename(Number(choose.value), event.target.value));
  byId("merge-into").addEventListener("change", (event) => {
    const [group, into] = [Number(choose.value), Number(event.target.value)];
    if (event.target.value === "") return;
    edits.merge(group, into);
    openGroup(into);
  });
  byId("reject").addEventListener("click", () => edits.reject(Number(choose.value), !edits.isRejected(Number(choose.value))));
  byId("move").addEventListener("click", () => {
    if (byId("move-to").value !== "") move(Number(byId("move-to").value));
    else byId("move-to").focus();
  });
  byId("take-out").addEventListener("click", () => move(edits.OUT));
  byId("new-group").addEventListener("click", () => {
    openGroup(edits.addGroup(sheet.selected()));
    byId("group-name").focus();
  });
  byId("similar").addEventListener("click", () => {
    const image = sheet.at();
    openImages([[image, ...report.neighborsOf(image)]], `Similar to ${facts.paths[image]}`);
  });
  byId("undo").addEventListener("click", edits.undo);
  byId("redo").addEventListener("click", edits.redo);
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z" || event.target.matches("input, select")) return;
    event.preventDefault();
    event.shiftKey ? edits.redo() : edits.undo();
  });
  for (const button of all(".label-it")) {
    button.addEventListener("click", () => {
      openGroup(edits.groupOfCluster(Number(button.dataset.cluster)));
      byId("label").scrollIntoView();
    });
  }
  edits.onChange(update);
  report.openImages = openImages;
  update();
  openGroup(Number(choose.value));
})();
