// The contestants, in node and in a browser: the page's own engine, onnxruntime-web, and wllama.
//
// Each has begin(rows) and forward(words, strengths): new tokens of each sequence, and the logits that follow them. wllama takes texts only, and
// has no strengths. `read` brings a file as bytes, from the disk or from a server; addresses are those of `in_page.py`.

const LAYERS = 30, SHARED = 3, HEAD = 64, VOCABULARY = 49152, ROOM = 64;

// A steering: (61, 576) a, then b.
async function steering(read, where) {
  const floats = new Float32Array((await unpacked(await read(where))).buffer);
  return [floats.subarray(0, floats.length / 2), floats.subarray(floats.length / 2)];
}

async function unpacked(bytes) {
  const stream = new Response(bytes).body.pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

class Own {
  static async make({ read, load }, { engine, model, wasm, steering: where }) {
    const { Engine } = await load(engine);
    const manifest = JSON.parse(new TextDecoder().decode(await read(`${model}/model.json`)));
    const made = new Own();
    made.engine = await Engine.make(await read(wasm));
    const receive = made.engine.receiver(manifest.planes);
    for (const { file } of manifest.parts) {
      const stream = new Response(await read(`${model}/${file}`)).body.pipeThrough(new DecompressionStream("gzip"));
      for (let reader = stream.getReader(), part; !(part = await reader.read()).done; ) receive(part.value);
    }
    made.engine.ready(manifest.frequencies);
    made.engine.steer({ name: where, arrays: { affine: await steering(read, `${model}/${where}`) } });
    return made;
  }

  begin(rows) {
    this.engine.begin(rows, ROOM);
  }

  async forward(words, strengths) {
    return this.engine.forward(words, strengths);
  }
}

class Onnx {
  static async make({ read, load, folder }, { runtime, wasm, graph, model, steering: where }) {
    const ort = await load(runtime);
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmPaths = folder(wasm);
    const made = new Onnx();
    made.ort = ort;
    made.session = await ort.InferenceSession.create(await read(`${graph}.onnx`), {
      executionProviders: ["wasm"],
      externalData: [{ path: `${graph.split("/").at(-1)}.data`, data: await read(`${graph}.data`) }],
    });
    const [a, b] = await steering(read, `${model}/${where}`);
    made.steering = { scale: new ort.Tensor("float32", a, [61, 576]), shift: new ort.Tensor("float32", b, [61, 576]) };
    return made;
  }

  begin(rows) {
    this.known = 0;
    this.past = {};
    for (let layer = 0; layer < LAYERS; layer++)
      for (const kind of ["key", "value"])
        this.past[`past.${layer}.${kind}`] = new this.ort.Tensor("float32", new Float32Array(0), [rows, SHARED, 0, HEAD]);
  }

  async forward(words, strengths) {
    const { Tensor } = this.ort, rows = words.length, tokens = words[0].length;
    this.known += tokens;
    const out = await this.session.run({
      ids: new Tensor("int64", BigInt64Array.from(words.flat(), BigInt), [rows, tokens]),
      before: new Tensor("int32", new Int32Array(rows).fill(this.known - 1), [rows]),
      length: new Tensor("int32", Int32Array.of(this.known), []),
      strength: new Tensor("float32", Float32Array.from(strengths), [rows, 1, 1]),
      ...this.steering,
      ...this.past,
    });
    const names = this.session.outputNames; // the logits, then keys and values of each block
    Object.keys(this.past).forEach((past, i) => (this.past[past] = out[names[i + 1]]));
    return words.map((_, row) => out[names[0]].data.slice(row * VOCABULARY, (row + 1) * VOCABULARY));
  }
}

class Wllama {
  static async make({ read, load, folder }, { runtime, wasm, gguf }) {
    const { Wllama: Runtime } = await load(runtime);
    const made = new Wllama();
    made.llama = new Runtime({ default: folder(wasm) }, { suppressNativeLog: true });
    await made.llama.loadModel([new Blob([await read(gguf)])], { n_ctx: 256, n_threads: 1, n_gpu_layers: 0 });
    return made;
  }

  // Goes on with a text by so many words, always with the likeliest; nothing of an earlier text is used again.
  async write(prompt, count, likely = 0) {
    const asked = { prompt, max_tokens: count, temperature: 0, cache_prompt: false, ignore_eos: true };
    const answer = await this.llama.createCompletion({ ...asked, ...(likely ? { logprobs: likely } : {}) });
    if (answer.timings?.cache_n) throw new Error("a part of the prompt was not read, but taken from an earlier one");
    return answer;
  }
}

const CONTESTANTS = { own: Own, onnx: Onnx, wllama: Wllama, nothing: { make: async () => ({}) } };

// What a contestant is asked, one request after the other; the time that each takes is measured by whoever asks.
export class Desk {
  constructor(place) {
    this.place = place;
  }

  async answer({ do: what, ...given }) {
    return await this[what](given);
  }

  async load({ kind, files }) {
    this.one = await CONTESTANTS[kind].make(this.place, files);
  }

  // Read a prompt from its beginning, in each of `strengths.length` sequences.
  async read({ ids, text, strengths }) {
    if (this.one.write) return void (await this.one.write(text, 1));
    this.one.begin(strengths.length);
    await this.one.forward(strengths.map(() => ids), strengths);
  }

  // Write so many words after what was read.
  async write({ text, strengths, count }) {
    if (this.one.write) return void (await this.one.write(text, count + 1));
    for (let i = 0; i < count; i++) await this.one.forward(strengths.map(() => [253 + i]), strengths);
  }

  async logits({ ids, strength }) {
    this.one.begin(1);
    return Array.from((await this.one.forward([ids], [strength]))[0]);
  }

  // The likeliest next words, with ln of their probabilities, and how many tokens the text was.
  async likely({ text }) {
    const { choices, timings } = await this.one.write(text, 1, 20);
    return { tokens: timings.prompt_n, words: choices[0].logprobs.content[0].top_logprobs.map(({ id, logprob }) => [id, logprob]) };
  }
}
