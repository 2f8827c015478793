"use strict";
// What a person made of the clusters: a list of steps, of which the first `done` count. Undo and redo only move `done`;
// what the steps amount to is found by taking them again, one after the other.
//
// A group is a cluster, by its number, or one that was added. The group of an image is that of its cluster, or the one
// that it was moved to (OUT: none), at the end of the chain of merges. Its label is the name of that group.
report.edits = (() => {
  const { facts, round } = report;
  const OUT = -1;
  const FORMAT = "scan-edits-1";
  const KEY = `${FORMAT}:${facts.fingerprint}`;
  const numClusters = facts.names.length;
  const listeners = [];
  let steps = [];
  let done = 0;
  let state = null;
  let members = null; // of every group, made when it is first asked for
  let kept = true;
  let seen = null; // what was stored when this page last looked there
  let begun = ""; // from which edits of label.py the steps go on
  let replaced = false; // whether those were others than the steps have made

  // What each kind of step does to a state.
  const take = {
    name: (now, group, text) => { text ? now.names.set(group, text) : now.names.delete(group); },
    merge: (now, group, into, name) => {
      if (leads(now, into, group)) return; // no group into itself
      now.merged.set(group, into);
      if (name) now.names.set(into, name);
    },
    reject: (now, group, yes) => { yes ? now.rejected.add(group) : now.rejected.delete(group); },
    move: (now, images, group) => {
      for (const image of images) now.moved.set(image, group);
      now.numGroups = Math.max(now.numGroups, group + 1);
    },
    moves: (now, pairs) => { for (const [images, group] of pairs) take.move(now, images, group); },
    replace: (now, other) => Object.assign(now, unpack(other)),
  };

  // Whether merges lead from a group to another, or both are the same.
  function leads(now, group, other) {
    while (group !== other && now.merged.has(group)) group = now.merged.get(group);
    return group === other;
  }

  function unpack(file) {
    const numbers = (object) => new Map(Object.entries(object).map(([key, value]) => [Number(key), value]));
    const now = { names: numbers(file.names), merged: numbers(file.merged), rejected: new Set(file.rejected), moved: numbers(file.moved) };
    const groups = [...now.names.keys(), ...now.merged.keys(), ...now.merged.values(), ...now.rejected, ...now.moved.values()];
    now.numGroups = groups.reduce((most, group) => Math.max(most, group + 1), numClusters);
    return now;
  }

  const untouched = () => unpack({ names: {}, merged: {}, rejected: [], moved: {} });

  function replay() {
    state = untouched();
    for (const [kind, ...values] of steps.slice(0, done)) take[kind](state, ...values);
    members = null;
  }

  function end(group) {
    while (state.merged.has(group)) group = state.merged.get(group);
    return group;
  }

  const groupOf = (image) => end(state.moved.get(image) ?? facts.clusters[image]);
  const nameOf = (group) => state.names.get(group) ?? "";
  const label = (image) => (state.rejected.has(groupOf(image)) ? "" : nameOf(groupOf(image)));
  const title = (group) => (group === OUT ? "Out: no group" : nameOf(group) || (group < numClusters ? facts.names[group] : `New group ${group}`));

  function membersOf(group) {
    if (!members) {
      members = new Map();
      for (let image = 0; image < facts.clusters.length; image += 1) {
        const own = groupOf(image);
        members.has(own) ? members.get(own).push(image) : members.set(own, [image]);
      }
    }
    return members.get(group) ?? [];
  }

  // The groups that are left, those without an image only where they were named.
  function groups() {
    const all = [...Array(state.numGroups).keys()].filter((group) => !state.merged.has(group));
    return all.filter((group) => membersOf(group).length || nameOf(group));
  }

  function store() {
    try {
      const text = JSON.stringify({ steps, done, begun });
      localStorage.setItem(KEY, text);
      [seen, kept] = [text, true];
    } catch {
      kept = false; // full, or not allowed: the page says so
    }
  }

  function changed(save = true) {
    replay();
    if (save) store();
    for (const act of listeners) act();
  }

  // Take over what is stored, by this page in another tab, too, so that no tab writes over another's steps; but not
  // where steps of this one could not be stored. Returns whether there was something else.
  function takeStored() {
    if (!kept) return false;
    const before = [steps, done, begun];
    try {
      const text = localStorage.getItem(KEY);
      if (text === null || text === seen) return false;
      ({ steps, done, begun = "" } = JSON.parse(text));
      replay();
      seen = text;
      return true;
    } catch { // not allowed, or not what this page stored
      [steps, done, begun] = before;
      kept = false;
      replay();
      return false;
    }
  }

  function step(...values) {
    takeStored();
    steps = [...steps.slice(0, done), values];
    done += 1;
    changed();
  }

  function go(by) {
    const taken = takeStored();
    const to = done + by;
    if (to >= 0 && to <= steps.length) {
      done = to;
      changed();
    } else if (taken) {
      changed(false);
    }
  }

  function pack(state) {
    const plain = (map) => Object.fromEntries([...map].sort(([one], [other]) => one - other));
    return {
      format: FORMAT,
      fingerprint: facts.fingerprint,
      names: plain(state.names),
      merged: plain(state.merged),
      rejected: [...state.rejected].sort((one, other) => one - other),
      moved: plain(state.moved),
    };
  }

  // Why a file's contents are not edits of this page; empty when they are.
  function fault(file) {
    // Every group that was added was made for an image, so that there are no more than these.
    const most = numClusters + facts.paths.length;
    const whole = (value) => Number.isInteger(value) && value >= OUT && value < most;
    const mapping = (value, end, fits) => value !== null && typeof value === "object" && !Array.isArray(value) &&
      Object.entries(value).every(([key, item]) => /^\d{1,9}$/.test(key) && Number(key) < end && fits(item));
    if (file?.format !== FORMAT) return "This is not an edits.json file.";
    if (file.fingerprint !== facts.fingerprint) return "These are the edits of another clustering.";
    const fits = mapping(file.names, most, (name) => typeof name === "string") && mapping(file.merged, most, whole) &&
      Array.isArray(file.rejected) && file.rejected.every(whole) && mapping(file.moved, facts.paths.length, whole);
    if (!fits) return "This file is damaged.";
    for (const start of Object.keys(file.merged)) {
      let group = Number(start);
      for (let i = 0; group in file.merged; i += 1, group = file.merged[group]) {
        if (i > facts.paths.length + numClusters) return "This file is damaged.";
      }
    }
    return "";
  }

  // Whether the steps came by these edits: what was done after them goes on from there.
  function passed(edits) {
    const [given, now] = [unpack(edits), untouched()];
    const text = JSON.stringify(pack(given));
    return steps.slice(0, done).some(([kind, ...values]) => {
      take[kind](now, ...values);
      return now.moved.size === given.moved.size && now.names.size === given.names.size && JSON.stringify(pack(now)) === text;
    });
  }

  // What label.py was given last, where the steps do not go on from it yet: it may have come from another browser.
  function goOn() {
    const now = JSON.stringify(pack(unpack(round.edits)));
    if (begun === now) return;
    begun = now;
    replaced = !passed(round.edits);
    if (replaced) {
      steps = [...steps.slice(0, done), ["replace", round.edits]];
      done += 1;
      replay();
    }
    store();
  }

  replay();
  takeStored();
  if (round) goOn();
  addEventListener("storage", () => { if (takeStored()) changed(false); });

  return {
    OUT,
    groups,
    groupOf,
    groupOfCluster: end,
    membersOf,
    nameOf,
    title,
    label,
    since: (image) => (groupOf(image) === facts.clusters[image] ? "" : `, now: ${title(groupOf(image))}`),
    pack: () => pack(state),
    fault,
    isRejected: (group) => state.rejected.has(group),
    isByHand: (image) => {
      const group = groupOf(image); // a new group without a name says nothing of its images
      return state.moved.has(image) && (group === OUT || state.rejected.has(group) || nameOf(group) !== "");
    },
    hadOthers: () => replaced && done > 1 && steps[done - 1][0] === "replace",
    isKept: () => kept,
    rename: (group, text) => {
      const name = text.replace(/[\p{Cc}\ufffe\uffff]/gu, " ").trim().split(/\s+/).join(" ");
      takeStored();
      if (name !== nameOf(group)) step("name", group, name);
    },
    merge: (group, into) => {
      takeStored();
      step("merge", group, into, nameOf(into) || nameOf(group)); // a name that was given is not lost
    },
    reject: (group, yes) => step("reject", group, yes),
    move: (images, group) => step("move", images, group),
    moveAll: (pairs) => step("moves", pairs),
    addGroup: (images) => {
      takeStored();
      const group = state.numGroups;
      step("move", images, group);
      return group;
    },
    replace: (file) => step("replace", file),
    undo: () => go(-1),
    redo: () => go(1),
    canUndo: () => done > 0,
    canRedo: () => done < steps.length,
    onChange: (act) => listeners.push(act),
  };
})();
