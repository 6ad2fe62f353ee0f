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
    let bytes = await this.fetch(address, signal, "default");
    if (!(await isWhole(bytes, file))) {
      this.fetched -= bytes.byteLength;
      bytes = await this.fetch(address, signal, "reload"); // a bad copy may lie somewhere on the way
      if (!(await isWhole(bytes, file)))
        throw new Trouble("damaged", `A part of the model (${file.file}) arrived damaged, twice: what came was thrown away. Try again later.`);
    }
    try {
      if (kept) await kept.put(address, new Response(bytes.slice(0), { headers: { "Content-Length": String(bytes.byteLength) } }));
      this.kept &&= Boolean(kept);
    } catch {
      this.kept = false; // full, or not allowed: the model runs all the same
    }
    return bytes;
  }

  async fetch(address, signal, mode) {
    const from = this.fetched;
    try {
      const answer = await fetch(address, { signal, cache: mode });
      if (answer.status === 404) throw new Trouble("absent", "This copy of the book was built without the model: the figures above are all it has.");
      if (!answer.ok) throw new Trouble("lost", `The site answered with an error (${answer.status}). Try again: what has arrived is kept.`);
      const pieces = [];
      const reader = answer.body.getReader();
      for (let read; !(read = await reader.read()).done; ) {
        pieces.push(read.value);
        this.fetched += read.value.length;
        this.told(this);
      }
      return await new Blob(pieces).arrayBuffer();
    } catch (error) {
      this.fetched = from;
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

export function unpacked(bytes) {
  return new Response(bytes).body.pipeThrough(new DecompressionStream("gzip"));
}
