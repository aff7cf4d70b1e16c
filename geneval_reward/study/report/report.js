// The gallery of a report. Everything it shows comes from the JSON beside it and is set as text, never as markup.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const many = data.runs.length > 1;
  const form = document.getElementById("filters");
  const grid = document.getElementById("grid");
  const count = document.getElementById("count");
  const more = document.getElementById("more");
  const dialog = document.getElementById("dialog");
  const body = document.getElementById("d-body");
  const PAGE = 60;
  const FAINT = "#888888";
  const VERDICTS = ["wrong", "correct", "not scored"];
  const CHANGES = { gained: "newly right", lost: "newly wrong", neither: "both wrong", both: "both right", alone: "not in both" };
  if (!many) body.classList.add("lone");
  let state = {};
  let found = []; // numbers of the items that pass the filters, in order
  let drawn = 0;
  let current = 0; // place in `found` that has the focus
  let opened = -1;

  function element(name, attributes, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key === "style") Object.assign(made.style, value);
      else if (value !== false && value !== undefined) made.setAttribute(key, value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return made;
  }

  function drawing(name, attributes) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  // ---- what an item is

  const prompt = (item) => data.prompts[item[0]];
  const tag = (item) => data.tags[prompt(item)[1]] || "";
  const reasons = (side) => (side.r || []).map((number) => data.reasons[number]);
  const other = () => Number(state.other || 1);
  /** The sides that are shown: the only one, or the first and the chosen other. */
  const sides = (item) => (many ? [item[2][0], item[2][other()]] : [item[2][0]]);

  function change(item) {
    const [a, b] = sides(item);
    if (!a || !b || a.v === 2 || b.v === 2) return "alone";
    return a.v ? (b.v ? "both" : "lost") : b.v ? "gained" : "neither";
  }

  function label(box, names) {
    let text = names[box[0]] + (box[5] < 0 ? "" : " " + (box[5] / 100).toFixed(2));
    if (box.length > 7) text += " · " + data.colors[box[7]] + (box[8] < 0 ? "" : " " + (box[8] / 100).toFixed(2));
    return text;
  }

  const hue = (box) => (box[6] ? data.palette[box[0] % data.palette.length] : FAINT);

  // ---- filters

  const FLAGS = {
    fragile: (side) => side.f,
    rewritten: (side) => side.w !== undefined,
    chosen: (side) => side.o,
    nopicture: (side) => side.p === undefined,
  };

  function passes(item) {
    const shown = sides(item).filter(Boolean);
    if (!shown.length) return false;
    if (state.tag && tag(item) !== state.tag) return false;
    if (state.verdict && !shown.some((side) => side.v === { right: 1, wrong: 0, failed: 2 }[state.verdict])) return false;
    if (state.change && change(item) !== state.change) return false;
    const cause = data.causeKeys.indexOf(state.cause);
    if (state.cause && !shown.some((side) => (side.c || []).includes(cause))) return false;
    if (state.flag && !shown.some((side) => FLAGS[state.flag] && FLAGS[state.flag](side))) return false;
    const text = (state.text || "").trim().toLowerCase();
    if (!text) return true;
    const hay = [prompt(item)[0], ...shown.flatMap((side) => [side.n, side.w || "", ...reasons(side)])];
    return hay.join("\n").toLowerCase().includes(text);
  }

  function read() {
    state = {};
    for (const [name, value] of new FormData(form)) if (value) state[name] = value;
  }

  /** Put a query such as "tag=colors&verdict=wrong" into the form; unknown names and values are left alone. */
  function write(query) {
    form.reset();
    for (const [name, value] of new URLSearchParams(query)) {
      const field = form.elements[name];
      if (!field) continue;
      const before = field.value;
      field.value = value;
      if (field.value !== value) field.value = before;
    }
  }

  function apply(keepAddress) {
    read();
    found = [];
    data.items.forEach((item, number) => passes(item) && found.push(number));
    if (many) {
      const order = Object.keys(CHANGES);
      const rank = new Map(found.map((number) => [number, order.indexOf(change(data.items[number]))]));
      found.sort((a, b) => rank.get(a) - rank.get(b) || a - b);
    }
    drawn = 0;
    current = 0;
    grid.replaceChildren();
    draw();
    const of = found.length === data.items.length ? "" : ` of ${data.items.length}`;
    count.textContent = `${found.length}${of} ${many ? "pairs" : "images"}` + (found.length ? "" : ": nothing passes these filters");
    if (!keepAddress) {
      const query = new URLSearchParams(state).toString();
      try {
        history.replaceState(null, "", query ? "#" + query : "#gallery");
      } catch {
        // Some browsers refuse it for local files; the filters work without.
      }
    }
  }

  // ---- cards

  function shot(item, side, labelled) {
    const frame = element("div", { class: "shot" });
    if (!side) {
      frame.append(element("span", { class: "lost" }, "this run has no such image"));
      return frame;
    }
    const [width, height] = side.z;
    const inner = element("div", { class: "inner", style: { aspectRatio: `${width} / ${height}`, [width >= height ? "width" : "height"]: "100%" } });
    if (side.p) {
      const image = element("img", { alt: "", loading: "lazy", decoding: "async" });
      image.src = `data:${data.kind};base64,${side.p}`;
      inner.append(image);
    }
    const names = prompt(item)[2];
    const picture = drawing("svg", { viewBox: "0 0 1000 1000", preserveAspectRatio: "none", "aria-hidden": "true" });
    for (const box of side.b) {
      picture.append(
        drawing("rect", {
          x: box[1], y: box[2], width: Math.max(0, box[3] - box[1]), height: Math.max(0, box[4] - box[2]),
          fill: "none", stroke: hue(box), "stroke-width": box[6] ? 2 : 1, "vector-effect": "non-scaling-stroke",
        }),
      );
    }
    inner.append(picture);
    if (labelled) {
      for (const box of side.b.filter((one) => one[6])) {
        const low = box[2] < 50; // no room above: inside the box
        const at = { left: Math.min(box[1] / 10, 70) + "%", top: box[2] / 10 + "%", background: hue(box) };
        inner.append(element("span", { class: low ? "tagbox low" : "tagbox", style: at, "aria-hidden": "true" }, label(box, names)));
      }
    }
    frame.append(inner, element("span", { class: "sign " + ["no", "ok", ""][side.v], "aria-hidden": "true" }, "✗✓?"[side.v]));
    if (side.m) frame.append(element("span", { class: "lost" }, side.m));
    return frame;
  }

  function flags(side) {
    const found = [];
    if (side.o) found.push(`best of ${side.o}`);
    if (side.w !== undefined) found.push("rewritten prompt");
    if (side.f) found.push("flips near the threshold");
    return found;
  }

  function spoken(item) {
    const said = sides(item).map((side, place) => {
      const who = many ? data.runs[place ? other() : 0] + ": " : "";
      return who + (side ? [VERDICTS[side.v], ...reasons(side), ...flags(side), side.m].filter(Boolean).join(", ") : "no such image");
    });
    return `${prompt(item)[0]}. ${said.join(". ")}`;
  }

  function card(place) {
    const item = data.items[found[place]];
    const [a, b] = sides(item);
    const side = (many && b) || a || b;
    const marks = [...new Set(sides(item).filter(Boolean).flatMap(flags))];
    const caption = element(
      "div", { class: "cap" },
      element("div", { class: "p" }, prompt(item)[0]),
      element("div", { class: "tagline" }, many ? `${CHANGES[change(item)]} · ${tag(item)}` : tag(item)),
      marks.length ? element("div", { class: "tagline warn" }, marks.join(" · ")) : null,
      side && side.r ? element("div", { class: "why" }, reasons(side)[0]) : null,
    );
    const shots = many ? element("div", { class: "two" }, shot(item, a), shot(item, b)) : shot(item, a);
    const button = element("button", { type: "button", tabindex: place === current ? 0 : -1, "aria-label": spoken(item), "data-place": place }, shots, caption);
    return element("li", {}, button);
  }

  function draw() {
    const end = Math.min(found.length, drawn + PAGE);
    const cards = [];
    for (let place = drawn; place < end; place++) cards.push(card(place));
    grid.append(...cards);
    drawn = end;
    more.hidden = drawn >= found.length;
    more.textContent = `Show more (${found.length - drawn} left)`;
  }

  const button = (place) => grid.querySelector(`button[data-place="${place}"]`);

  /** Give the focus to a place, drawing up to it. */
  function go(place, focus = true) {
    if (!found.length) return;
    place = Math.max(0, Math.min(found.length - 1, place));
    while (drawn <= place) draw();
    const before = button(current);
    if (before) before.tabIndex = -1;
    current = place;
    const now = button(place);
    now.tabIndex = 0;
    if (focus) now.focus();
  }

  function columns() {
    const all = grid.children;
    let n = 1;
    while (n < all.length && all[n].offsetTop === all[0].offsetTop) n++;
    return n;
  }

  // ---- the dialog

  function fact(list, name, value) {
    if (value !== undefined && value !== null && value !== "") list.append(element("dt", {}, name), element("dd", {}, value));
  }

  function address(side) {
    if (!side.u) return null;
    const rest = side.u.length > 1 ? side.u[1] : side.n;
    const path = data.roots[side.u[0]] + rest;
    // A name must stay a path below this page: "javascript:" or "//host" in it would not be one.
    return "./" + path.split("/").map(encodeURIComponent).join("/");
  }

  function detail(item, side, run) {
    const half = element("div", { class: "half" });
    if (many) half.append(element("h3", {}, data.runs[run]));
    half.append(shot(item, side, true));
    if (!side) return half;
    const box = element("div", { class: "info" });
    half.append(box);
    const list = element("dl", {});
    fact(list, "verdict", element("strong", { class: ["wrong", "right", "warn"][side.v] }, VERDICTS[side.v]));
    for (const reason of reasons(side)) fact(list, side.v === 2 ? "because" : "reason", reason);
    if (side.f) fact(list, "fragile", `flips if the threshold is ${[, "lower", "higher", "lower or higher"][side.f]} by .05`);
    fact(list, "rewritten", side.w);
    fact(list, "best of", side.o && `${side.o}, chosen by this metric`);
    fact(list, "seed", side.s);
    fact(list, "picture", side.m);
    const link = address(side);
    fact(list, "file", link ? element("a", { href: link, target: "_blank", rel: "noopener" }, side.n) : side.n);
    box.append(list);
    if (side.b.length) {
      const names = prompt(item)[2];
      const seen = [...side.b].sort((x, y) => y[6] - x[6] || y[5] - x[5]);
      box.append(
        element(
          "ul", { class: "seen", "aria-label": "What was seen" },
          ...seen.map((one) =>
            element("li", { class: one[6] ? "" : "faint" }, element("i", { style: { background: hue(one) } }), label(one, names) + (one[6] ? "" : ": not confident enough")),
          ),
        ),
      );
    }
    return half;
  }

  function open(place) {
    go(place, false);
    opened = current;
    const item = data.items[found[opened]];
    document.getElementById("d-title").textContent = prompt(item)[0];
    const runs = many ? [0, other()] : [0];
    body.replaceChildren(...sides(item).map((side, i) => detail(item, side, runs[i])));
    const tagline = [tag(item), item[1] >= 0 ? `image ${item[1]}` : "", `${opened + 1} of ${found.length}`];
    const pairing = many && data.pairing[other() - 1] === "prompt" ? "same prompt, OTHER noise" : "";
    body.prepend(element("div", { class: "tagline", style: { gridColumn: "1 / -1" } }, [...tagline, pairing].filter(Boolean).join(" · ")));
    document.getElementById("prev").disabled = opened === 0;
    document.getElementById("next").disabled = opened === found.length - 1;
    if (!dialog.open) {
      dialog.showModal();
      document.getElementById("close").focus();
    }
  }

  const step = (by) => opened + by >= 0 && opened + by < found.length && open(opened + by);

  // ---- events

  form.addEventListener("input", () => apply());
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  more.addEventListener("click", () => {
    const first = drawn;
    draw();
    go(first);
  });
  grid.addEventListener("click", (event) => {
    const hit = event.target.closest("button");
    if (hit) open(Number(hit.dataset.place));
  });
  grid.addEventListener("focusin", (event) => {
    const hit = event.target.closest("button");
    if (hit) go(Number(hit.dataset.place), false);
  });
  grid.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns() }[event.key];
    const to = by !== undefined ? current + by : { Home: 0, End: found.length - 1 }[event.key];
    if (to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    if (to >= 0 && to < found.length) go(to);
  });
  document.getElementById("prev").addEventListener("click", () => step(-1));
  document.getElementById("next").addEventListener("click", () => step(1));
  document.getElementById("close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by) {
      event.preventDefault();
      step(by);
    }
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => go(opened));
  for (const shortcut of document.querySelectorAll("button[data-filter]")) {
    shortcut.addEventListener("click", () => {
      write(shortcut.dataset.filter);
      apply();
      const gallery = document.getElementById("gallery");
      gallery.scrollIntoView();
      gallery.focus({ preventScroll: true });
    });
  }
  addEventListener("hashchange", () => location.hash.includes("=") && (write(location.hash.slice(1)), apply(true)));

  document.documentElement.classList.add("ready");
  if (location.hash.includes("=")) write(location.hash.slice(1));
  apply(true);
})();
