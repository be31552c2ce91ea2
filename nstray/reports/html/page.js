"use strict";
// Filters, the enlarged view, sliders and copied pictures of a report or a comparison.
(function () {
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));
  const make = (name, text) => {
    const node = document.createElement(name);
    if (text !== undefined) node.textContent = text;
    return node;
  };
  document.documentElement.classList.add("scripted");

  // A picture is in the file once; elsewhere it is copied.
  const sources = new Map(all("img[data-key]").map((img) => [img.dataset.key, img]));
  for (const img of all("img[data-same]")) img.src = sources.get(img.dataset.same).src;
  const broken = (img) => {
    const tile = make("span");
    tile.className = img.className + " missing";
    tile.dataset.role = img.dataset.role;
    tile.append(make("b", "No picture"), " ", make("span", "the browser can't draw its bytes"));
    img.replaceWith(tile);
  };
  for (const img of all("img")) {
    if (img.complete && !img.naturalWidth) broken(img);
    else img.addEventListener("error", () => broken(img));
  }

  // A slider shows the left picture up to the line and the right one beyond it.
  function slider(root, left, right, names, what) {
    const cut = (value) => root.style.setProperty("--cut", value + "%");
    const tags = names.map((name, index) => {
      const tag = make("span", name);
      tag.className = "tag " + (index ? "right" : "left");
      return tag;
    });
    const both = left.tagName === "IMG" && right.tagName === "IMG";
    root.classList.toggle("halves", !both);
    root.replaceChildren(...(both ? [right, left] : [left, right]));
    if (!both) {
      root.append(...tags);
      return;
    }
    right.classList.add("under");
    left.classList.add("over");
    const shape = () => {
      root.style.setProperty("--w", right.naturalWidth);
      root.style.setProperty("--h", right.naturalHeight);
    };
    if (right.naturalWidth) shape();
    else right.addEventListener("load", shape);
    const line = make("span");
    line.className = "line";
    const range = make("input");
    Object.assign(range, { type: "range", min: 0, max: 100, step: 1, value: 50 });
    range.setAttribute("aria-label", `Line between ${names[0]} and ${names[1]} of ${what}`);
    const moved = () => {
      cut(range.value);
      range.setAttribute("aria-valuetext", `${range.value} % ${names[0]}`);
    };
    range.addEventListener("input", moved);
    root.append(line, ...tags, range);
    moved();
  }
  for (const root of all(".slider[data-name]")) {
    const [left, right] = ["left", "right"].map((role) => root.querySelector(`[data-role=${role}]`));
    slider(root, left, right, ["left", "right"], root.dataset.name);
  }

  // Filters hide cards, groups of a style, and the rows and panels of other styles.
  const form = document.querySelector("form.filters");
  const limits = new Map();
  const filters = all("select[data-filter]", form);
  function show() {
    const chosen = filters.filter((f) => f.value !== "").map((f) => [f.dataset.filter, f.value]);
    const fits = (node) => chosen.every(([name, value]) => !(name in node.dataset) || node.dataset[name] === value);
    for (const node of all("[data-style]:not(.card)")) node.hidden = !fits(node);
    for (const list of all("ul.cards")) {
      const group = list.closest(".group[data-first]");
      const most = group ? limits.get(group) || Number(group.dataset.first) : Infinity;
      const cards = all(".card", list);
      const fitting = cards.filter(fits);
      cards.forEach((card) => (card.hidden = true));
      fitting.slice(0, most).forEach((card) => (card.hidden = false));
      if (!group) continue;
      group.hidden = !fitting.length;
      const button = group.querySelector(".more");
      button.hidden = fitting.length <= most;
      button.textContent = `Show ${fitting.length - most} more`;
    }
    const gallery = all("#gallery .card");
    const found = gallery.filter(fits).length;
    const pairs = gallery.length === 1 ? "1 pair" : `${gallery.length} pairs`;
    document.getElementById("fitting").textContent = chosen.length ? `${found} of ${pairs} of the gallery fit` : `${pairs} in the gallery`;
    form.classList.toggle("active", chosen.length > 0);
  }
  form.addEventListener("change", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(show));
  for (const button of all(".more")) {
    button.addEventListener("click", () => {
      const group = button.closest(".group");
      const before = all(".card:not([hidden])", group).length;
      limits.set(group, Infinity);
      show();
      const next = all(".card:not([hidden])", group)[before];
      const target = next && next.querySelector("button, input");
      if (target) target.focus();
    });
  }
  show();

  for (const button of all(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentNode.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        getSelection().selectAllChildren(code);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
  }
  document.getElementById("save").addEventListener("click", () => {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(data, null, 1)], { type: "application/json" }));
    link.download = "nstray-numbers.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });

  // The enlarged view of a card.
  const view = document.getElementById("view");
  if (!view) return;
  const part = (name) => document.getElementById("view-" + name);
  let cards = [];
  let at = 0;
  const copyOf = (card, role) => {
    const found = card.querySelector(`[data-role=${role}]`).cloneNode(true);
    found.removeAttribute("data-key");
    found.removeAttribute("data-same");
    return found;
  };
  function curve(values) {
    const box = part("curve");
    all("svg, p", box).forEach((node) => node.remove());
    const first = values[0];
    const shares = values.map((v) => v / first).filter((v) => v > 0 && isFinite(v));
    box.hidden = shares.length < 2;
    if (box.hidden) return;
    const logs = shares.map(Math.log10);
    const low = Math.min(...logs);
    const span = Math.max(...logs) - low || 1;
    const points = logs.map((v, i) => `${(100 * i) / (logs.length - 1)},${100 - (100 * (v - low)) / span}`);
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("viewBox", "0 0 100 100");
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    const words = `from 1 to ${shares[shares.length - 1].toPrecision(3)}`;
    svg.setAttribute("aria-label", "Loss curve " + words);
    const line = document.createElementNS(space, "polyline");
    line.setAttribute("class", "median");
    line.setAttribute("points", points.join(" "));
    svg.append(line);
    box.prepend(svg);
    box.append(make("p", words));
  }
  function draw() {
    const card = cards[at];
    const pair = data.pairs[Number(card.dataset.pair)];
    part("title").textContent = pair.pair_id;
    part("place").textContent = `${at + 1} of ${cards.length}`;
    const [content, result] = [copyOf(card, "content"), copyOf(card, "result")];
    const stage = part("slider");
    slider(stage, content, result, ["content", "result"], pair.pair_id);
    part("style").replaceChildren(copyOf(card, "style"));
    part("name").textContent = pair.style;
    part("facts").replaceChildren(
      ...pair.facts.map(([name, value]) => {
        const row = make("div");
        row.append(make("dt", name), make("dd"));
        row.lastChild.append(make("bdi", value));
        return row;
      })
    );
    curve(pair.curve);
    part("previous").disabled = at === 0;
    part("next").disabled = at === cards.length - 1;
  }
  function go(step) {
    const to = Math.min(cards.length - 1, Math.max(0, at + step));
    if (to === at) return;
    at = to;
    const focused = document.activeElement;
    draw();
    if (focused.disabled || !view.contains(document.activeElement)) part("close").focus();
  }
  for (const button of all(".card .open")) {
    button.addEventListener("click", () => {
      const card = button.closest(".card");
      cards = all(".card", card.closest("main > section")).filter((c) => c.getClientRects().length);
      at = cards.indexOf(card);
      draw();
      view.showModal();
      part("close").focus();
    });
  }
  part("previous").addEventListener("click", () => go(-1));
  part("next").addEventListener("click", () => go(1));
  part("close").addEventListener("click", () => view.close());
  view.addEventListener("click", (event) => event.target === view && view.close());
  view.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.type === "range") return;
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!step) return;
    event.preventDefault();
    go(step);
  });
  // After a drag the arrow keys go to other pairs again.
  view.addEventListener("pointerup", (event) => event.target.type === "range" && part("close").focus());
  view.addEventListener("close", () => {
    const card = cards[at];
    if (card) card.querySelector(".open").focus();
  });
})();
