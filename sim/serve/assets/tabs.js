"use strict";
// Questions beside the job on its machine: the cluster to rent, jobs that share one, a slow run.
(() => {
  const { $, state, ask, job, put, told, last } = window.live;

  // --- the cluster to rent: limits move over what was found ----------------------------------------

  let plans = []; // best of each machine: seconds, dollars, and the words for them

  async function size() {
    $("size-said").textContent = "Searching.";
    const body = { workload: state.workload, objective: $("objective").value, max_gpus: Number($("maxgpus").value) };
    if ($("deadline").value.trim()) body.deadline = $("deadline").value.trim();
    if ($("budget").value.trim()) body.budget = $("budget").value.trim();
    if ($("provider").value) body.provider = [$("provider").value];
    try {
      const found = await ask("size", body);
      $("size-said").textContent = found.sentence;
      put("size-found", found.html.size);
      plans = found.plans;
      limits();
    } catch (faults) { $("size-said").textContent = told(faults); }
  }

  const LIMITS = [["front-time", "seconds", "time"], ["front-cost", "usd", "cost"]];

  function limits() {
    $("front").hidden = plans.length < 2;
    for (const [id, by] of LIMITS) {
      $(id).max = plans.length;
      $(id).value = plans.length;
      $(id).dataset.order = JSON.stringify(plans.map((_, i) => i).sort((a, b) => plans[a][by] - plans[b][by]));
    }
    choose();
  }

  function choose() {
    let left = plans.map((_, i) => i);
    for (const [id, by, word] of LIMITS) {
      const order = JSON.parse($(id).dataset.order || "[]"), at = Number($(id).value);
      const limit = at < plans.length ? plans[order[at]] : null;
      const said = limit ? limit[word] : "any";
      $(`${id}-out`).textContent = said;
      $(id).setAttribute("aria-valuetext", said);
      if (limit) left = left.filter((i) => plans[i][by] <= limit[by]);
    }
    const best = left.sort((a, b) => plans[a].usd - plans[b].usd)[0];
    $("front-said").textContent = best === undefined ? "Nothing is both within that time and for that money."
      : `${plans[best].name}: ${plans[best].time}, ${plans[best].cost}.`;
    for (const dot of $("size-found").querySelectorAll("figure[data-name=cost-time] circle")) {
      const title = dot.querySelector("title")?.textContent || "";
      dot.classList.toggle("within", left.some((i) => title.startsWith(`${plans[i].name}:`)));
      dot.classList.toggle("best", best !== undefined && title.startsWith(`${plans[best].name}:`));
    }
  }

  // --- why is it slower ----------------------------------------------------------------------------

  async function diagnose() {
    const measured = Number($("measured").value);
    if (!(measured > 0)) { $("diagnose-said").textContent = "Say how many tokens a second a GPU does."; return; }
    $("diagnose-said").textContent = "Simulating causes.";
    try {
      const found = await ask("diagnose", { ...job(), measured: `tokens_per_s_per_gpu=${measured}` });
      $("diagnose-said").textContent = found.sentence;
      put("diagnose-found", found.html.diagnose);
    } catch (faults) { $("diagnose-said").textContent = told(faults); }
  }

  const LONGEST = 256e6; // of a log or a trace, unpacked

  // A file stays here: the median of its steps' seconds becomes tokens a second.
  async function dropped(file) {
    const said = $("diagnose-said");
    said.textContent = `Reading ${file.name}.`;
    try {
      const stream = file.name.endsWith(".gz") ? file.stream().pipeThrough(new DecompressionStream("gzip")) : file.stream();
      const text = await within(stream, LONGEST);
      const seconds = (text.includes('"traceEvents"') ? traced(text) : logged(text)).filter((v) => v > 0).sort((a, b) => a - b);
      if (!seconds.length || !last()) {
        said.textContent = `No step times are in ${file.name}: looked for step_time: 12.3, for 12.3 s/it, and for ProfilerStep marks of a trace.`;
        return;
      }
      const median = seconds[Math.floor(seconds.length / 2)], d = last().document;
      $("measured").value = (d.workload.global_batch_tokens / median / d.topology.gpus).toFixed(1);
      const count = `${seconds.length} step${seconds.length === 1 ? "" : "s"}`;
      await diagnose();
      said.textContent = `${file.name}: ${count}, ${median.toPrecision(4)} s in the median. ${said.textContent}`;
    } catch (error) { said.textContent = `${file.name} cannot be read: ${error.message || error}`; }
  }

  async function within(stream, most) {
    const reader = stream.getReader(), decoder = new TextDecoder();
    let text = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return text + decoder.decode();
      text += decoder.decode(value, { stream: true });
      if (text.length > most) throw new Error("it is too long");
    }
  }

  function logged(text) {
    const pattern = /(?:step[_ ]?time|sec(?:onds)?[_ /]?(?:per[_ ]?)?(?:it|step)|time[_ ]per[_ ]step)["']?\s*[:=]?\s*([\d.]+)|([\d.]+)\s*s\/it/gi;
    return [...text.matchAll(pattern)].map((m) => Number(m[1] ?? m[2]));
  }

  // From the start of a step to that of the next; of one alone, how long its mark is.
  function traced(text) {
    const marks = JSON.parse(text).traceEvents.filter((e) => e.ph === "X" && String(e.name).startsWith("ProfilerStep#"));
    const begun = [...new Map(marks.map((e) => [e.name, e])).values()].sort((a, b) => a.ts - b.ts);
    if (begun.length === 1) return [begun[0].dur * 1e-6];
    return begun.slice(1).map((e, i) => (e.ts - begun[i].ts) * 1e-6);
  }

  function dropping() {
    const zone = $("diagnose");
    for (const kind of ["dragenter", "dragover"]) {
      zone.addEventListener(kind, (event) => { event.preventDefault(); zone.classList.add("over"); });
    }
    zone.addEventListener("dragleave", () => zone.classList.remove("over"));
    zone.addEventListener("drop", (event) => {
      event.preventDefault();
      zone.classList.remove("over");
      if (event.dataTransfer.files[0]) dropped(event.dataTransfer.files[0]);
    });
  }

  addEventListener("DOMContentLoaded", () => {
    $("find").addEventListener("click", size);
    for (const [id] of LIMITS) $(id).addEventListener("input", choose);
    $("ask").addEventListener("click", diagnose);
    $("log").addEventListener("change", () => { if ($("log").files[0]) dropped($("log").files[0]); });
    dropping();
  });
})();
