"use strict";
// What a page without script lacks: pictures to save, the other theme, and where the reader is.
(() => {
  const root = document.documentElement;
  const PAINT = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray",
    "font-family", "font-size", "font-weight"];

  function save(name, url) {
    const link = document.createElement("a");
    link.href = url;
    link.download = name;
    link.click();
  }

  // A drawing that stands alone: its colours written into it, on the page's paper.
  function standalone(svg) {
    const copy = svg.cloneNode(true);
    const hatch = document.getElementById("hatch");
    if (hatch && svg.querySelector(".exposed")) {
      const defs = document.createElementNS("http://www.w3.org/2000/svg", "defs");
      defs.append(hatch.cloneNode(true));
      copy.prepend(defs);
      paint(hatch, defs.firstChild);
    }
    const mine = svg.querySelectorAll("*");
    const theirs = [...copy.querySelectorAll("*")].filter((e) => !e.closest("defs"));
    mine.forEach((element, i) => paintOne(element, theirs[i]));
    const box = svg.viewBox.baseVal;
    copy.setAttribute("width", box.width);
    copy.setAttribute("height", box.height);
    copy.style.background = getComputedStyle(document.body).backgroundColor;
    return new XMLSerializer().serializeToString(copy);
  }

  function paint(from, to) {
    const theirs = to.querySelectorAll("*");
    from.querySelectorAll("*").forEach((element, i) => paintOne(element, theirs[i]));
  }

  function paintOne(from, to) {
    const style = getComputedStyle(from);
    for (const key of PAINT) to.style.setProperty(key, style.getPropertyValue(key));
  }

  function button(text, label, act) {
    const found = document.createElement("button");
    found.type = "button";
    found.textContent = text;
    found.setAttribute("aria-label", label);
    found.addEventListener("click", act);
    return found;
  }

  function decorate(figure) {
    const tools = figure.querySelector(".tools");
    const name = figure.dataset.name;
    const title = figure.querySelector("figcaption span").textContent;
    const seen = () => [...figure.querySelectorAll("svg")].find((s) => s.getClientRects().length);
    tools.prepend(
      button("SVG", `${title}: save as SVG`, () => {
        save(`${name}.svg`, "data:image/svg+xml;charset=utf-8," + encodeURIComponent(standalone(seen())));
      }),
      button("PNG", `${title}: save as PNG`, () => {
        const svg = seen(), box = svg.viewBox.baseVal, image = new Image();
        image.onload = () => {
          const canvas = document.createElement("canvas");
          canvas.width = 2 * box.width;
          canvas.height = 2 * box.height;
          canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
          save(`${name}.png`, canvas.toDataURL("image/png"));
        };
        image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(standalone(svg));
      }),
    );
  }

  document.querySelectorAll("figure[data-name]").forEach(decorate);

  const brand = document.querySelector(".brand");
  const isDark = () => root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  brand.append(button("Light or dark", "Switch between light and dark", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
  }));

  const links = new Map([...document.querySelectorAll("nav.bar a")].map((a) => [a.hash.slice(1), a]));
  const watch = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) {
        links.forEach((a) => { a.classList.remove("here"); a.removeAttribute("aria-current"); });
        const link = links.get(entry.target.id);
        link.classList.add("here");
        link.setAttribute("aria-current", "true");
      }
    }
  }, { rootMargin: "-25% 0px -70% 0px" });
  document.querySelectorAll("main section").forEach((s) => watch.observe(s));

  addEventListener("beforeprint", () => {
    document.querySelectorAll("details[data-print]").forEach((d) => { d.open = true; });
  });
})();
