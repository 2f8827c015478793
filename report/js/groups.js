"use strict";
// The groups: which one is open, what it is called, what it is merged into; and how much is named.
(() => {
  const { facts, byId, all, edits, sheet } = report;
  const choose = byId("group");
  let listed = ""; // what the images from elsewhere are, while the sheet shows such
  let last = 0; // the group that was shown last
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
    fill(choose, [...groups, ...out], sheet.group() === null ? `– ${listed} –` : "");
    if (sheet.group() === null) choose.value = "";
    const there = new Set([...groups, ...out]);
    for (const button of all(".label-it")) {
      button.disabled = !there.has(edits.groupOfCluster(Number(button.dataset.cluster)));
      button.title = button.disabled ? "All its images were moved away" : "";
    }
    const group = choose.value === "" ? null : Number(choose.value);
    last = group ?? last;
    fill(byId("merge-into"), groups.filter((other) => other !== group), "merge into …");
    fill(byId("move-to"), groups.filter((other) => other !== group), "move to …");
    const isGroup = group !== null && group !== edits.OUT;
    byId("group-name").value = isGroup ? edits.nameOf(group) : "";
    for (const field of ["group-name", "merge-into", "merge", "reject"]) byId(field).disabled = !isGroup;
    byId("reject").setAttribute("aria-pressed", isGroup && edits.isRejected(group));
    byId("undo").disabled = !edits.canUndo();
    byId("redo").disabled = !edits.canRedo();
    for (const card of all(".card")) {
      const given = edits.nameOf(edits.groupOfCluster(Number(card.dataset.index)));
      card.querySelector(".given").textContent = given ? ` – ${given}` : "";
    }
    say();
    if (sheet.group() !== group) sheet.open(group);
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
    listed = title;
    byId("shown-from").textContent = title + (lists.length > 1 ? ": every second group is framed" : "");
    sheet.open(lists);
    update();
    byId("label").scrollIntoView();
    byId("sheet").focus({ preventScroll: true });
  }

  function turn(by) {
    const groups = [...choose.options].map((one) => one.value).filter(Boolean).map(Number);
    const to = groups[Math.max(0, groups.indexOf(last)) + (sheet.group() === null ? 0 : by)]; // from a list, back to where one was
    if (to !== undefined) openGroup(to);
  }

  const shownGroup = () => Number(choose.value);

  // What was moved is no longer selected: the next move is of what is selected after it.
  function move(group) {
    edits.move(sheet.selected(), group);
    sheet.clear();
    byId("sheet").focus({ preventScroll: true });
  }

  function rename() {
    if (!byId("group-name").disabled) edits.rename(shownGroup(), byId("group-name").value);
  }

  choose.addEventListener("change", () => { if (choose.value !== "") openGroup(shownGroup()); });
  byId("previous-group").addEventListener("click", () => turn(-1));
  byId("next-group").addEventListener("click", () => turn(1));
  byId("group-name").addEventListener("change", rename);
  addEventListener("pagehide", rename); // a name that was typed and not yet left
  byId("merge").addEventListener("click", () => {
    if (byId("merge-into").value === "") return byId("merge-into").focus();
    const into = Number(byId("merge-into").value);
    edits.merge(shownGroup(), into);
    return openGroup(into);
  });
  byId("reject").addEventListener("click", () => edits.reject(shownGroup(), !edits.isRejected(shownGroup())));
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
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
    if (event.target.matches("input:not([type=range], [type=file])")) return; // a text field has an undo of its own
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
  openGroup(edits.groups()[0] ?? edits.OUT);
})();
