// Text to tokens and back, as the publisher's tokenizer does it: digits apart, then words as GPT-2 cuts them, then the merges.
//
// What a reader types never becomes a special token: those are asked for by their names, and never looked for in a text.

const WORD = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

// Each byte as a character that can be seen: GPT-2's table.
const SEEN = (() => {
  const table = [];
  for (let byte = 0, other = 256; byte < 256; byte++) {
    const plain = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
    table.push(String.fromCharCode(plain ? byte : other++));
  }
  return table;
})();
const BYTE = new Map(SEEN.map((character, byte) => [character, byte]));

export class Tokenizer {
  // tokens: the vocabulary; merges: pairs of tokens with a blank in between, the first to be merged first; special: ids of special tokens by name.
  constructor({ tokens, merges, special }) {
    this.tokens = tokens;
    this.special = special;
    this.hidden = new Set(Object.values(special));
    this.ids = new Map(tokens.map((token, id) => [token, id]));
    this.ranks = new Map(merges.map((pair, rank) => [pair, rank]));
    this.words = new Map(); // words that were cut before
  }

  encode(text) {
    return text.split(/(\p{N})/u).flatMap((piece) => (piece.match(WORD) || []).flatMap((word) => this.cut(word)));
  }

  cut(word) {
    const known = this.words.get(word);
    if (known) return known;
    const parts = Array.from(new TextEncoder().encode(word), (byte) => SEEN[byte]);
    for (;;) {
      let best = Infinity, at = -1;
      for (let i = 0; i + 1 < parts.length; i++) {
        const rank = this.ranks.get(`${parts[i]} ${parts[i + 1]}`);
        if (rank < best) [best, at] = [rank, i];
      }
      if (at < 0) break;
      parts.splice(at, 2, parts[at] + parts[at + 1]);
    }
    const ids = parts.map((part) => this.ids.get(part));
    if (this.words.size < 10_000) this.words.set(word, ids);
    return ids;
  }

  // The text of tokens; a character of which only the first bytes are there yet is left out, and so are special tokens.
  decode(ids) {
    const bytes = ids.filter((id) => !this.hidden.has(id)).flatMap((id) => Array.from(this.tokens[id], (character) => BYTE.get(character)));
    return new TextDecoder().decode(Uint8Array.from(bytes), { stream: true });
  }
}
