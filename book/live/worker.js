// The worker of the page that steers: it has the model, answers questions one after the other, and can be stopped between two
// runs of the model. What it understands:
//
//   load         -> progress..., ready
//   choose       how likely each of some words comes next, at one strength after the other -> point..., done
//   perplexity   how much a text surprises the model -> point..., done
//   write        the text without and with the steering, word by word -> token..., done
//   tokens       how many tokens a prompt has -> done
//   stop         -> what runs ends with `stopped`
//
// A prompt is a list of pieces: text, {special: name of a token}, or {person: id}, which is a picture.

import { Engine, LONGEST, likeliest, logProbabilities } from "./engine.js";
import { Store, Trouble, unpacked } from "./store.js";
import { Tokenizer } from "./tokenizer.js";

const BASE = new URL("./model/", import.meta.url).href;
const AT_ONCE = 48; // tokens in one run: about a quarter of a second
const MOST = 4000; // characters of a prompt

let model = null; // {engine, tokenizer, manifest, store}
let loading = null; // aborts a load
let stopped = 0; // requests up to this number are to end
const steerings = new Map(), people = new Map();

// SIMD, in the smallest module that uses it.
const SIMD = Uint8Array.of(0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11);

// ------------------------------------------------------------------------------------------------------------------- requests

let turn = Promise.resolve();
onmessage = ({ data }) => {
  if (data.do === "stop") {
    stopped = latest;
    loading?.abort();
    return;
  }
  const number = ++latest;
  turn = turn.then(() => answer(data, number));
};
let latest = 0;

const ACTIONS = { load, choose, perplexity, write, tokens };

async function answer(request, number) {
  const say = (kind, what = {}) => postMessage({ id: request.id, kind, ...what });
  const goOn = async () => {
    await new Promise((done) => {
      const { port1, port2 } = new MessageChannel(); // lets a `stop` come in
      port1.onmessage = done;
      port2.postMessage(0);
    });
    if (stopped >= number) throw new DOMException("stopped", "AbortError");
  };
  try {
    if (stopped >= number) throw new DOMException("stopped", "AbortError");
    if (!ACTIONS[request.do]) throw new Trouble("fault", `The worker does not know how to ${request.do}.`);
    if (request.do !== "load" && !model) throw new Trouble("fault", "Load the model first.");
    say("done", await ACTIONS[request.do](request, say, goOn));
  } catch (error) {
    if (error.name === "AbortError") say("stopped");
    else say("error", { code: error.code && typeof error.code === "string" ? error.code : "fault", message: sentence(error) });
  }
}

function sentence(error) {
  if (error instanceof Trouble) return error.message;
  if (error.code === "memory" || error instanceof RangeError)
    return "This device gave the page too little memory for the model, which needs about 200 MB. Close other tabs and try again, or use a computer.";
  return `Something went wrong in the model's worker (${error.message}). Reload the page and try again.`;
}

// ------------------------------------------------------------------------------------------------------------------- loading

async function load({ seeing = false }, say) {
  if (!WebAssembly.validate(SIMD) || typeof DecompressionStream === "undefined")
    throw new Trouble("simd", "This browser is too old for the model: it needs WebAssembly SIMD and DecompressionStream (Chrome 91, Firefox 113, Safari 16.4, or newer).");
  const begun = performance.now();
  loading = new AbortController();
  try {
    const manifest = model?.manifest || (await getManifest(loading.signal));
    const files = [...(model ? [] : [manifest.engine, manifest.tokenizer, ...manifest.parts]), ...(seeing && !model?.seeing ? [manifest.seeing.update] : [])];
    const total = files.reduce((sum, file) => sum + file.bytes, 0);
    let last = 0;
    const store = new Store(BASE, ({ fetched, found }) => {
      if (performance.now() - last < 100 && fetched + found < total) return;
      last = performance.now();
      say("progress", { bytes: fetched + found, total, seconds: (last - begun) / 1000, cached: fetched === 0 });
    });
    if (!model) model = await assemble(manifest, store, loading.signal);
    if (seeing && !model.seeing) {
      const floats = new Float32Array(await new Response(unpacked(await store.get(manifest.seeing.update, loading.signal))).arrayBuffer());
      model.engine.addUpdates(floats, manifest.seeing.shapes);
      model.seeing = true;
    }
    await store.tidy(everything(manifest));
    store.told = () => {};
    say("ready", { seconds: (performance.now() - begun) / 1000, cached: store.fetched === 0, kept: store.kept });
  } finally {
    loading = null;
  }
}

async function getManifest(signal) {
  const file = new URL("model.json", BASE).href;
  const store = new Store(BASE);
  const kept = await globalThis.caches?.open("steerlib-model-1").catch(() => null);
  let text;
  try {
    text = new TextDecoder().decode(await store.fetch(file, signal, "no-cache"));
    await kept?.put(file, new Response(text)).catch(() => {});
  } catch (error) {
    const before = ["offline", "lost"].includes(error.code) && (await kept?.match(file));
    if (!before) throw error;
    text = await before.text(); // with no network, what was kept will do
  }
  try {
    return JSON.parse(text);
  } catch {
    throw new Trouble("damaged", "The list of the model's parts arrived damaged. Try again.");
  }
}

async function assemble(manifest, store, signal) {
  const engine = await Engine.make(await store.get(manifest.engine, signal));
  const tokenizer = new Tokenizer(await new Response(unpacked(await store.get(manifest.tokenizer, signal))).json());
  const receive = engine.receiver(manifest.planes);
  const coming = []; // two parts at a time
  let whole = false;
  for (let i = 0; i < manifest.parts.length; i++) {
    for (let j = i; j < Math.min(i + 2, manifest.parts.length); j++) {
      coming[j] ||= store.get(manifest.parts[j], signal);
      coming[j].catch(() => {}); // its failure is told when its turn comes
    }
    const reader = unpacked(await coming[i]).getReader();
    coming[i] = null;
    try {
      for (let read; !(read = await reader.read()).done; ) whole = receive(read.value);
    } catch (error) {
      if (error.code === "memory") throw error;
      throw new Trouble("damaged", `A part of the model (${manifest.parts[i].file}) arrived damaged. Try again.`);
    }
  }
  if (!whole) throw new Trouble("damaged", "The model arrived incomplete. Try again.");
  engine.ready(manifest.frequencies);
  return { engine, tokenizer, manifest, store, seeing: false };
}

function everything({ engine, tokenizer, parts, steerings: named, seeing }) {
  const people = seeing ? seeing.people.map((person) => person.features) : [];
  return ["model.json", ...[engine, tokenizer, ...parts, ...Object.values(named), ...(seeing ? [seeing.update] : []), ...people].map((file) => file.file)];
}

async function steeringOf(name) {
  if (!name) return null;
  const file = model.manifest.steerings[name];
  if (!file) throw new Trouble("fault", `There is no steering called ${name} here.`);
  if (!steerings.has(name)) {
    const floats = new Float32Array(await new Response(unpacked(await model.store.get(file))).arrayBuffer());
    const arrays = {};
    let at = 0;
    for (const [kind, lengths] of Object.entries(file.arrays)) arrays[kind] = lengths.map((n) => floats.subarray(at, (at += n)));
    steerings.set(name, { name, arrays });
  }
  return steerings.get(name);
}

// ------------------------------------------------------------------------------------------------------------------- prompts

// The ids of a prompt; those of pictures are -1 - i, where i is a row of `pictures`.
async function read(prompt) {
  const length = prompt.reduce((sum, piece) => sum + (typeof piece === "string" ? piece.length : 0), 0);
  if (!length) throw new Trouble("empty", "Write a few words first: the model goes on from what you write.");
  if (length > MOST) throw new Trouble("long", `That is ${length} characters; the most is ${MOST}. Shorten it.`);
  const ids = [], rows = [];
  for (const piece of prompt) {
    if (typeof piece === "string") ids.push(...model.tokenizer.encode(piece));
    else if (piece.special) ids.push(model.tokenizer.special[piece.special]);
    else {
      const features = await personOf(piece.person);
      for (let i = 0; i < features.length / 576; i++) ids.push(-1 - rows.length / 576 - i);
      rows.push(...features);
    }
  }
  if (ids.length > LONGEST - 100) throw new Trouble("long", `That is ${ids.length} tokens (pieces of words); the most is ${LONGEST - 100}. Shorten it.`);
  return { ids, pictures: rows.length ? Float32Array.from(rows) : null };
}

async function personOf(id) {
  if (!people.has(id)) {
    const person = model.manifest.seeing.people.find((one) => one.id === id);
    if (!person) throw new Trouble("fault", `There is no picture called ${id} here.`);
    people.set(id, new Float32Array(await new Response(unpacked(await model.store.get(person.features))).arrayBuffer()));
  }
  return people.get(id);
}

// ------------------------------------------------------------------------------------------------------------------- actions

async function choose({ model: which, prompt, words, steering, layers, strengths }, say, goOn) {
  const begun = performance.now();
  const { ids, pictures } = await read(prompt);
  const options = words.map((word) => model.tokenizer.encode(word));
  if (options.some((option) => option.length !== 1)) throw new Trouble("fault", "Each word to choose from must be one token.");
  const { engine } = model;
  const found = await steeringOf(steering);
  const group = Math.max(1, Math.floor(AT_ONCE / ids.length));
  for (let i = 0; i < strengths.length; ) {
    await goOn();
    const now = strengths.slice(i, i + (i ? group : 1)); // the first one alone: it is what the reader waits for
    engine.steer(found, layers);
    engine.begin(now.length, ids.length, which === "smol-llava");
    engine.forward(now.map(() => ids), now, { pictures }).forEach((logits, row) => {
      const of = logProbabilities(logits);
      say("point", { strength: now[row], p: options.map(([word]) => Math.exp(of(word))) });
    });
    i += now.length;
  }
  return { tokens: ids.length, milliseconds: performance.now() - begun };
}

async function perplexity({ text, steering, layers, strengths }, say, goOn) {
  const begun = performance.now();
  const { ids } = await read([text]);
  if (ids.length < 2) throw new Trouble("empty", "A text of one token has no perplexity.");
  const found = await steeringOf(steering);
  const { engine } = model;
  for (const strength of strengths) {
    await goOn();
    engine.steer(found, layers);
    engine.begin(1, ids.length);
    const rows = engine.forward([ids.slice(0, -1)], [strength], { everywhere: true });
    const surprise = rows.reduce((sum, logits, i) => sum - logProbabilities(logits)(ids[i + 1]), 0);
    say("point", { strength, value: Math.exp(surprise / rows.length) });
  }
  return { tokens: ids.length, milliseconds: performance.now() - begun };
}

// Always the likeliest next word, so that the two texts differ by nothing but the steering.
async function write({ model: which, prompt, steering, layers, strength, count }, say, goOn) {
  const begun = performance.now();
  const { ids, pictures } = await read(prompt);
  const found = await steeringOf(steering);
  const { engine, tokenizer } = model;
  const ends = new Set(Object.values(tokenizer.special));
  const room = Math.min(LONGEST, ids.length + count);
  engine.steer(found, layers);
  engine.begin(2, room, which === "smol-llava");
  const texts = [[], []], open = [true, true];
  let logits = engine.forward([ids, ids], [0, strength], { pictures });
  let n = 0;
  while (n < room - ids.length) {
    const next = logits.map((row, r) => (open[r] ? likeliest(row) : -1));
    next.forEach((word, r) => {
      if (open[r] && ends.has(word)) open[r] = false;
      if (open[r]) texts[r].push(word);
    });
    n++;
    say("token", { plain: tokenizer.decode(texts[0]), steered: tokenizer.decode(texts[1]), n });
    await goOn();
    if (!open[0] && !open[1]) break;
    if (n === room - ids.length) break;
    const rows = engine.forward(next.map((word, r) => (open[r] ? [word] : [])), [0, strength]);
    let i = 0;
    logits = open.map((is) => (is ? rows[i++] : null));
  }
  return { plain: tokenizer.decode(texts[0]), steered: tokenizer.decode(texts[1]), n, milliseconds: performance.now() - begun };
}

async function tokens({ prompt }) {
  return { tokens: (await read(prompt)).ids.length };
}
