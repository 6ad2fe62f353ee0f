// "Steer it yourself": a question, a steering, a strength, and what the model answers. Here are the controls, the bars, the
// curves and the numbers that were computed beforehand (grid.js); live.js adds the model itself, and pictures.js the drawings.
(() => {
  const grid = window.steerlibGrid;
  const root = document.currentScript.src.replace(/[^/]*$/, ""); // where the scripts and the model lie
  const WORDS = ["he", "she", "they"];
  const LOW = -1, HIGH = 1.5;

  // ---- small things

  let made = 0;
  const el = (tag, about = {}, ...inside) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(about)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name in node && typeof value !== "string") node[name] = value;
      else if (value !== null) node.setAttribute(name, value);
    }
    node.append(...inside);
    return node;
  };
  const fresh = () => `steer-${++made}`;
  const labelled = (text, field, note = null) => {
    field.id = fresh();
    return el("div", { class: "steer-field" }, el("label", { for: field.id }, text), field, ...(note ? [note] : []));
  };
  const options = (select, pairs) => select.replaceChildren(...pairs.map(([value, text]) => el("option", { value }, text)));
  const short = (value, digits = 3) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
  const signed = (value, digits) => `${value > 0 ? "+" : ""}${short(value, digits)}`;
  const size = (strength) => String(Math.round(strength * 100) / 100).replace("-", "−");
  const key = (strength) => Math.round(strength * 100);
  const close = (a, b) => key(a) === key(b);
  const later = (wait, work) => {
    let timer;
    return () => (clearTimeout(timer), (timer = setTimeout(work, wait)));
  };

  // ---- what is asked

  const filled = (text, occupation, group) => {
    const words = { occupation: occupation.name, an_occupation: occupation.an, ...(group ? grid.groups[group] : {}) };
    const said = text.replace(/{(\w+)}/g, (_, name) => words[name]);
    return text.startsWith("{an_") ? said[0].toUpperCase() + said.slice(1) : said;
  };
  // A wording about an occupation as segments: text, and the special tokens of a chat. What is text is never read as special.
  const promptOf = (wording, occupation, group = null) => {
    const user = filled(wording.text, occupation, group);
    if (!wording.answer) return [user];
    const fill = { user, answer: filled(wording.answer, occupation, group) };
    return joined(grid.chat.map((part) => (part.fill ? fill[part.fill] : part)));
  };
  // Texts that follow one another become one: the tokenizer must see them as one.
  const joined = (parts) => parts.reduce((all, part) => {
    if (typeof part === "string" && typeof all.at(-1) === "string") return [...all.slice(0, -1), all.at(-1) + part];
    return [...all, part];
  }, []);
  const find = (list, name, by = "name") => list.find((one) => one[by] === name) || list[0];
  const tables = {};
  const table = (method) => {
    if (!tables[method]) {
      const bytes = Uint8Array.from(atob(grid.p[method]), (letter) => letter.charCodeAt(0));
      tables[method] = new Uint16Array(bytes.buffer);
    }
    return tables[method];
  };
  // P(he), P(she), P(they) as computed beforehand, or null where nobody has computed it.
  const before = (state, strength) => {
    const s = grid.strengths.findIndex((one) => close(one, strength));
    if (s < 0 || state.own || state.block !== null || !(state.method in grid.p)) return null;
    const o = grid.occupations.indexOf(find(grid.occupations, state.occupation));
    const w = grid.wordings.indexOf(find(grid.wordings, state.wording));
    const at = ((o * grid.wordings.length + w) * grid.strengths.length + s) * 3;
    return [...table(state.method).subarray(at, at + 3)].map((value) => value / 65535);
  };
  const nearest = (strength) => grid.strengths.reduce((a, b) => (Math.abs(b - strength) < Math.abs(a - strength) ? b : a));
  const summaryAt = (method, strength) => (grid.summary[method] || []).find((one) => close(one.strength, strength));

  // ---- curves

  const drawn = (tag, about, ...inside) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(about)) node.setAttribute(name, value);
    node.append(...inside);
    return node;
  };
  const MARKS = [
    (x, y) => drawn("circle", { cx: x, cy: y, r: 3.4 }),
    (x, y) => drawn("rect", { x: x - 3, y: y - 3, width: 6, height: 6 }),
    (x, y) => drawn("path", { d: `M${x} ${y - 4}l4 7h-8z` }),
  ];
  // lines: [{name, points: [[x, y], or [x, y, low, high]]}]; a line has its own colour, dash and mark.
  const curve = ({ lines, top, at, trained, label, digits = 1, height = 160 }) => {
    const [left, right, up, down] = [34, 310, 10, 10 + height];
    const x = (s) => left + ((s - LOW) / (HIGH - LOW)) * (right - left);
    const y = (v) => down - (Math.min(Math.max(v, 0), top) / top) * (down - up);
    const svg = drawn("svg", { viewBox: `0 0 350 ${height + 45}`, role: "img", "aria-label": label, class: "steer-curve" });
    if (trained) {
      svg.append(drawn("rect", { class: "trained", x: x(trained[0]), y: up, width: x(trained[1]) - x(trained[0]), height: down - up }));
    }
    for (const part of [0, 0.25, 0.5, 0.75, 1]) {
      svg.append(drawn("line", { class: "rule", x1: left, x2: right, y1: y(part * top), y2: y(part * top) }));
      if (part % 0.5 === 0) svg.append(drawn("text", { x: left - 5, y: y(part * top) + 4, "text-anchor": "end" }, short(part * top, digits)));
    }
    for (const s of [-1, 0, 1, 1.5]) svg.append(drawn("text", { x: x(s), y: down + 15, "text-anchor": "middle" }, size(s)));
    svg.append(drawn("text", { x: (left + right) / 2, y: down + 31, "text-anchor": "middle" }, "strength"));
    svg.append(drawn("line", { class: "now", x1: x(at), x2: x(at), y1: up, y2: down }));
    const ends = [];
    lines.forEach(({ name, points }, i) => {
      if (!points.length) return;
      const group = drawn("g", { class: `line line-${i}` });
      const band = points.filter((point) => point.length > 2);
      if (band.length > 1) {
        const there = band.map((p) => `${x(p[0])},${y(p[3])}`), back = band.reverse().map((p) => `${x(p[0])},${y(p[2])}`);
        group.append(drawn("polygon", { class: "band", points: [...there, ...back].join(" ") }));
      }
      group.append(drawn("polyline", { points: points.map((p) => `${x(p[0])},${y(p[1])}`).join(" ") }));
      group.append(...points.map((p) => MARKS[i % 3](x(p[0]), y(p[1]))));
      svg.append(group);
      ends.push({ name, y: y(points[points.length - 1][1]) });
    });
    ends.sort((a, b) => a.y - b.y).forEach((end, i) => {
      if (i) end.y = Math.max(end.y, ends[i - 1].y + 13);
      svg.append(drawn("text", { x: right + 6, y: end.y + 4 }, end.name));
    });
    return svg;
  };
  const cells = (names, rows, caption) =>
    el("div", { class: "steer-wide", tabindex: "0", role: "region", "aria-label": caption },
      el("table", {}, el("caption", {}, caption),
        el("thead", {}, el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, name)))),
        el("tbody", {}, ...rows.map(([first, ...rest]) =>
          el("tr", {}, el("th", { scope: "row" }, first), ...rest.map((one) => el("td", {}, one)))))));
  const folded = (title, inside) => el("details", { class: "steer-fold" }, el("summary", {}, title), inside);

  // ---- one instrument

  const instrument = (place) => {
    const full = "full" in place.dataset;
    const methods = grid.methods.filter(({ id }) => !place.dataset.methods || place.dataset.methods.split(" ").includes(id));
    const state = {
      occupation: place.dataset.occupation || "nurse", wording: place.dataset.wording || "late", own: false, sentence: "",
      method: find(methods, place.dataset.method || "dso", "id").id, block: null, strength: Number(place.dataset.strength || 0.5),
    };
    const self = { place, state, full, fine: false, live: new Map(), listeners: [], trouble: "", busy: "" };
    const change = (what) => {
      Object.assign(state, what);
      if (!find(methods, state.method, "id").layers) state.block = null; // only a contrastive vector has a block of its own
      self.listeners.forEach((tell) => tell());
      self.show();
      say();
    };
    const at = () => (self.fine ? state.strength : nearest(state.strength));
    // The live answer where there is one, else the one computed beforehand.
    const answer = (strength) => self.live.get(key(strength)) || before(state, strength);

    // Controls
    const occupation = el("select", { onchange: () => change({ occupation: occupation.value, own: false }) });
    options(occupation, grid.occupations.map(({ name }) => [name, name]).sort());
    const wording = el("select", { onchange: () => change({ wording: wording.value, own: false }) });
    options(wording, grid.wordings.map(({ name, text, answer: begun }) => {
      const said = (begun || text).replace(/{(an_)?occupation}/g, "…");
      return [name, `${begun ? "Chat: " : ""}${said} ___`];
    }));
    const method = el("select", { onchange: () => change({ method: method.value }) });
    options(method, methods.map(({ id, name }) => [id, name]));
    const about = el("p", { class: "steer-note" });
    const slider = el("input", { type: "range", min: String(LOW), max: String(HIGH), step: "0.25", oninput: () => change({ strength: Number(slider.value) }) });
    const shown = el("output", {});
    const scale = el("div", { class: "steer-scale", "aria-hidden": "true" });
    const warning = el("p", { class: "steer-warning", role: "status" });
    const prompt = el("blockquote", { class: "steer-prompt", dir: "auto" });
    const bars = el("div"), picture = el("div"), numbers = el("div");
    const costNote = el("p"), costCards = el("div", { class: "steer-cards" }), costNumbers = el("div");
    const curves = el("div", {},
      el("figure", {}, picture, el("figcaption", {}, "The shaded range is the one that the steering was made for; the upright line is the strength set above.")),
      folded("The curve as a table", numbers));
    const costs = el("div", {}, costNote, costCards, folded("Gain and cost at every strength", costNumbers));
    const spoken = el("p", { class: "steer-unseen", role: "status" });
    const status = el("p", { class: "steer-status" });
    Object.assign(self, { method, slider });

    const question = el("fieldset", {}, el("legend", {}, "The question"));
    question.append(labelled("Occupation", occupation), labelled("Sentence to go on with", wording));
    const strength = labelled("Strength", slider);
    strength.querySelector("label").append(" ", shown);
    strength.append(scale);
    const steering = el("fieldset", {}, el("legend", {}, "The steering"));
    if (methods.length > 1) steering.append(labelled("Method", method));
    steering.append(about, strength, warning);
    self.question = question;
    self.steering = steering;
    self.strengthField = strength;

    const barTable = (steered, plain) => {
      const rest = (p) => (p ? [...p, Math.max(0, 1 - p[0] - p[1] - p[2]), p[0] / (p[0] + p[1])] : []);
      const cell = (value, kind) => {
        const bar = el("span", { class: `bar ${kind}` });
        bar.style.width = `${Math.round(1000 * (value || 0)) / 10}%`;
        return el("td", {}, el("span", { class: "bar-number" }, value > 0 && value < 0.0005 ? "< 0.001" : short(value)), el("span", { class: "bar-room" }, bar));
      };
      const [a, b] = [rest(plain), rest(steered)];
      return el("table", { class: "steer-bars" },
        el("caption", {}, "Probability of the next word"),
        el("thead", {}, el("tr", {}, ...["next word", "unsteered", `strength ${size(at())}`].map((name) => el("th", { scope: "col" }, name)))),
        el("tbody", {}, ...[...WORDS, "anything else", "he, out of he and she"].map((word, i) =>
          el("tr", {}, el("th", { scope: "row" }, word), cell(a[i], "plain"), cell(b[i], `steered word-${i}`)))));
    };
    const trained = () => find(methods, state.method, "id").trained;
    const showCurve = () => {
      const known = (self.fine ? [...Array(51).keys()].map((i) => LOW + i / 20) : grid.strengths).filter((s) => answer(s));
      const lines = WORDS.map((name, i) => ({ name, points: known.map((s) => [s, answer(s)[i]]) }));
      const label = `Probability of he, she and they at every strength from ${LOW} to ${HIGH}; the numbers are in the table below.`;
      picture.replaceChildren(curve({ lines, top: 1, at: at(), trained: trained(), label }));
      numbers.replaceChildren(cells(["strength", ...WORDS], known.map((s) => [size(s), ...answer(s).map((v) => short(v))]), "Probability of each word at every strength"));
    };
    const MEASURES = [
      ["bias", "Bias", "gain", "0 is even-handed: as much he as she in every occupation", 1],
      ["perplexity", "Perplexity", "cost", "how surprised the model is by ordinary text; lower is better", 0],
      ["right", "Right pronoun", "cost", "where the text has said the gender; higher is better", 1],
    ];
    const showCost = () => {
      const rows = grid.summary[state.method] || [];
      const now = summaryAt(state.method, nearest(state.strength)), plain = summaryAt(state.method, 0);
      costs.hidden = !now || !plain;
      if (costs.hidden) return;
      const range = ([value, low, high], digits) => `${short(value, digits)}${low === undefined ? "" : ` (${short(low, digits)} to ${short(high, digits)})`}`;
      const cards = MEASURES.map(([what, name, kind, means, ends]) => {
        const digits = what === "perplexity" ? 1 : 2, a = plain[what], b = now[what];
        const change = what === "bias" ? `${signed(100 * (b[0] / a[0] - 1), 0)} %` : what === "right" ? signed(b[0] - a[0], 3) : `× ${short(b[0] / a[0], 2)}`;
        const points = rows.map((row) => [row.strength, ...row[what]]);
        const top = ends || Math.min(4 * a[0], Math.max(...points.map((p) => p[1]))) * 1.05;
        const told = `${name}, by strength: ${short(a[0], digits)} unsteered, ${short(b[0], digits)} at ${size(now.strength)}.`;
        return el("div", { class: `steer-card steer-${kind}` },
          el("p", { class: "steer-kind" }, kind === "gain" ? "What it is for" : "What it costs"),
          el("p", { class: "steer-big" }, `${name} ${short(a[0], digits)} → ${short(b[0], digits)}`),
          el("p", {}, `${change.replace("-", "−")}; 95 % interval ${short(b[1], digits)} to ${short(b[2], digits)}`),
          el("p", { class: "steer-note" }, means),
          curve({ lines: [{ name: "", points }], top, at: now.strength, trained: trained(), label: told, digits: what === "perplexity" ? 0 : 1, height: 110 }));
      });
      costNote.textContent = `Measured beforehand on the 26 test occupations, ${close(now.strength, state.strength) ? `at strength ${size(now.strength)}` : `at ${size(now.strength)}, the measured strength that is nearest`}, against the unsteered model:`;
      costCards.replaceChildren(...cards);
      costNumbers.replaceChildren(cells(
        ["strength", "bias", "right pronoun", "accuracy", "perplexity"],
        rows.map((row) => [size(row.strength), range(row.bias, 2), range(row.right, 2), range(row.accuracy, 2), range(row.perplexity, 1)]),
        "Gain and cost at every strength, with 95 % intervals"));
    };
    // A screen reader hears the answer when the controls have come to rest.
    const say = later(900, () => {
      const p = answer(at());
      spoken.textContent = p ? `At strength ${size(at())}: he ${short(p[0], 2)}, she ${short(p[1], 2)}, they ${short(p[2], 2)}.` : "";
    });
    self.show = () => {
      more.href = `${root.replace(/live\/$/, "explore.html")}#${hashOf(state)}`;
      const chosen = find(methods, state.method, "id"), s = at();
      occupation.value = find(grid.occupations, state.occupation).name;
      wording.value = find(grid.wordings, state.wording).name;
      method.value = chosen.id;
      about.textContent = chosen.about;
      slider.step = self.fine ? "0.05" : "0.25";
      slider.value = String(s);
      shown.textContent = size(s);
      slider.setAttribute("aria-valuetext", `${size(s)}${chosen.trained && (s < chosen.trained[0] || s > chosen.trained[1]) ? ", outside the range it was made for" : ""}`);
      scale.replaceChildren(...marks(chosen.trained));
      warning.textContent = warn(chosen, s);
      warning.hidden = !warning.textContent;
      prompt.replaceChildren(...written(state));
      bars.replaceChildren(barTable(answer(s), answer(0)));
      status.textContent = self.trouble || self.busy || (answer(s) ? (self.live.has(key(s)) ? "Computed in this page just now." : "Computed beforehand.") : "Nobody has computed this beforehand: it needs the model.");
      status.classList.toggle("steer-trouble", Boolean(self.trouble));
      showCurve();
      showCost();
    };
    self.change = change;
    self.at = at;
    self.methods = methods;

    const results = el("div", { class: "steer-results" }, el("div", {}, bars, status, spoken), curves);
    const body = el("div", { class: "steer-body" }, el("div", { class: "steer-controls" }, question, steering));
    self.box = el("div", { class: "steer-live", hidden: !full });
    const heading = (text) => (full ? [el("h3", {}, text)] : []);
    body.append(self.box, ...heading("The answer"), prompt, results, ...heading("What it is good for, and what it costs"), costs);
    const more = el("a", {}, "Ask a sentence of your own, with the model itself running in the page");
    if (!full) body.append(el("p", {}, more));
    place.replaceChildren(body);
    return self;
  };

  const marks = (trained) => {
    const where = (s) => `${(100 * (s - LOW)) / (HIGH - LOW)}%`;
    const put = (s, about, ...inside) => {
      const node = el("span", about, ...inside);
      node.style.left = where(s);
      return node;
    };
    const band = trained ? [put(trained[0], { class: "steer-range" })] : [];
    if (trained) band[0].style.width = where(trained[1] - trained[0] + LOW);
    return [...band, ...[-1, -0.5, 0, 0.5, 1, 1.5].map((s) => put(s, { class: "steer-tick" }, size(s)))];
  };
  const warn = ({ id, trained }, s) => {
    if (id === "random") return s < 0 || s > 1 ? "This is the control: a push of the same size in directions drawn by lot, which knows nothing about gender." : "";
    if (s < 0 && id === "add") return "Below 0 the push goes the other way: towards “she”, for every occupation alike.";
    if (s < 0 && id === "ablate") return "Below 0 the direction is not taken out but put in, again at every block: soon the model says “he” to everything, and its language breaks.";
    if (s < 0) return "Below 0 the steering runs backwards, and the bias grows. It is shown so that you know that it can be done.";
    if (trained && s > trained[1]) return `Beyond ${size(trained[1])} the steering is stronger than it was made for: look at what it costs.`;
    return "";
  };
  const written = (state) => {
    const gap = el("span", { class: "steer-gap" }, " ___");
    if (state.own) return [[...state.sentence].slice(0, 400).join("") + ([...state.sentence].length > 400 ? " …" : ""), gap];
    const occupation = find(grid.occupations, state.occupation), wording = find(grid.wordings, state.wording);
    if (!wording.answer) return [filled(wording.text, occupation), gap];
    return [el("b", {}, "User: "), filled(wording.text, occupation), el("br"), el("b", {}, "Model: "), filled(wording.answer, occupation), gap];
  };

  // ---- links

  const hashOf = (state) => {
    const said = new URLSearchParams({ occupation: state.occupation, wording: state.wording, method: state.method, strength: String(Math.round(state.strength * 100) / 100) });
    if (state.block !== null) said.set("block", String(state.block));
    if (state.own) said.set("sentence", state.sentence);
    return said.toString();
  };
  // What a link says, as far as it makes sense; a link can be typed by anybody.
  const fromHash = (methods) => {
    if (!location.hash.includes("=")) return null;
    const said = new URLSearchParams(location.hash.slice(1)), state = {};
    const strength = Number(said.get("strength")), block = said.get("block");
    for (const [name, list, by] of [["occupation", grid.occupations, "name"], ["wording", grid.wordings, "name"], ["method", methods, "id"]]) {
      if (list.some((one) => one[by] === said.get(name))) state[name] = said.get(name);
    }
    if (said.has("strength") && Number.isFinite(strength)) state.strength = Math.min(HIGH, Math.max(LOW, Math.round(strength * 20) / 20));
    state.block = /^([0-9]|[12][0-9])$/.test(block || "") ? Number(block) : null;
    state.own = said.has("sentence");
    if (state.own) state.sentence = said.get("sentence").slice(0, 5000);
    return state;
  };
  const linked = (self) => {
    const restore = () => {
      const said = fromHash(self.methods);
      if (said) self.change(said);
    };
    const keep = later(400, () => {
      try {
        history.replaceState(null, "", `#${hashOf(self.state)}`);
      } catch { /* a browser that limits this loses nothing but the link */ }
    });
    const field = el("input", { type: "text", readOnly: true, "aria-label": "Link to this state", hidden: true });
    const said = el("span", { role: "status" });
    const copy = async () => {
      const link = `${location.href.split("#")[0]}#${hashOf(self.state)}`;
      try {
        await navigator.clipboard.writeText(link);
        said.textContent = "Copied.";
      } catch {
        field.hidden = false;
        field.value = link;
        field.select();
        said.textContent = "Copy it from the field.";
      }
    };
    self.steering.append(el("div", { class: "steer-row" }, el("button", { type: "button", onclick: copy }, "Copy link"), field, said));
    window.addEventListener("hashchange", restore);
    restore();
    self.listeners.push(keep);
  };

  const steerIt = (window.steerIt = { root, el, labelled, options, short, size, key, close, later, find, folded, cells, promptOf, joined, filled, instruments: [] });
  document.addEventListener("DOMContentLoaded", () => {
    if (!grid) return;
    for (const place of document.querySelectorAll(".steer-it:is([data-full], [data-methods])")) {
      const self = instrument(place);
      steerIt.instruments.push(self);
      if (self.full) linked(self);
      self.show();
    }
  });
})();
