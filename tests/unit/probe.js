"use strict";
// Opens `page` in the frame and writes what a reader would stumble over into #found, as JSON.
const frame = document.getElementById("f");
frame.addEventListener("load", () => setTimeout(() => {
  const inner = frame.contentWindow, doc = frame.contentDocument;
  document.getElementById("found").textContent = JSON.stringify(probe(inner, doc));
}, 300));
frame.srcdoc = page;

function probe(inner, doc) {
  const found = { faults: [], faint: [], nameless: [], skipped: [], overflow: 0, texts: 0 };
  doc.querySelectorAll("details").forEach((d) => { d.open = true; });
  const seen = (e) => e.getClientRects().length > 0;
  const walker = doc.createTreeWalker(doc.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
    if (!text || !seen(e) || e.closest("script,style,title") || e.tagName === "OPTION") continue;
    const style = inner.getComputedStyle(e);
    const colour = rgb(e.closest("svg") ? style.fill : style.color);
    const ratio = contrast(over(colour, behind(e, inner)), behind(e, inner));
    found.texts += 1;
    const size = parseFloat(style.fontSize), bold = parseInt(style.fontWeight) >= 700;
    const least = size >= 24 || (bold && size >= 18.66) ? 3 : 4.5;
    if (ratio < least) found.faint.push([text.slice(0, 40), Number(ratio.toFixed(2))]);
  }
  for (const e of doc.querySelectorAll("a[href], button, input, select, textarea, summary")) {
    const label = e.labels && e.labels.length ? e.labels[0].textContent : "";
    const name = e.getAttribute("aria-label") || e.textContent.trim() || label.trim();
    if (!name) found.nameless.push(e.outerHTML.slice(0, 80));
    if (e.tabIndex < 0 && !e.disabled) found.skipped.push(e.outerHTML.slice(0, 80));
  }
  found.overflow = doc.documentElement.scrollWidth - doc.documentElement.clientWidth;
  found.controls = doc.querySelectorAll("button").length;
  doc.querySelectorAll(".tools button").forEach((b) => b.click());
  found.faults = inner.faults;
  return found;
}

function rgb(text) {
  const parts = (text.match(/[\d.]+/g) || [0, 0, 0, 0]).map(Number);
  return { r: parts[0], g: parts[1], b: parts[2], a: parts.length > 3 ? parts[3] : 1 };
}

function over(top, below) {
  const mix = (k) => top[k] * top.a + below[k] * (1 - top.a);
  return { r: mix("r"), g: mix("g"), b: mix("b"), a: 1 };
}

function behind(element, inner) {
  const layers = [];
  for (let e = element; e; e = e.parentElement) {
    layers.push(rgb(inner.getComputedStyle(e).backgroundColor));
    if (layers.at(-1).a === 1) break;
  }
  return layers.reduceRight((below, top) => over(top, below), { r: 255, g: 255, b: 255, a: 1 });
}

function contrast(a, b) {
  const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (light + 0.05) / (dark + 0.05);
}

function luminance({ r, g, b }) {
  const [x, y, z] = [r, g, b].map((v) => {
    const s = v / 255;
    return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
}
