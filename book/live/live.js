// The model itself, in this page. A worker (worker.js) does the arithmetic and is spoken to in messages only. Here are the
// button that loads it, the reader's own sentence, the order in which things are asked, the two texts, and the live cost.
(() => {
  const { root, el, labelled, options, short, size, key, later, find, filled, promptOf, cells, instruments } = window.steerIt;
  const grid = window.steerlibGrid;
  const WORDS = [" he", " she", " they"];
  const BLOCKS = 30, TOKENS = 300, LETTERS = 3000, WRITE = 40;
  const FILE = "A page opened from disk cannot run the model: start “python -m http.server” in the folder of the book and open http://localhost:8000/explore.html.";

  // ---- the worker

  let worker = null, last = 0;
  const waiting = new Map(); // what was asked and is not yet done, by id
  const end = (code, message = "Stopped.") => {
    worker?.terminate();
    worker = null;
    const all = [...waiting.values()];
    waiting.clear();
    all.forEach(({ refuse }) => refuse(Object.assign(new Error(message), { code })));
  };
  const start = () => {
    worker = new Worker(`${root}worker.js`, { type: "module" });
    worker.onmessage = ({ data }) => {
      const asked = waiting.get(data.id);
      if (!asked) return; // an answer that nobody waits for any more
      if (data.kind === "point" || data.kind === "token" || data.kind === "progress") return asked.each(data);
      waiting.delete(data.id);
      if (data.kind === "error" || data.kind === "stopped") asked.refuse(Object.assign(new Error(data.message || "Stopped."), { code: data.code || "stopped" }));
      else asked.resolve(data);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      end("fault", "The script that runs the model could not be started.");
    };
  };
  const ask = (what, each = () => {}) =>
    new Promise((resolve, refuse) => {
      if (!worker) start();
      waiting.set(++last, { resolve, refuse, each });
      worker.postMessage({ id: last, ...what });
    });
  let loading = false; // what is being loaded is stopped by its own button only
  const stop = (load = false) => loading === load && worker?.postMessage({ id: ++last, do: "stop" });
  const memo = new Map(); // what was answered before: by question and steering, from strength to answer
  const known = (what) => memo.get(JSON.stringify(what)) || memo.set(JSON.stringify(what), new Map()).get(JSON.stringify(what));
  // Asks at those strengths that are not known, `each` after every answer. Returns the seconds per strength and the tokens.
  const learn = async (what, strengths, each = () => {}) => {
    const answers = known(what), missing = strengths.filter((s, i) => !answers.has(key(s)) && strengths.findIndex((other) => key(other) === key(s)) === i);
    if (!missing.length) return null;
    const { tokens, milliseconds } = await ask({ ...what, strengths: missing }, ({ strength, p, value }) => (answers.set(key(strength), p || value), each()));
    return { tokens, seconds: milliseconds / 1000 / missing.length };
  };

  // ---- loading it

  let model = null;
  const described = async () => (model ||= await (await fetch(`${root}model/model.json`)).json());
  // Whether every part lies in this browser already. Only where something was kept is the list of parts asked for.
  const kept = async () => {
    if (!window.caches || location.protocol === "file:" || !(await caches.keys()).length) return false;
    const { parts } = await described();
    return (await Promise.all(parts.map(({ file }) => caches.match(new URL(`model/${file}`, root))))).every(Boolean);
  };
  // The button that loads the model, with its progress; `ready` is called when it has come. Returns what to call when it failed later.
  const loader = (box, seeing, why, ready) => {
    const note = el("p"), said = el("p", { role: "status", tabindex: "-1" }), counted = el("p", { class: "steer-note" });
    const button = el("button", { type: "button", class: "steer-main" }), cancel = el("button", { type: "button" }, "Cancel");
    const bar = el("progress", { max: "1", value: "0", "aria-label": "Loading the model" });
    let quarter = 0, deaf;
    const wait = (on) => {
      clearTimeout(deaf);
      const held = document.activeElement;
      loading = on;
      bar.hidden = cancel.hidden = counted.hidden = !on;
      button.hidden = on;
      if (held === button || held === cancel) (on ? cancel : button).focus();
    };
    const offer = (name, text, heard = "") => ([button.textContent, note.textContent, said.textContent] = [name, text, heard]);
    const invite = (heard) => offer(`Load the model (${model ? Math.round(model.bytes / 1e6) : "about 90"} MB, once)`, location.protocol === "file:" ? `${why} ${FILE}` : why, heard);
    const progress = ({ bytes, total, seconds, cached }) => {
      bar.value = total ? bytes / total : 1;
      counted.textContent = `${short(bytes / 1e6, 1)} of ${short(total / 1e6, 1)} MB, ${Math.round(seconds)} s${cached ? ", from this browser’s store" : ""}`;
      const now = Math.floor((4 * bytes) / total); // a screen reader hears quarters only
      if (now > quarter && now < 4) said.textContent = `${25 * now} % loaded.`;
      quarter = now;
    };
    button.addEventListener("click", async () => {
      if (location.protocol === "file:") return (said.textContent = FILE);
      [quarter, bar.value, counted.textContent] = [0, 0, "Starting …"];
      offer("", "");
      wait(true);
      try {
        const done = await ask({ do: "load", seeing }, progress);
        wait(false);
        if (document.activeElement === button) said.focus();
        button.hidden = true;
        offer("", "", `The model runs in this page, ready after ${short(done.seconds, 0)} s${done.cached ? ", from this browser’s store" : ""}.${done.kept ? "" : " This browser did not keep it, so the next visit will load it again."}`);
        ready();
      } catch (error) {
        if (error.code === "stopped") invite("Cancelled. What has arrived is kept where the browser allows it; the next try goes on from there.");
        else offer("Try again", "", error.message);
        wait(false);
      }
    });
    cancel.addEventListener("click", () => {
      stop(true);
      deaf = setTimeout(() => end("stopped"), 3000); // a worker that does not hear it
    });
    box.append(note, el("div", { class: "steer-row" }, button, cancel), bar, counted, said);
    wait(false);
    invite();
    kept().then((all) => {
      if (button.textContent.startsWith("Load")) (all ? offer("Start the model", "The model lies in this browser already, from an earlier visit: nothing has to come over the network. It runs in this page once you press this.") : invite());
    }).catch(() => {});
    return (error) => (wait(false), offer("Try again", "", error.message));
  };

  // ---- asking it

  const conduct = (self) => {
    const { state, place } = self;
    let turn = 0, ready = false;

    // The reader's own sentence, and one block alone
    const area = el("textarea", { rows: "3", dir: "auto", spellcheck: "false", oninput: () => self.change({ sentence: area.value, own: true }) });
    const counts = el("p", { class: "steer-note" });
    const radios = ["about an occupation", "a sentence of your own"].map((text, own) => {
      const radio = el("input", { type: "radio", name: "steer-own", onchange: () => self.change({ own: Boolean(own) }) });
      return { radio, whole: el("label", {}, radio, ` ${text}`) };
    });
    const mine = labelled("Beginning of a sentence, in English", area, counts);
    self.question.querySelector("legend").after(el("div", { class: "steer-row" }, ...radios.map(({ whole }) => whole)));
    self.question.append(mine);
    const block = el("select", { onchange: () => self.change({ block: block.value === "" ? null : Number(block.value) }) });
    const blocks = labelled("Where", block);
    self.strengthField.before(blocks);
    const form = () => {
      const { layers } = find(self.methods, state.method, "id");
      radios.forEach(({ radio }, own) => (radio.checked = state.own === Boolean(own)));
      for (const field of self.question.querySelectorAll(".steer-field")) field.hidden = (field === mine) !== state.own;
      if (area.value !== state.sentence) area.value = state.sentence;
      counts.textContent = `${state.sentence.length.toLocaleString("en")} characters. At most ${TOKENS} tokens (pieces of words) fit; end without a blank.`;
      blocks.hidden = !layers;
      if (layers && !block.length) options(block, [["", `late blocks (${layers[0]} to ${layers.at(-1)}), as in the chapters`], ...[...Array(BLOCKS).keys()].map((k) => [String(k), `block ${k} alone (needs the model)`])]);
      block.value = state.block === null ? "" : String(state.block);
    };

    const job = () => find(grid.occupations, state.occupation);
    const question = () => (state.own ? [state.sentence.trimEnd()] : promptOf(find(grid.wordings, state.wording), job()));
    const steering = () => {
      const { steering: stem, layers } = find(self.methods, state.method, "id");
      return { steering: stem, layers: layers && state.block !== null ? [state.block] : layers };
    };
    const wrong = () => {
      if (!state.own) return "";
      if (!state.sentence.trim()) return "Write the beginning of a sentence first.";
      return state.sentence.length > LETTERS ? `This text has ${state.sentence.length.toLocaleString("en")} characters, and at most ${TOKENS} tokens fit, about 1,200 characters: shorten it.` : "";
    };
    const tell = (what) => {
      Object.assign(self, what);
      self.show();
    };

    const choose = (prompt) => ({ do: "choose", model: "smollm2", prompt, words: WORDS, ...steering() });
    const told = () => grid.told.slice(0, 2).flatMap((wording) => ["man", "woman"].map((group, right) =>
      ({ what: choose(promptOf(wording, job(), group)), text: filled(wording.answer || wording.text, job(), group), right })));
    const costs = el("div");

    // In this order: the answer at this strength and at 0, what it costs, the rest of the curve.
    const run = async () => {
      const now = ++turn, s = self.at(), what = choose(question());
      const step = (busy, more) => {
        if (now !== turn) throw Object.assign(new Error(), { code: "stopped" });
        if (busy !== undefined) tell({ busy, ...more });
      };
      stop();
      costs.replaceChildren();
      tell({ live: known(what), trouble: wrong(), busy: wrong() ? "" : "Asking the model …" });
      if (self.trouble) return;
      const draw = () => now === turn && self.show();
      try {
        if (state.own) {
          const { tokens } = await ask({ do: "tokens", prompt: what.prompt });
          step();
          counts.textContent = `${tokens} of at most ${TOKENS} tokens.`;
          if (tokens > TOKENS) return tell({ busy: "", trouble: `This text has ${tokens} tokens, and at most ${TOKENS} fit: shorten it.` });
        }
        const spent = await learn(what, [s, 0], draw);
        const done = `Computed in this page just now${spent ? `: ${spent.tokens} tokens, ${short(spent.seconds, 2)} s per strength` : ""}.`;
        step(`${done} Measuring the cost …`);
        const prose = { do: "perplexity", text: grid.sentence, ...steering() }, questions = told();
        await learn(prose, [s, 0]);
        for (const one of questions) step(), await learn(one.what, [s, 0]);
        step(`${done} Filling in the curve …`);
        const right = (at) => questions.reduce((sum, one) => {
          const p = known(one.what).get(key(at));
          return sum + p[one.right] / (p[0] + p[1]) / questions.length;
        }, 0);
        costs.replaceChildren(cells(["live, in this page", "unsteered", `strength ${size(s)}`], [
          ["Perplexity of one sentence", ...[0, s].map((at) => short(known(prose).get(key(at)), 1))],
          ["Right pronoun where the gender was said", ...[0, s].map((at) => short(right(at), 2))],
        ], `What it costs, measured here. The sentence: “${grid.sentence}” The gender is said in ${questions.length} questions about the ${job().name}, such as “${questions[0].text}”`));
        await learn(what, grid.strengths, draw);
        step(done);
      } catch (error) {
        if (now !== turn) return;
        if (["stopped", "empty", "long"].includes(error.code)) return tell({ busy: "", trouble: error.code === "stopped" ? "" : error.message });
        ready = false;
        failed(error);
        tell({ busy: "", fine: false });
      }
    };

    // Both texts, token by token
    const page = (name) => {
      const title = el("strong", {}, name), text = el("div", { class: "steer-text", dir: "auto" });
      return { title, text, whole: el("div", {}, el("p", {}, title), text) };
    };
    const [left, right] = [page("Unsteered"), page("Steered")];
    const go = el("button", { type: "button", class: "steer-main" }, "Write both texts"), halt = el("button", { type: "button", hidden: true }, "Stop");
    const wrote = el("p", { class: "steer-note", role: "status" });
    const write = async () => {
      if (wrong()) return tell({ trouble: wrong() });
      const now = ++turn, s = self.at();
      const begun = state.own ? state.sentence.trimEnd() : place.querySelector(".steer-prompt").innerText.replace(/\s*___$/, "");
      const put = (plainly, steered) => [[left, plainly], [right, steered]].forEach(([{ text }, said]) => text.replaceChildren(el("span", { class: "begun" }, begun), said));
      stop();
      put("", "");
      [right.title.textContent, wrote.textContent, go.hidden, halt.hidden] = [`Strength ${size(s)}`, "Writing …", true, false];
      halt.focus();
      tell({ busy: "" });
      try {
        const { milliseconds } = await ask({ do: "write", prompt: question(), ...steering(), strength: s, count: WRITE }, (got) => now === turn && put(got.plain, got.steered));
        wrote.textContent = `Written in ${short(milliseconds / 1000, 1)} s. The most probable word was taken each time, so the texts come out the same at every try.`;
      } catch (error) {
        wrote.textContent = error.message;
      }
      const held = document.activeElement === halt;
      [go.hidden, halt.hidden] = [false, true];
      if (held) go.focus();
      if (now === turn) run();
    };
    go.addEventListener("click", write);
    halt.addEventListener("click", () => stop());
    const writing = el("div", { hidden: true }, el("h3", {}, "Two texts, side by side"), el("div", { class: "steer-row" }, go, halt), wrote,
      el("div", { class: "steer-texts" }, left.whole, right.whole));
    place.querySelector(".steer-body").append(costs, writing);

    const soon = later(250, run);
    self.listeners.push(() => {
      form();
      Object.assign(self, { trouble: "", busy: "", live: known(choose(question())) });
      turn++;
      if (!ready) return;
      stop();
      soon();
    });
    const failed = loader(self.box, false, "These numbers were computed beforehand. With the model itself in this page you can ask about a sentence of your own, steer one block alone, and let it write. It is loaded only if you press this, and kept for your next visit.", () => {
      ready = true;
      writing.hidden = false;
      tell({ fine: true });
      run();
    });
    form();
  };

  Object.assign(window.steerIt, { stop, known, learn, loader, described });
  document.addEventListener("DOMContentLoaded", () => instruments.filter(({ full }) => full).forEach((self) => {
    conduct(self);
    self.show();
  }));
})();
