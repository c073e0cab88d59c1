"use strict";
// A log or a profiler's trace that is dropped: read here, and of a trace only what a comparison needs is sent.
(() => {
  const { $, ask, job, put, told, last, diagnose } = window.live;

  const LONGEST = 512e6; // of a log or a trace, unpacked: as scaling-sim itself reads
  const SENT = 1000000, UNPACKED = 16000000; // most bytes of a question, packed and as JSON

  // The median of its steps' seconds becomes tokens a second.
  async function dropped(file) {
    const said = $("diagnose-said");
    said.textContent = `Reading ${file.name}.`;
    put("trace-found", "");
    $("trace-said").textContent = "";
    try {
      const [a, b] = new Uint8Array(await file.slice(0, 2).arrayBuffer()), packed = a === 0x1f && b === 0x8b;
      const stream = packed ? file.stream().pipeThrough(new DecompressionStream("gzip")) : file.stream();
      const text = await within(stream, LONGEST);
      const trace = text.includes('"traceEvents"') ? JSON.parse(text) : null;
      const seconds = (trace ? traced(trace) : logged(text)).filter((v) => v > 0).sort((a, b) => a - b);
      if (!seconds.length || !last()) {
        said.textContent = `No step times are in ${file.name}: looked for step_time: 12.3, for 12.3 s/it, and for ProfilerStep marks of a trace.`;
        return;
      }
      const median = seconds[Math.floor(seconds.length / 2)], d = last().document;
      $("measured").value = (d.workload.global_batch_tokens / median / d.topology.gpus).toFixed(1);
      const count = `${seconds.length} step${seconds.length === 1 ? "" : "s"}`;
      await diagnose();
      said.textContent = `${file.name}: ${count}, ${median.toPrecision(4)} s in the median. ${said.textContent}`;
      if (trace) await beside(file.name, trace);
    } catch (error) { said.textContent = `${file.name} cannot be read: ${error.message || error}`; }
  }

  async function within(stream, most) {
    const reader = stream.getReader(), decoder = new TextDecoder(), parts = [];
    let length = 0;
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return parts.join("") + decoder.decode();
      parts.push(decoder.decode(value, { stream: true }));
      length += value.length;
      if (length > most) throw new Error("it is too long");
    }
  }

  function logged(text) {
    const pattern = /(?:step[_ ]?time|sec(?:onds)?[_ /]?(?:per[_ ]?)?(?:it|step)|time[_ ]per[_ ]step)["']?\s*[:=]?\s*([\d.]+)|([\d.]+)\s*s\/it/gi;
    return [...text.matchAll(pattern)].map((m) => Number(m[1] ?? m[2]));
  }

  function marks(trace) {
    const found = trace.traceEvents.filter((e) => e.ph === "X" && String(e.name).startsWith("ProfilerStep#"));
    return [...new Map(found.map((e) => [e.name, e])).values()].sort((a, b) => a.ts - b.ts);
  }

  // From the start of a step to that of the next; of one alone, how long its mark is.
  function traced(trace) {
    const begun = marks(trace);
    if (begun.length === 1) return [begun[0].dur * 1e-6];
    return begun.slice(1).map((e, i) => (e.ts - begun[i].ts) * 1e-6);
  }

  // --- the recorded step beside the simulated one ----------------------------------------------------

  const ON_GPU = ["kernel", "gpu_memcpy", "gpu_memset"], LAUNCHES = ["cuda_runtime", "cuda_driver", "hip_runtime"];
  const SAYS = ["correlation", "phase", "kind", "Collective name", "In msg nelems", "Out msg nelems", "Group size", "dtype"];
  const BACKWARD = "autograd::engine::evaluate_function";

  async function beside(name, trace) {
    const said = $("trace-said"), all = marks(trace);
    said.textContent = "Setting the recorded step beside the simulated one.";
    // as many steps as a question may hold, the last ones: the first are still warming up
    for (let steps = all.length; steps >= 1; steps = Math.floor(steps / 2)) {
      const text = JSON.stringify({ ...job(), name, recorded: thinned(trace, all.slice(-steps)) });
      const packed = text.length > UNPACKED ? null
        : await new Response(new Blob([text]).stream().pipeThrough(new CompressionStream("gzip"))).blob();
      if (!packed || packed.size > SENT) continue;
      try {
        const found = await ask("trace", packed, "gzip");
        const which = steps < all.length ? ` Of ${all.length} steps the last ${steps === 1 ? "one" : steps} stand here.` : "";
        said.textContent = found.sentence + which;
        put("trace-found", found.html.trace);
      } catch (faults) { said.textContent = told(faults); }
      return;
    }
    said.textContent = `One step of ${name} is more than a question may hold; scaling-sim trace diff ${name} compares it.`;
  }

  // What a comparison reads of some steps: kernels, their launches, marks of steps, backward and optimizer.
  function thinned(trace, steps) {
    const begin = steps[0].ts, final = steps[steps.length - 1], end = final.ts + final.dur;
    const inside = (e) => e.ts >= begin && e.ts <= end;
    const kept = [], launched = new Set();
    for (const e of trace.traceEvents) {
      if (e.ph !== "X" || !inside(e)) continue;
      const name = String(e.name), cat = String(e.cat).toLowerCase();
      if (LAUNCHES.includes(cat)) {
        if (e.args?.correlation === undefined) continue;
        launched.add(e.args.correlation);
        kept.push(slim(e, "launch", begin));
      } else if (name.startsWith(BACKWARD)) kept.push(slim(e, BACKWARD, begin));
      else if (cat === "user_annotation" && /^(ProfilerStep#|Optimizer\.step#)/.test(name)) kept.push(slim(e, name, begin));
    }
    const mine = launched.size ? (e) => launched.has(e.args?.correlation) : inside;
    for (const e of trace.traceEvents) {
      if (e.ph === "X" && ON_GPU.includes(String(e.cat).toLowerCase()) && mine(e)) kept.push(slim(e, String(e.name), begin));
    }
    const { deviceProperties, distributedInfo, microSteps } = trace;
    const device = Array.isArray(deviceProperties) ? deviceProperties.slice(0, 1) : undefined;
    return { deviceProperties: device, distributedInfo, microSteps, traceEvents: kept };
  }

  const round = (value) => Math.round(1e3 * Number(value)) / 1e3;

  function slim(e, name, begin) {
    const args = {};
    for (const key of SAYS) if (e.args?.[key] !== undefined) args[key] = e.args[key];
    return { ph: "X", name, cat: e.cat, pid: e.pid, tid: e.tid, ts: round(e.ts - begin), dur: round(e.dur), args };
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
    $("log").addEventListener("change", () => { if ($("log").files[0]) dropped($("log").files[0]); });
    dropping();
  });
})();
