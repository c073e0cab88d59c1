"use strict";
// Questions beside the job on its machine: the cluster to rent, jobs that share one, a slow run.
(() => {
  const live = window.live, { $, state, ask, job, put, told } = live;

  // --- the cluster to rent: limits move over what was found ----------------------------------------

  let plans = []; // best of each machine: seconds, dollars, and the words for them

  async function size() {
    $("size-said").textContent = "Searching.";
    const body = { workload: state.workload, objective: $("objective").value, max_gpus: Number($("maxgpus").value) };
    if ($("deadline").value.trim()) body.deadline = $("deadline").value.trim();
    const most = $("budget").value.trim();
    if (most) body.budget = /^[\d.]+$/.test(most) ? `${most} USD` : most;
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

  live.diagnose = diagnose;

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

  addEventListener("DOMContentLoaded", () => {
    $("find").addEventListener("click", size);
    for (const [id] of LIMITS) $(id).addEventListener("input", choose);
    $("ask").addEventListener("click", diagnose);
  });
})();
