"use strict";
// The page asks the server for every number it shows; what it knows itself is the form and the address.
(() => {
  const $ = (id) => document.getElementById(id);
  const powers = (low, high) => {
    const found = [];
    for (let v = low; v <= high; v *= 2) found.push(v);
    return found;
  };
  // key, name, stops, where the answer says what the files have
  const SLIDERS = [
    ["nodes", "Nodes", powers(1, 128), (d) => d.topology.nodes],
    ["micro_batch", "Micro-batch, sequences", [1, 2, 3, 4, 6, 8, 12, 16, 24, 32], (d) => d.workload.micro_batch],
    ["gradient_accumulation", "Accumulated micro-batches", powers(1, 128), (d) => d.workload.gradient_accumulation],
    ["sequence_length", "Sequence length, tokens", powers(512, 131072), (d) => d.workload.sequence_length],
  ];
  const CHOICES = [
    ["parallelism", "Strategy", ["fsdp2", "fsdp1", "ddp", "zero1", "zero2", "zero3", "single"]],
    ["activation_checkpointing", "Checkpointing", ["none", "full", "{selective: op}"]],
    ["precision", "Precision", ["bf16", "fp8"]],
    ["attention", "Attention", ["flash2", "flash3", "sdpa", "eager"]],
    ["compile", "torch.compile", ["true", "false"]],
    ["loss", "Loss", ["eager", "fused", "fused-linear"]],
  ];
  const state = {
    topology: "dgx-h100", workload: "llama3-8b-sft", set: {}, more: "", slow: {}, pin: null, tab: "whatif",
    fleet: null,
  };
  let last = null; // the last answer
  let drawn = {}; // tab -> what it was drawn for

  // --- state and address -------------------------------------------------------------------------

  function overrides(of = state) {
    const typed = of.more.split("\n").map((line) => line.trim()).filter(Boolean);
    return [...Object.entries(of.set).map(([key, value]) => `${key}=${value}`), ...typed];
  }

  function job(of = state) {
    return { topology: of.topology, workload: of.workload, overrides: overrides(of) };
  }

  // The same on a machine whose parts are as slow as they were made.
  function degraded(of = state) {
    return { ...job(of), slow: Object.entries(of.slow || {}).map(([part, share]) => `${part}=${share}`) };
  }

  function remember() {
    const words = new URLSearchParams({ m: state.topology, j: state.workload });
    for (const [key, value] of Object.entries(state.set)) words.append("s", `${key}=${value}`);
    if (state.more.trim()) words.set("k", state.more);
    for (const [part, share] of Object.entries(state.slow)) words.append("w", `${part}=${share}`);
    if (state.fleet) words.set("f", JSON.stringify(state.fleet));
    if (state.pin) words.set("a", JSON.stringify(state.pin));
    if (state.tab !== "whatif") words.set("t", state.tab);
    // another machine or job is a place to go back to, a moved slider is not
    const was = new URLSearchParams(location.hash.slice(1));
    const moved = was.has("m") && (was.get("m") !== state.topology || was.get("j") !== state.workload);
    history[moved ? "pushState" : "replaceState"](null, "", "#" + words.toString());
  }

  function recall() {
    const words = new URLSearchParams(location.hash.slice(1));
    state.topology = words.get("m") || state.topology;
    state.workload = words.get("j") || state.workload;
    state.more = words.get("k") || "";
    state.set = {};
    state.slow = {};
    for (const [name, into] of [["s", state.set], ["w", state.slow]]) {
      for (const text of words.getAll(name)) {
        const at = name === "s" ? text.indexOf("=") : text.lastIndexOf("=");
        if (at > 0) into[text.slice(0, at)] = text.slice(at + 1);
      }
    }
    state.pin = read(words.get("a"));
    state.fleet = read(words.get("f"));
    state.tab = $("tab-" + words.get("t")) ? words.get("t") : "whatif";
  }

  function read(text) {
    try { return text ? JSON.parse(text) : null; } catch { return null; }
  }

  // --- asking ------------------------------------------------------------------------------------

  // Questions without their answer are counted on the page: while there are any, things may still move on it.
  let open = 0;

  async function ask(verb, body, packed) {
    const headers = { "Content-Type": "application/json" };
    if (packed) headers["Content-Encoding"] = packed;
    document.body.dataset.open = String(++open);
    try {
      const answer = await fetch(`api/${verb}`, { method: "POST", headers, body: packed ? body : JSON.stringify(body) });
      const found = await answer.json();
      if (!answer.ok) throw found.faults || [{ path: "", message: answer.statusText }];
      return found;
    } finally {
      document.body.dataset.open = String(--open);
    }
  }

  let running = false, wanted = false, pause = 0;

  // One question at a time: while it is open, only the newest next one is kept.
  async function refresh() {
    remember();
    if (running) { wanted = true; return; }
    running = true;
    clearTimeout(pause);
    document.querySelectorAll("#sentence, #tiles, #further, #whatif").forEach((e) => e.classList.add("stale"));
    const began = performance.now();
    let answered = false;
    try {
      const body = degraded();
      if (state.pin) body.beside = degraded(state.pin);
      const found = await ask("run", body);
      last = found;
      showFaults([]);
      show(found);
      const took = performance.now() - began;
      $("latency").textContent = `Answered in ${Math.round(took)} ms.`;
      document.body.dataset.latency = took.toFixed(1);
      document.body.dataset.answers = String(Number(document.body.dataset.answers || 0) + 1);
      drawn = {};
      answered = true;
    } catch (faults) {
      showFaults(faults, last ? "The figures below, in grey, are those of the entries before." : "");
    }
    if (answered) document.querySelectorAll(".stale").forEach((e) => e.classList.remove("stale"));
    running = false;
    if (wanted) { wanted = false; refresh(); return; }
    if (answered) pause = setTimeout(() => { further(); draw(); }, 450);
  }

  // What takes longer than a slider may: the curve, changes worth trying.
  async function further() {
    const asked = JSON.stringify(degraded());
    try {
      const found = await ask("run", { ...degraded(), curve: true, changes: true });
      if (asked !== JSON.stringify(degraded())) return;
      put("scaling", found.html.scaling || "");
      showChanges(found.changes);
    } catch { showChanges([]); }
  }

  async function draw() {
    const body = degraded(), tab = state.tab, asked = JSON.stringify([body, state.pin]);
    if (tab === "fleet") live.fleet();
    if (!["timeline", "machine"].includes(tab) || drawn[tab] === asked) return;
    drawn[tab] = asked;
    if (state.pin) body.beside = degraded(state.pin);
    try {
      const found = await ask("draw", { ...body, what: tab });
      if (tab === "machine") live.machine(found); else put("timeline", found.html[tab]);
    } catch (faults) { showFaults(faults); }
  }

  // --- showing -----------------------------------------------------------------------------------

  function put(id, html) {
    $(id).innerHTML = html;
    $(id).querySelectorAll("figure[data-name]").forEach(noScriptLinks);
  }

  function noScriptLinks(figure) { figure.setAttribute("role", "group"); }

  function show(found) {
    $("sentence").textContent = found.sentence;
    $("warnings").replaceChildren(...found.warnings.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }));
    $("warnings").hidden = found.warnings.length === 0;
    for (const name of ["tiles", "further", "parts", "memory"]) put(name, found.html[name]);
    const d = found.document;
    for (const [key, , stops, own] of SLIDERS) setSlider(key, stops, state.set[key] ?? own(d), key in state.set);
    $("pinned").hidden = !found.beside;
    if (found.beside) {
      const names = { tokens_per_s: "tokens a second", memory: "memory", cost: "cost" };
      const told = Object.entries(names).filter(([key]) => found.beside[key] !== null)
        .map(([key, name]) => `${found.beside[key].toFixed(2)} x the ${name}`);
      const a = [state.pin.topology, state.pin.workload, ...degraded(state.pin).overrides, ...degraded(state.pin).slow];
      $("pinned").textContent = `A is ${a.join(", ")}. B, below, has ${told.join(", ")} of A.`;
    }
  }

  function showFaults(faults, after = "") {
    const list = Array.isArray(faults) ? faults : [{ path: "", message: "the server does not answer" }];
    $("faults").replaceChildren(...list.map((f) => {
      const item = document.createElement("li");
      item.textContent = f.path ? `${f.path}: ${f.message}` : f.message;
      return item;
    }));
    $("faults").append(...(after ? [Object.assign(document.createElement("li"), { textContent: after })] : []));
    $("faults").hidden = list.length === 0;
  }

  function showChanges(changes) {
    const items = changes.map((change) => {
      const item = document.createElement("li"), button = document.createElement("button");
      const gain = document.createElement("span"), percent = 100 * (change.ratio - 1);
      gain.className = "gain " + (percent < 0 ? "better" : "worse");
      gain.textContent = `${percent < 0 ? "\u2212" : "+"}${Math.abs(percent).toFixed(1)} % time per token`;
      button.type = "button";
      button.append(gain, change.text + (change.verdict === "fits" ? "" : ` (${change.verdict})`));
      button.addEventListener("click", () => { apply(change.overrides); });
      item.append(button);
      return item;
    });
    if (!items.length) {
      const none = document.createElement("li");
      none.className = "quiet";
      none.textContent = "Nothing that is known.";
      items.push(none);
    }
    $("changes").replaceChildren(...items);
  }

  function apply(words) {
    const typed = [];
    for (const word of words) {
      const at = word.indexOf("="), key = word.slice(0, at), value = word.slice(at + 1);
      const known = SLIDERS.some((s) => s[0] === key) || CHOICES.some((c) => c[0] === key && c[2].includes(value));
      if (known) state.set[key] = value; else typed.push(word);
    }
    state.more = [state.more.trim(), ...typed].filter(Boolean).join("\n");
    fill();
    refresh();
  }

  // --- the form ----------------------------------------------------------------------------------

  function slider([key, name, stops]) {
    const box = document.createElement("div");
    box.className = "field slider own";
    const label = document.createElement("label"), out = document.createElement("output");
    const input = document.createElement("input");
    input.type = "range";
    input.id = "slider-" + key;
    input.min = 0;
    input.max = stops.length - 1;
    input.step = 1;
    label.htmlFor = input.id;
    out.id = "out-" + key;
    out.htmlFor = input.id;
    label.append(name, " ", out);
    box.append(label, input);
    input.addEventListener("input", () => {
      state.set[key] = String(stops[input.value]);
      setSlider(key, stops, state.set[key], true);
      refresh();
    });
    return box;
  }

  function setSlider(key, stops, value, chosen) {
    const input = $("slider-" + key), number = Number(value);
    const nearest = stops.reduce((best, v, i) => Math.abs(v - number) < Math.abs(stops[best] - number) ? i : best, 0);
    if (document.activeElement !== input) input.value = nearest;
    input.setAttribute("aria-valuetext", Number(value).toLocaleString("en"));
    $("out-" + key).textContent = Number(value).toLocaleString("en");
    input.parentElement.classList.toggle("own", !chosen);
  }

  function choice([key, name, values]) {
    const box = document.createElement("div");
    box.className = "field";
    const label = document.createElement("label"), select = document.createElement("select");
    select.id = "choice-" + key;
    label.htmlFor = select.id;
    label.textContent = name;
    select.append(new Option("as the file says", ""), ...values.map((v) => new Option(v.replace(/[{}]/g, ""), v)));
    select.addEventListener("change", () => {
      if (select.value) state.set[key] = select.value; else delete state.set[key];
      refresh();
    });
    box.append(label, select);
    return box;
  }

  function fill() {
    $("topology").value = state.topology;
    $("workload").value = state.workload;
    $("more").value = state.more;
    for (const [key] of CHOICES) $("choice-" + key).value = state.set[key] ?? "";
    $("pin").textContent = state.pin ? "Unpin A" : "Pin as A";
    tab(state.tab, false);
  }

  function tab(name, focus) {
    state.tab = name;
    document.querySelectorAll("[role=tab]").forEach((button) => {
      const mine = button.id === "tab-" + name;
      button.setAttribute("aria-selected", String(mine));
      button.tabIndex = mine ? 0 : -1;
      $(button.getAttribute("aria-controls")).hidden = !mine;
      if (mine && focus) button.focus();
    });
    remember();
    draw();
  }

  async function copy(kind) {
    const text = kind === "link" ? location.origin + location.pathname + location.hash : last ? last.copies[kind] : "";
    $("copied").textContent = text;
    try { await navigator.clipboard.writeText(text); } catch { /* it stands there to be copied */ }
  }

  async function start() {
    recall();
    const known = await (await fetch("api/catalogue")).json();
    $("topology").append(...known.topologies.map((name) => new Option(name, name)));
    $("workload").append(...known.workloads.map((name) => new Option(name, name)));
    $("provider").append(...known.providers.map((name) => new Option(name, name)));
    $("sliders").append(...SLIDERS.map(slider));
    $("choices").append(...CHOICES.map(choice));
    fill();
    for (const id of ["topology", "workload"]) {
      $(id).addEventListener("change", () => { state[id] = $(id).value; refresh(); });
    }
    let typing = 0;
    $("more").addEventListener("input", () => {
      state.more = $("more").value;
      clearTimeout(typing);
      typing = setTimeout(refresh, 350);
    });
    $("pin").addEventListener("click", () => {
      state.pin = state.pin ? null : { topology: state.topology, workload: state.workload, set: { ...state.set }, more: state.more, slow: { ...state.slow } };
      fill();
      refresh();
    });
    $("reset").addEventListener("click", () => { state.set = {}; state.more = ""; state.slow = {}; fill(); refresh(); });
    document.querySelectorAll("[data-copy]").forEach((b) => b.addEventListener("click", () => copy(b.dataset.copy)));
    const tabs = [...document.querySelectorAll("[role=tab]")];
    tabs.forEach((button, i) => {
      button.addEventListener("click", () => tab(button.getAttribute("aria-controls"), false));
      button.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (step) tab(tabs[(i + step + tabs.length) % tabs.length].getAttribute("aria-controls"), true);
      });
    });
    $("form").addEventListener("submit", (event) => event.preventDefault());
    addEventListener("hashchange", () => { recall(); fill(); refresh(); });
    await refresh();
  }

  // Faults of a question in a sentence.
  const told = (faults) => Array.isArray(faults) ? faults.map((f) => [f.path, f.message].filter(Boolean).join(": ")).join("; ")
    : "the server does not answer";

  const live = { $, state, ask, job, overrides, put, fill, refresh, remember, told, last: () => last };
  window.live = live;
  addEventListener("DOMContentLoaded", () => start().catch((error) => showFaults([{ path: "", message: String(error) }])));
})();
