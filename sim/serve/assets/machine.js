"use strict";
// The machine as it is drawn: links and GPUs are slowed where they stand, counts changed beside it.
(() => {
  const { $, state, put, refresh } = window.live;
  const LEAST = 5, STEP = 5; // percent
  const COUNTS = { nic: ["node.nics.count", "NICs of a node"], gpu: ["node.gpus", "GPUs of a node"] };
  let part = null; // what the slider is about: its name as --slow has it
  let held = false, late = null; // a part is being dragged; the drawing that came meanwhile

  const nameOf = (element) => element.dataset.link ? `link:${element.dataset.link}` : `rank:${element.dataset.rank}`;
  const shareOf = (name) => Math.round(100 * Number(state.slow[name] ?? 1));
  const parts = () => [...$("machine-drawn").querySelectorAll("svg[role=group] [data-link], svg[role=group] [data-rank]")];

  // What is held under the pointer is not drawn anew: its drag would be lost.
  window.live.machine = (found) => {
    if (held) { late = found; return; }
    const focused = document.activeElement?.dataset?.link || document.activeElement?.dataset?.rank;
    put("machine-drawn", found.html.machine);
    $("machine-said").textContent = found.sentence;
    for (const element of parts()) {
      const name = nameOf(element);
      element.setAttribute("tabindex", "0");
      element.setAttribute("role", "slider");
      element.setAttribute("aria-label", element.querySelector("title").textContent);
      element.setAttribute("aria-valuemin", LEAST);
      element.setAttribute("aria-valuemax", 100);
      element.setAttribute("aria-valuenow", shareOf(name));
      if (element.dataset.rank) element.classList.toggle("slow-gpu", shareOf(name) < 100);
      element.addEventListener("focus", () => choose(name));
      element.addEventListener("keydown", (event) => key(event, name));
      element.addEventListener("pointerdown", (event) => drag(event, element, name));
      if (focused && [element.dataset.link, element.dataset.rank].includes(focused) && element.getClientRects().length) element.focus();
    }
    counts();
    listed();
  };

  // --- one part ----------------------------------------------------------------------------------

  function choose(name) {
    part = name;
    $("part").hidden = false;
    $("part-name").textContent = name.startsWith("rank:")
      ? `GPU of rank ${name.slice(5)}` : name.slice(5).replace("<>", " to ");
    show(shareOf(name));
  }

  function show(percent) {
    $("part-share").value = percent;
    $("part-out").textContent = `${percent} %`;
  }

  function set(name, percent, ask = true) {
    const share = Math.min(100, Math.max(LEAST, STEP * Math.round(percent / STEP)));
    if (share === 100) delete state.slow[name]; else state.slow[name] = String(share / 100);
    if (name === part) show(share);
    for (const element of parts()) if (nameOf(element) === name) element.setAttribute("aria-valuenow", share);
    listed();
    if (ask) refresh();
  }

  function key(event, name) {
    const by = { ArrowDown: -10, ArrowLeft: -10, ArrowUp: 10, ArrowRight: 10, PageDown: -25, PageUp: 25 }[event.key];
    const to = { Home: LEAST, End: 100, Delete: LEAST, Backspace: LEAST }[event.key];
    if (by === undefined && to === undefined) return;
    event.preventDefault();
    set(name, to ?? shareOf(name) + by);
  }

  // Dragged down a part gives less, a percent a pixel; a click alone chooses it.
  function drag(event, element, name) {
    const from = event.clientY, before = shareOf(name);
    element.focus();
    choose(name);
    held = true;
    element.setPointerCapture(event.pointerId);
    const move = (e) => { if (Math.abs(e.clientY - from) > 3) set(name, before - (e.clientY - from), false); };
    const end = () => {
      for (const [kind, told] of heard) element.removeEventListener(kind, told);
      held = false;
      if (late) window.live.machine(late);
      late = null;
      if (shareOf(name) !== before) refresh();
    };
    const heard = [["pointermove", move], ["pointerup", end], ["pointercancel", end]];
    for (const [kind, told] of heard) element.addEventListener(kind, told);
  }

  // --- all of a kind -----------------------------------------------------------------------------

  function counts() {
    const svg = $("machine-drawn").querySelector("svg[role=group]");
    $("counts").replaceChildren(...Object.entries(COUNTS).flatMap(([kind, [name, title]]) => {
      const there = svg ? svg.querySelectorAll(`[data-kind="${kind}"]`).length : 0;
      if (!there) return [];
      const box = document.createElement("span");
      box.className = "count";
      const fewer = step(`One fewer: ${title}`, "\u2212", name, there - 1), more = step(`One more: ${title}`, "+", name, there + 1);
      fewer.disabled = there < 2;
      const said = document.createElement("span");
      said.textContent = `${there} ${title}`;
      box.append(fewer, said, more);
      return [box];
    }));
  }

  function step(label, text, name, value) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.setAttribute("aria-label", label);
    button.addEventListener("click", () => {
      const others = state.more.split("\n").filter((line) => line.trim() && !line.trim().startsWith(`${name}=`));
      state.more = [...others, `${name}=${value}`].join("\n");
      window.live.fill();
      refresh();
    });
    return button;
  }

  function listed() {
    $("slowed").replaceChildren(...Object.keys(state.slow).map((name) => {
      const item = document.createElement("li"), button = document.createElement("button");
      button.type = "button";
      button.textContent = `${name.replace(/^\w+:/, "")} at ${shareOf(name)} %: make it whole`;
      button.addEventListener("click", () => set(name, 100));
      item.append(button);
      return item;
    }));
  }

  addEventListener("DOMContentLoaded", () => {
    $("part-share").addEventListener("input", () => { if (part) set(part, Number($("part-share").value)); });
    $("part-whole").addEventListener("click", () => { if (part) set(part, 100); });
  });
})();
