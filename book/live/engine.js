// The model in the page: the WebAssembly of engine/engine.c, with the weights in its memory.
//
// engine.c computes; this file only carries numbers in and out. steerlib/inpage/engine.py does the same for Python.

export const LONGEST = 1024; // tokens of one sequence, at most
const WIDTH = 576, HEAD = 64, LAYERS = 30, VOCABULARY = 49152;
const MATRICES = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
const UPDATED = ["attn_q", "attn_v", "ffn_down"]; // matrices that have a low-rank update in the model that sees

export class Engine {
  static async make(wasm) {
    const { instance } = await WebAssembly.instantiate(wasm, {});
    return new Engine(instance.exports);
  }

  constructor(c) {
    this.c = c;
    this.places = new Map(); // what -> addresses of its parts
    this.steering = null;
  }

  // ---------------------------------------------------------------------------------------------------------------- memory

  alloc(bytes) {
    const at = this.c.alloc(bytes) >>> 0;
    if (!at) throw Object.assign(new Error("out of memory"), { code: "memory" });
    return at;
  }

  put(array) {
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    const at = this.alloc(bytes.length);
    new Uint8Array(this.c.memory.buffer).set(bytes, at);
    return at;
  }

  // ---------------------------------------------------------------------------------------------------------------- weights

  // Says where the bytes of the planes go, in the order in which they come: a function that takes them piece by piece. The two bytes
  // of each scale come apart, first all low ones, then all high ones.
  receiver(planes) {
    const queue = planes.map(([of, part, length]) => ({ of, part, length }));
    let plane = null, done = 0, at = 0;
    const start = () => {
      plane = queue.shift();
      done = 0;
      const parts = this.places.get(plane.of) || this.places.set(plane.of, []).get(plane.of);
      if (plane.part.endsWith("1")) return void (at = parts.at(-1) + 1);
      at = this.alloc(plane.part === "q" || plane.part === "f32" ? plane.length : 2 * plane.length);
      parts.push(at);
    };
    return (bytes) => {
      for (let from = 0; from < bytes.length; ) {
        if (!plane || done === plane.length) start();
        const n = Math.min(bytes.length - from, plane.length - done);
        const memory = new Uint8Array(this.c.memory.buffer);
        if (plane.part === "q" || plane.part === "f32") memory.set(bytes.subarray(from, from + n), at + done);
        else for (let i = 0; i < n; i++) memory[at + 2 * (done + i)] = bytes[from + i];
        done += n;
        from += n;
      }
      return !queue.length && done === plane.length; // whether all are there
    };
  }

  // After all weights have come. frequencies: radians by which each pair of coordinates turns from one position to the next.
  ready(frequencies) {
    const turns = new Float32Array(LONGEST * HEAD);
    for (let p = 0; p < LONGEST; p++)
      frequencies.forEach((frequency, i) => {
        const angle = Math.fround(p * frequency);
        turns[p * HEAD + i] = Math.cos(angle);
        turns[p * HEAD + HEAD / 2 + i] = Math.sin(angle);
      });
    this.c.set_turns(this.put(turns));
    this.c.set_norms(...this.places.get("norms"));
    this.c.set_embedding(...this.places.get("embedding"));
    for (let layer = 0; layer < LAYERS; layer++)
      MATRICES.forEach((name, which) => this.c.set_matrix(layer, which, ...this.places.get(`${layer}.${name}`)));
    this.places.clear();
    const floats = (n) => this.alloc(4 * n);
    this.room = {
      affine: [floats((2 * LAYERS + 1) * WIDTH), floats((2 * LAYERS + 1) * WIDTH)],
      add: [floats(LAYERS * WIDTH)],
      ablate: [floats(LAYERS * WIDTH), floats(2 * LAYERS)],
    };
    this.start = this.c.mark();
  }

  // The low-rank update that makes SmolLM2 the language model of smol-llava: per block and matrix a (8, inputs), then b (outputs, 8).
  addUpdates(floats, shapes) {
    let at = this.put(floats);
    for (let layer = 0; layer < LAYERS; layer++)
      UPDATED.forEach((name, which) => {
        const [a, b] = shapes[name];
        this.c.set_update(layer, which, at, at + 4 * a);
        at += 4 * (a + b);
      });
    this.start = this.c.mark();
  }

  // ---------------------------------------------------------------------------------------------------------------- steering

  // steering: null, or {name, arrays: {affine: [a, b], add: [v], ablate: [r, m and c]}}; layers: the blocks that are steered, null for all.
  steer(steering, layers = null) {
    const key = steering && `${steering.name} ${layers}`;
    if (key === this.steering) return;
    this.steering = key;
    this.c.set_affine(0, 0);
    this.c.set_add(0);
    this.c.set_ablate(0, 0);
    for (const [kind, arrays] of Object.entries(steering ? steering.arrays : {})) {
      arrays.forEach((array, i) => new Float32Array(this.c.memory.buffer, this.room[kind][i], array.length).set(chosen(kind, i, array, layers)));
      this.c[`set_${kind}`](...this.room[kind]);
    }
  }

  // ---------------------------------------------------------------------------------------------------------------- running

  // Forget all sequences and make room for new ones.
  begin(rows, tokens, seeing = false) {
    this.c.reset(this.start);
    this.c.use_updates(seeing ? 1 : 0);
    if (!this.c.make_room(rows, tokens)) throw Object.assign(new Error("out of memory"), { code: "memory" });
    this.filled = new Array(rows).fill(0);
    this.kept = this.c.mark();
  }

  // Go on with each sequence: `words` are its new tokens (ids, or -1 - i for row i of `pictures`). Returns the logits that follow the last of
  // them, for each sequence that has new ones, or those that follow each token if `everywhere`.
  forward(words, strengths, { pictures = null, everywhere = false } = {}) {
    this.c.reset(this.kept);
    const row = words.flatMap((own, r) => own.map(() => r));
    const place = words.flatMap((own, r) => own.map((_, i) => this.filled[r] + i));
    words.forEach((own, r) => (this.filled[r] += own.length));
    const ends = words.map((_, r) => row.lastIndexOf(r)).filter((at) => at >= 0);
    const asked = everywhere ? row.map((_, i) => i) : ends;
    const out = this.alloc(4 * asked.length * VOCABULARY);
    const ints = (values) => this.put(Int32Array.from(values));
    const strength = this.put(Float32Array.from(strengths));
    const fits = this.c.forward(
      row.length, ints(words.flat()), ints(row), ints(place), strength, pictures ? this.put(pictures) : 0, asked.length, ints(asked), out);
    if (!fits) throw Object.assign(new Error("out of memory"), { code: "memory" });
    return asked.map((_, i) => new Float32Array(this.c.memory.buffer, out + 4 * i * VOCABULARY, VOCABULARY));
  }
}

// The part of an array that belongs to the chosen blocks; the others are zeros, which do nothing.
function chosen(kind, which, array, layers) {
  if (!layers || kind === "affine" || (kind === "ablate" && which === 0)) return array;
  const width = kind === "add" ? WIDTH : 1; // the ablation's amounts are enough: none removes nothing
  const part = new Float32Array(array.length);
  const copy = (at) => part.set(array.subarray(at * width, (at + 1) * width), at * width);
  layers.forEach(copy);
  if (kind === "ablate") part.set(array.subarray(LAYERS), LAYERS);
  return part;
}

// ln of the probability of each word in a row of logits.
export function logProbabilities(logits) {
  let top = -Infinity, sum = 0;
  for (let i = 0; i < logits.length; i++) if (logits[i] > top) top = logits[i];
  for (let i = 0; i < logits.length; i++) sum += Math.exp(logits[i] - top);
  const all = top + Math.log(sum);
  return (word) => logits[word] - all;
}

export function likeliest(logits) {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i] > logits[best]) best = i;
  return best;
}
