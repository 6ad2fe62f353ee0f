// The model itself, in this page. A worker (worker.js) does the arithmetic and is talked to in messages only; here are the
// button that loads it, the reader's own sentence, the order in which things are asked, both texts, and the live cost.
(() => {
  const { root, el, labelled, options, short, size, key, later, find, filled, promptOf, cells, instruments } = window.steerIt;
  const grid = window.steerlibGrid;
  const WORDS = [" he", " she", " they"];
  const BLOCKS = 30, TOKENS = 300, LETTERS = 3000, WRITE = 40;
  const FILE = "A page that was opened from disk cannot run the model: serve the folder with “python -m http.server” and open http://localhost:8000/explore.html.";

  // ------------------------------------------------------------------------------------------------ the worker

  let worker = null, last = 0;
  const waiting = new Map(); // what was asked and is not yet done, by id
  const fault = (code, message) => Object.assign(new Error(message), { code });
  const end = () => {
    worker?.terminate();
    worker = null;
    for (const { refuse } of waiting.values()) refuse(fault("fault", "The model has stopped: load it again."));
    waiting.clear();
  };
  const start = () => {
    worker = new Worker(`${root}worker.js`, { type: "module" });
    worker.onmessage = ({ data }) => {
      const asked = waiting.get(data.id);
      if (!asked) return; // an answer to what nobody waits for any more
      if (["done", "ready", "stopped", "error"].includes(data.kind)) waiting.delete(data.id);
      if (data.kind === "error") asked.refuse(fault(data.code, data.message));
      else if (waiting.has(data.id)) asked.each(data);
      else asked.resolve(data);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      const all = [...waiting.values()];
      end();
      all.forEach(({ refuse }) => refuse(fault("fault", "The script that runs the model could not be started.")));
    };
  };
  const ask = (what, each = () => {}) =>
    new Promise((resolve, refuse) => {
      if (!worker) start();
      waiting.set(++last, { resolve, refuse, each });
      worker.postMessage({ id: last, ...what });
    });
  const stop = () => worker?.postMessage({ id: ++last, do: "stop" });

  // ------------------------------------------------------------------------------------------------ loading

  const about = { ready: false, model: null, whenReady: [] };
  const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
  const described = async () => {
    const answer = await fetch(`${root}model/model.json`);
    if (answer.status === 404) throw fault("absent", "This copy of the book was built without the model; the numbers that were computed beforehand are all here.");
    if (!answer.ok) throw fault("lost", "The description of the model did not arrive: try again.");
    return answer.json();
  };
  // Whether every part lies in this browser already. Only a site that has stored something is asked for the list of parts.
  const stored = async () => {
    if (!window.caches || location.protocol === "file:" || !(await caches.keys()).length) return false;
    about.model = await described();
    const there = await Promise.all(about.model.parts.map(({ file }) => caches.match(new URL(`model/${file}`, root))));
    return there.every(Boolean);
  };

  const loader = (self) => {
    const note = el("p", {}), button = el("button", { type: "button", class: "steer-main" }), cancel = el("button", { type: "button" }, "Cancel");
    const bar = el("progress", { max: "1", value: "0", "aria-label": "Loading the model" });
    const counted = el("p", { class: "steer-note" }), said = el("p", { role: "status" });
    let quarter = 0, cancelled = false;
    const idle = (name, text) => {
      button.textContent = name;
      note.textContent = text;
      bar.hidden = cancel.hidden = counted.hidden = true;
      button.hidden = false;
    };
    const amount = () => (about.model ? `${Math.round(about.model.bytes / 1e6)} MB` : "about 90 MB");
    const invite = () => idle(`Load the model (${amount()}, once)`,
      "These numbers were computed beforehand. With the model itself in this page you can ask about a sentence of your own, steer one block alone, and let it write. It is loaded only if you press this, and kept for your next visit.");
    const progress = ({ bytes, total, seconds, cached }) => {
      bar.value = total ? bytes / total : 0;
      counted.textContent = `${megabytes(bytes)} of ${megabytes(total)} MB, ${Math.round(seconds)} s${cached ? ", from this browser's store" : ""}`;
      const now = Math.floor((4 * bytes) / total);
      if (now > quarter && now < 4) said.textContent = `${25 * now} % loaded.`;
      quarter = Math.max(quarter, now);
    };
    const load = async () => {
      if (location.protocol === "file:") return (said.textContent = FILE);
      button.hidden = true;
      bar.hidden = cancel.hidden = counted.hidden = false;
      cancel.focus();
      [bar.value, quarter, cancelled] = [0, 0, false];
      counted.textContent = "Starting …";
      said.textContent = note.textContent = "";
      try {
        about.model = about.model || (await described().catch((error) => { throw error.code ? error : fault("offline", "The model could not be reached: there is no connection, or the server is gone."); }));
        const loaded = cancelled ? { kind: "stopped" } : await ask({ do: "load", seeing: false }, progress);
        if (loaded.kind === "stopped") return invite(), (said.textContent = "Cancelled. What has arrived is kept where the browser allows it, and the next try goes on from there."), button.focus();
        idle("", `The model runs in this page (ready after ${short(loaded.seconds, 0)} s${loaded.cached ? ", from this browser's store" : ""}).${loaded.kept ? "" : " This browser did not let us keep it, so the next visit will load it again."}`);
        button.hidden = true;
        said.textContent = "The model is ready.";
        about.ready = true;
        about.whenReady.forEach((tell) => tell());
      } catch (error) {
        if (cancelled) return invite(), (said.textContent = "Cancelled."), button.focus();
        idle("Try again", "");
        said.textContent = error.message;
        button.focus();
      }
    };
    button.addEventListener("click", load);
    cancel.addEventListener("click", () => {
      cancelled = true;
      stop();
      setTimeout(() => cancelled && !about.ready && waiting.size && end(), 2000); // a worker that does not hear it
    });
    invite();
    self.box.append(note, el("div", { class: "steer-row" }, button, cancel), bar, counted, said);
    if (location.protocol === "file:") note.textContent = `${note.textContent} ${FILE}`;
    stored().then((all) => {
      if (!button.hidden && !about.ready) invite();
      if (all && !button.hidden) idle("Start the model", "The model lies in this browser already, from an earlier visit: nothing has to be loaded over the network. It runs in this page once you press this.");
    }).catch(() => {});
    self.failed = (error) => {
      about.ready = false;
      self.fine = false;
      idle("Try again", "");
      said.textContent = error.message;
    };
  };

  // ------------------------------------------------------------------------------------------------ asking

  const conduct = (self) => {
    const { state } = self;
    const answers = new Map(); // by question and steering: a map from strength to probabilities
    const plain = { perplexity: null, right: new Map() };
    let turn = 0;

    // The reader's own sentence
    const area = el("textarea", { rows: "3", dir: "auto", spellcheck: "false", oninput: () => self.change({ sentence: area.value, own: true }) });
    const counts = el("p", { class: "steer-note" });
    const radio = (own, text) => {
      const button = el("input", { type: "radio", name: "steer-own", onchange: () => self.change({ own }) });
      return [button, el("label", {}, button, ` ${text}`)];
    };
    const [ofBook, ofBookLabel] = radio(false, "about an occupation"), [ofMine, ofMineLabel] = radio(true, "a sentence of your own");
    self.question.querySelector("legend").after(el("div", { class: "steer-row" }, ofBookLabel, ofMineLabel));
    const mine = labelled("Beginning of a sentence, in English", area, counts);
    self.question.append(mine);
    const block = el("select", { onchange: () => self.change({ block: block.value === "" ? null : Number(block.value) }) });
    const blocks = labelled("Where (needs the model)", block);
    self.strengthField.before(blocks);

    self.listeners.push(() => form());
    const form = () => {
      const { layers } = find(self.methods, state.method, "id");
      ofBook.checked = !state.own;
      ofMine.checked = state.own;
      for (const field of self.question.querySelectorAll(".steer-field")) field.hidden = (field === mine) !== state.own;
      if (area.value !== state.sentence) area.value = state.sentence;
      const letters = [...state.sentence].length;
      counts.textContent = `${letters.toLocaleString("en")} characters; at most ${TOKENS} tokens (pieces of words). The next word follows a blank that you need not type.`;
      blocks.hidden = !layers;
      if (layers && block.options.length < 2) {
        options(block, [["", `the late blocks (${layers[0]} to ${layers[layers.length - 1]}), as in the chapters`], ...[...Array(BLOCKS).keys()].map((k) => [String(k), `block ${k} alone`])]);
      }
      block.value = state.block === null ? "" : String(state.block);
    };

    const question = () => (state.own ? [state.sentence.trimEnd()] : promptOf(find(grid.wordings, state.wording), find(grid.occupations, state.occupation)));
    const steering = () => {
      const { steering: stem, layers } = find(self.methods, state.method, "id");
      return { steering: stem, layers: layers && state.block !== null ? [state.block] : layers };
    };
    const asked = () => JSON.stringify([question(), steering()]);
    const wrong = () => {
      if (!state.own) return "";
      if (!state.sentence.trim()) return "Write the beginning of a sentence first.";
      return state.sentence.length > LETTERS ? `This text is too long (${state.sentence.length.toLocaleString("en")} characters): at most ${TOKENS} tokens fit, which is about 1,200 characters.` : "";
    };

    // The live cost
    const costs = el("div");
    const showCosts = (now, before, right, rightBefore, told) => costs.replaceChildren(
      cells(["live, in this page", "unsteered", `strength ${size(now)}`],
        [["Perplexity of one sentence", short(before.perplexity, 1), short(before.steered, 1)],
          ["Probability of the right pronoun where the gender was said", short(rightBefore, 2), short(right, 2)]],
        `The cost, measured here. The sentence: “${grid.sentence}” The gender is said in ${told.length} questions about the ${state.occupation}, such as “${told[0].text}”`));
    const toldQuestions = () => {
      const occupation = find(grid.occupations, state.occupation);
      return grid.told.slice(0, 2).flatMap((wording) => ["man", "woman"].map((group, i) => ({
        prompt: promptOf(wording, occupation, group), text: filled(wording.answer || wording.text, occupation, group), right: i })));
    };

    // What is asked, in this order: the answer at this strength and at 0; what it costs; the rest of the curve.
    const run = async () => {
      const now = ++turn, current = () => now === turn;
      if (!about.ready) return;
      stop();
      const s = self.at(), prompt = question(), how = steering(), id = asked();
      if (!answers.has(id)) answers.set(id, new Map());
      const known = answers.get(id);
      self.live = known;
      self.trouble = wrong();
      self.busy = self.trouble ? "" : "Asking the model …";
      costs.replaceChildren();
      self.show();
      if (self.trouble) return (self.live = new Map()), self.show();
      const choose = (strengths, text, p) => ask({ do: "choose", model: "smollm2", prompt: text, words: WORDS, ...how, strengths }, (got) => current() && got.kind === "point" && p(got));
      try {
        if (state.own) {
          const { tokens } = await ask({ do: "tokens", prompt });
          if (!current()) return;
          counts.textContent = `${tokens} of at most ${TOKENS} tokens.`;
          if (tokens > TOKENS) return (self.trouble = `This text has ${tokens} tokens, and at most ${TOKENS} fit: shorten it.`), (self.live = new Map()), self.show();
        }
        const point = ({ strength, p }) => (known.set(key(strength), p), self.show());
        const missing = (all) => all.filter((one, i) => !known.has(key(one)) && all.findIndex((other) => key(other) === key(one)) === i);
        const first = missing([s, 0]);
        let speed = "";
        if (first.length) {
          const done = await choose(first, prompt, point);
          if (!current()) return;
          speed = ` ${done.tokens} tokens, ${short(done.milliseconds / 1000 / first.length, 2)} s a strength.`;
        }
        self.busy = `Computed in this page just now.${speed} Measuring the cost …`;
        self.show();
        const before = {}, steered = plain.perplexity === null ? [0, s] : [s];
        await ask({ do: "perplexity", text: grid.sentence, ...how, strengths: steered }, ({ kind, strength, value }) => {
          if (kind !== "point") return;
          if (key(strength) === 0) plain.perplexity = value;
          if (key(strength) === key(s)) before.steered = value;
        });
        if (!current()) return;
        before.perplexity = plain.perplexity;
        const told = toldQuestions(), sums = { here: 0, plain: 0 }, knew = plain.right.get(state.occupation);
        for (const { prompt: text, right } of told) {
          await choose(knew === undefined ? missing0([s, 0]) : [s], text, ({ strength, p }) => {
            if (key(strength) === key(s)) sums.here += p[right] / told.length;
            if (key(strength) === 0) sums.plain += p[right] / told.length;
          });
          if (!current()) return;
        }
        if (knew === undefined) plain.right.set(state.occupation, sums.plain);
        showCosts(s, before, sums.here, plain.right.get(state.occupation), told);
        self.busy = `Computed in this page just now.${speed} Filling in the curve …`;
        self.show();
        const rest = missing(grid.strengths);
        if (rest.length) await choose(rest, prompt, point);
        if (!current()) return;
        self.busy = `Computed in this page just now.${speed}`;
        self.show();
      } catch (error) {
        if (!current()) return;
        self.busy = "";
        if (["empty", "long"].includes(error.code)) self.trouble = error.message;
        else self.failed(error);
        self.show();
      }
    };
    const missing0 = ([s]) => (key(s) === 0 ? [0] : [s, 0]);

    // Both texts
    const text = (name) => {
      const title = el("p", {}, el("strong", {}, name)), page = el("div", { class: "steer-text", dir: "auto" });
      return { title, page, whole: el("div", {}, title, page) };
    };
    const [left, right] = [text("Unsteered"), text("Steered")];
    const go = el("button", { type: "button", class: "steer-main" }, "Write both texts"), halt = el("button", { type: "button", hidden: true }, "Stop");
    const wrote = el("p", { class: "steer-note", role: "status" });
    const put = (page, begun, said) => page.replaceChildren(el("span", { class: "begun" }, begun), said);
    const write = async () => {
      self.trouble = wrong();
      if (self.trouble) return self.show();
      const now = ++turn, s = self.at();
      const begun = state.own ? state.sentence.trimEnd() : self.place.querySelector(".steer-prompt").innerText.replace(/\s*___$/, "");
      stop();
      right.title.replaceChildren(el("strong", {}, `Strength ${size(s)}`));
      put(left.page, begun, "");
      put(right.page, begun, "");
      [go.hidden, halt.hidden, wrote.textContent, self.busy] = [true, false, "Writing …", ""];
      halt.focus();
      try {
        const done = await ask({ do: "write", prompt: question(), ...steering(), strength: s, count: WRITE }, (got) => {
          if (now !== turn || got.kind !== "token") return;
          put(left.page, begun, got.plain);
          put(right.page, begun, got.steered);
        });
        wrote.textContent = done.kind === "stopped" ? "Stopped." : `Both texts are written (${short(done.milliseconds / 1000, 1)} s). The most probable word was taken each time, so they come out the same at every try.`;
      } catch (error) {
        wrote.textContent = error.message;
      }
      const held = document.activeElement === halt;
      [go.hidden, halt.hidden] = [false, true];
      if (held) go.focus();
      if (now === turn) run();
    };
    go.addEventListener("click", write);
    halt.addEventListener("click", stop);

    const body = self.place.querySelector(".steer-body");
    const writing = el("div", { hidden: true }, el("h3", {}, "Two texts, side by side"),
      el("div", { class: "steer-row" }, go, halt), wrote, el("div", { class: "steer-texts" }, left.whole, right.whole));
    body.append(costs, writing);

    const soon = later(250, run);
    self.listeners.push(() => {
      self.trouble = self.busy = "";
      self.live = answers.get(asked()) || new Map();
      turn++;
      stop();
      if (about.ready) soon();
    });
    about.whenReady.push(() => {
      self.fine = true;
      writing.hidden = false;
      self.show();
      run();
    });
    form();
  };

  window.steerIt.live = { ask, stop, about, FILE };
  document.addEventListener("DOMContentLoaded", () => {
    for (const self of instruments.filter(({ full }) => full)) {
      loader(self);
      conduct(self);
      self.show();
    }
  });
})();
