"use strict";
// Jobs that share the machine: rows to edit, a slider over its nodes, and who held which when.
(() => {
  const { $, state, ask, overrides, put, remember, told } = window.live;
  // key, what the column is called, how it is typed, what a new row has
  const CELLS = [
    ["name", "Job", "text", "job"], ["workload", "What it runs", "select", null], ["nodes", "Nodes", "number", 1],
    ["arrival", "Arrives", "text", "0 h"], ["deadline", "Done within", "text", ""], ["count", "Times", "number", 1],
    ["every", "Every", "text", "0 h"],
  ];
  let asked = "", running = false, pause = 0;

  function fresh() {
    return { nodes: 4, policy: "fifo", jobs: [
      { name: "nightly", workload: state.workload, nodes: 1, arrival: "0 h", deadline: "12 h", count: 3, every: "8 h" },
      { name: "large", workload: state.workload, nodes: 2, arrival: "2 h", deadline: "8 h", count: 2, every: "12 h" },
    ] };
  }

  function body() {
    const jobs = state.fleet.jobs.map((job) => {
      const row = { ...job };
      if (!String(row.deadline).trim()) delete row.deadline;
      return row;
    });
    const sets = [...overrides().filter((text) => !text.startsWith("nodes=")), `nodes=${state.fleet.nodes}`];
    return { topology: state.topology, overrides: sets.filter((text) => ofMachine(text)), jobs, policy: state.fleet.policy };
  }

  // Of what is set beside the form only keys of the machine are the cluster's.
  function ofMachine(text) {
    return /^(topology\.|(nodes|node|node_groups|network|graph|offer|reliability|calibration|gpu)\b)/.test(text);
  }

  // One question at a time; the newest next one follows.
  async function plan() {
    if (!state.fleet) return;
    const text = JSON.stringify(body());
    if (running || text === asked) return;
    running = true;
    asked = text;
    try {
      const found = await ask("plan", JSON.parse(text));
      $("fleet-said").textContent = found.sentence;
      put("fleet-found", found.html.plan);
    } catch (faults) { $("fleet-said").textContent = told(faults); }
    running = false;
    plan();
  }

  function changed() {
    remember();
    clearTimeout(pause);
    pause = setTimeout(plan, 200);
  }

  function cell(job, [key, title, type]) {
    const input = document.createElement(type === "select" ? "select" : "input");
    if (type === "select") input.append(...[...$("workload").options].map((o) => new Option(o.text, o.value)));
    else input.type = type;
    if (type === "number") { input.min = 1; input.max = key === "count" ? 100 : 512; }
    input.value = job[key];
    input.setAttribute("aria-label", `${title} of ${job.name}`);
    input.addEventListener(type === "select" ? "change" : "input", () => {
      job[key] = type === "number" ? Math.max(1, Math.round(Number(input.value) || 1)) : input.value;
      changed();
    });
    const box = document.createElement("td");
    box.append(input);
    return box;
  }

  function rows() {
    const { jobs } = state.fleet;
    $("fleet-jobs").tBodies[0].replaceChildren(...jobs.map((job, i) => {
      const row = document.createElement("tr"), last = document.createElement("td"), gone = document.createElement("button");
      gone.type = "button";
      gone.textContent = "Remove";
      gone.setAttribute("aria-label", `Remove ${job.name}`);
      gone.disabled = jobs.length === 1;
      gone.addEventListener("click", () => { jobs.splice(i, 1); rows(); changed(); });
      last.append(gone);
      row.append(...CELLS.map((column) => cell(job, column)), last);
      return row;
    }));
    $("fleet-nodes").value = state.fleet.nodes;
    $("fleet-nodes-out").textContent = state.fleet.nodes;
    $("fleet-policy").value = state.fleet.policy;
  }

  // The tab is shown: what stands in the address, or a first example.
  window.live.fleet = () => {
    state.fleet = state.fleet?.jobs?.length ? state.fleet : fresh();
    if (!$("fleet-jobs").contains(document.activeElement)) rows();
    changed();
  };

  addEventListener("DOMContentLoaded", () => {
    $("fleet-nodes").addEventListener("input", () => {
      state.fleet.nodes = Number($("fleet-nodes").value);
      $("fleet-nodes-out").textContent = state.fleet.nodes;
      changed();
    });
    $("fleet-policy").addEventListener("change", () => { state.fleet.policy = $("fleet-policy").value; changed(); });
    $("fleet-add").addEventListener("click", () => {
      const row = Object.fromEntries(CELLS.map(([key, , , value]) => [key, value]));
      state.fleet.jobs.push({ ...row, name: `job ${state.fleet.jobs.length + 1}`, workload: state.workload });
      rows();
      changed();
    });
  });
})();
