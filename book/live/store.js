// Files of the model: fetched from the site once, checked, and kept by the browser for the next visit.
//
// A file's name holds the beginning of its SHA-256. One that came whole is kept, so a load that was cut short goes on where it was.

const KEPT = "steerlib-model-1";

export class Trouble extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

// Where WebCrypto is missing (a page that is not served over https), gzip's own checksum must do.
async function isWhole(bytes, file) {
  if (bytes.byteLength !== file.bytes) return false;
  if (!globalThis.crypto?.subtle) return true;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === file.sha256;
}

// The cache, or null where the browser has none for this page (private windows, http) or refuses it.
async function cache() {
  try {
    return await caches.open(KEPT);
  } catch {
    return null;
  }
}

// Reads a body into one buffer: straight into it where the browser can, so that nothing piles up beside it.
class Body {
  constructor(stream, size) {
    this.buffer = new ArrayBuffer(size);
    this.size = size;
    this.at = 0;
    try {
      this.straight = stream.getReader({ mode: "byob" });
    } catch {
      this.pieces = stream.getReader();
    }
  }

  // How many bytes came; 0 at the end. More than fit are counted and left out.
  async read() {
    const left = this.size - this.at;
    if (this.straight) {
      const { done, value } = await this.straight.read(left > 0 ? new Uint8Array(this.buffer, this.at) : new Uint8Array(1));
      if (left > 0 && value) this.buffer = value.buffer;
      if (done) return 0;
      this.at += value.length;
      return value.length;
    }
    const { done, value } = await this.pieces.read();
    if (done) return 0;
    if (left > 0) new Uint8Array(this.buffer).set(value.subarray(0, left), this.at);
    this.at += value.length;
    return value.length;
  }
}

export class Store {
  // base: the address of the folder; told: is called with the bytes that have come so far.
  constructor(base, told = () => {}) {
    this.base = base;
    this.told = told;
    this.fetched = 0; // bytes over the network
    this.found = 0; // bytes that were kept
    this.kept = true; // whether all could be kept
  }

  // The bytes of a file {file, bytes, sha256}.
  async get(file, signal) {
    const address = new URL(file.file, this.base).href;
    const kept = await cache();
    const before = await kept?.match(address).catch(() => undefined);
    if (before) {
      const bytes = await before.arrayBuffer().catch(() => new ArrayBuffer(0));
      if (await isWhole(bytes, file)) {
        this.found += bytes.byteLength;
        this.told(this);
        return bytes;
      }
      await kept.delete(address).catch(() => {});
    }
    let bytes = await this.fetch(address, signal, "default", file.bytes);
    if (!(await isWhole(bytes, file))) {
      this.fetched -= bytes.byteLength;
      bytes = await this.fetch(address, signal, "reload", file.bytes); // a bad copy may lie somewhere on the way
      if (!(await isWhole(bytes, file)))
        throw new Trouble("damaged", `A part of the model (${file.file}) arrived damaged, twice: what came was thrown away. Try again later.`);
    }
    try {
      if (kept) await kept.put(address, new Response(streamed(bytes), { headers: { "Content-Length": String(bytes.byteLength) } }));
      this.kept &&= Boolean(kept);
    } catch {
      this.kept = false; // full, or not allowed: the model runs all the same
    }
    return bytes;
  }

  // size: bytes to expect, which are put into their place as they come, or null; more than expected are left out.
  async fetch(address, signal, mode, size = null) {
    let at = 0; // bytes that have come
    try {
      const answer = await fetch(address, { signal, cache: mode });
      if (answer.status === 404) throw new Trouble("absent", "This copy of the book was built without the model: the figures above are all it has.");
      if (!answer.ok) throw new Trouble("lost", `The site answered with an error (${answer.status}). Try again: what has arrived is kept.`);
      if (size === null) return await answer.arrayBuffer();
      const body = new Body(answer.body, size);
      for (let n; (n = await body.read()); this.told(this)) {
        at += n;
        this.fetched += n;
      }
      if (at === size) return body.buffer;
      this.fetched -= at;
      return new ArrayBuffer(0);
    } catch (error) {
      this.fetched -= at;
      if (error instanceof Trouble || error.name === "AbortError") throw error;
      throw navigator.onLine === false
        ? new Trouble("offline", "There is no network, and the model is not yet kept on this device. Try again when you are online: what has arrived is kept.")
        : new Trouble("lost", "The connection was lost. Try again: the parts that have arrived are kept, and the load goes on from there.");
    }
  }

  // Takes away what is kept and no longer belongs to the model: an older version's parts.
  async tidy(files) {
    const kept = await cache();
    const wanted = new Set(files.map((file) => new URL(file, this.base).href));
    for (const request of (await kept?.keys().catch(() => [])) || []) {
      if (request.url.startsWith(this.base) && !wanted.has(request.url)) await kept.delete(request).catch(() => {});
    }
  }
}

// As a stream, since a Response makes a copy of bytes that stays for long.
function streamed(bytes) {
  return new ReadableStream({
    start(controller) {
      controller.enqueue(new Uint8Array(bytes));
      controller.close();
    },
  });
}

export function unpacked(bytes) {
  const gzip = new DecompressionStream("gzip"), writer = gzip.writable.getWriter();
  for (const done of [writer.write(bytes), writer.close()]) done.catch(() => {}); // the reader is told
  return gzip.readable;
}
