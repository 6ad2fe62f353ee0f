// A small Llama that can be steered while it runs, for one thread of WebAssembly with 128-bit
// SIMD and no libc.
//
// Several sequences run in one call, each with a strength s of its own. With s = 0 a sequence
// runs as its publisher meant it; with any other
//
//     affine    after each norm      h += s (a * h + b)          element by element
//     add       after each block     x += s v
//     ablate    after each block     x -= s m ((x . r) - c) r
//
// where a, b, v, r, m and c are of that norm or that block. Everything else is SmolLM2-135M: 30
// blocks, width 576, 9 heads that share 3 keys and values, a gated MLP of 1536, and an output
// head that is the embedding read the other way round.
//
// The matrices stay as they were published, 32 weights to a block of 4-bit numbers q with a
// scale d and an offset m (Q4_1: w = d q + m), or of 8-bit numbers (Q8_0: w = d q). A few rows
// at a time are written out as float32, used for all tokens, and forgotten.

#include <wasm_simd128.h>

enum { LAYERS = 30, WIDTH = 576, HEADS = 9, GROUPS = 3, HEAD = 64, INNER = 1536 };
enum { WORDS = 49152, NORMS = 2 * LAYERS + 1, RANK = 8 };
enum { QUERY = HEADS * HEAD, SHARED = GROUPS * HEAD, BLOCK = 32, ROWS = 4, LONGEST = INNER };

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef float f4 __attribute__((vector_size(16)));  // one SIMD register
typedef int i4 __attribute__((vector_size(16)));
#define EXPORT(name) __attribute__((export_name(#name))) name

// Rows of blocks: 16 (Q4_1) or 32 (Q8_0) bytes, a scale, an offset.
typedef struct {
  const u8 *q;
  const u16 *d, *m;
} Matrix;
// A low-rank update, y += b (a x). a: (RANK, inputs), b: (outputs, RANK)
typedef struct {
  const float *a, *b;
} Update;
typedef struct {
  Matrix q, k, v, o, gate, up, down;
  Update on_q, on_v, on_down;
} Block;

static Block blocks[LAYERS];
static Matrix embedding;    // (WORDS, WIDTH), Q8_0
static const float *norms;  // (NORMS, WIDTH): two a block, and the last
static const float *turns;  // (positions, HEAD): cosines, then sines, of the rotary embedding
// What steers; null where nothing does.
static const float *scale, *shift;  // affine: a and b, (NORMS, WIDTH)
static const float *push;           // add: v, (LAYERS, WIDTH)
static const float *along;          // ablate: r, (LAYERS, WIDTH)
static const float *centre;         // ablate: m, then c, (2, LAYERS)
// What each token leaves behind for the later ones.
static float *keys, *values;  // (LAYERS, slots, SHARED)
static int slots, per_row;    // a sequence has per_row of the slots
static int updated;           // whether the low-rank updates take part

// -------------------------------------------------------------------------------------- memory

extern u8 __heap_base;
static u8 *next = &__heap_base;

// A place of so many bytes, never given back one by one; null where memory ends.
void *EXPORT(alloc)(u32 bytes) {
  u8 *start = next, *end = start + ((bytes + 63) & ~63u);
  u32 have = __builtin_wasm_memory_size(0), need = ((u32)end + 65535) >> 16;
  if (end < start ||
      (need > have && __builtin_wasm_memory_grow(0, need - have) == (unsigned long)-1))
    return 0;
  next = end;
  return start;
}
void *EXPORT(mark)(void) { return next; }
void EXPORT(reset)(void *to) {
  next = to;
}  // gives back all that was taken since mark() said `to`

// -------------------------------------------------------------------------------------- set up

void EXPORT(set_embedding)(const u8 *q, const u16 *d) { embedding = (Matrix){q, d, 0}; }
void EXPORT(set_norms)(const float *all) { norms = all; }
void EXPORT(set_turns)(const float *all) { turns = all; }
void EXPORT(set_affine)(const float *a, const float *b) { scale = a, shift = b; }
void EXPORT(set_add)(const float *v) { push = v; }
void EXPORT(set_ablate)(const float *r, const float *m_and_c) { along = r, centre = m_and_c; }
void EXPORT(set_matrix)(int layer, int which, const u8 *q, const u16 *d, const u16 *m) {
  (&blocks[layer].q)[which] = (Matrix){q, d, m};
}
void EXPORT(set_update)(int layer, int which, const float *a, const float *b) {
  (&blocks[layer].on_q)[which] = (Update){a, b};
}
void EXPORT(use_updates)(int yes) { updated = yes; }

// Room for so many sequences of at most so many tokens; 0 where memory ends.
int EXPORT(make_room)(int rows, int tokens) {
  slots = rows * tokens, per_row = tokens;
  keys = alloc(sizeof(float) * LAYERS * slots * SHARED);
  values = alloc(sizeof(float) * LAYERS * slots * SHARED);
  return keys && values;
}

// -------------------------------------------------------------------------------- small pieces

static f4 load(const float *p) { return *(const f4 *)p; }
static float total(f4 v) { return (v[0] + v[1]) + (v[2] + v[3]); }

static float dot(const float *a, const float *b, int n) {
  f4 s = {0}, t = {0};
  for (int i = 0; i < n; i += 8)
    s += load(a + i) * load(b + i), t += load(a + i + 4) * load(b + i + 4);
  return total(s + t);
}

static void add_to(float *y, const float *x, float times, int n) {
  for (int i = 0; i < n; i += 4) *(f4 *)(y + i) += times * load(x + i);
}

// A half-precision number: its bits are moved to where float32 has them, and 2^112 makes up for
// the other exponent.
static float half(u16 h) {
  union {
    u32 bits;
    float value;
  } f = {.bits = (h & 0x7fffu) << 13};
  f.value *= 0x1p112f;
  return h & 0x8000 ? -f.value : f.value;
}

// e to the power x, to about one unit in the last place: 2^n times a polynomial of what is
// left, between -ln(2)/2 and ln(2)/2.
static f4 power(f4 x) {
  x = wasm_f32x4_pmin(wasm_f32x4_splat(88), wasm_f32x4_pmax(wasm_f32x4_splat(-87), x));
  f4 n = wasm_f32x4_nearest(x * 1.44269504f);
  f4 r = (x - n * 0.693359375f) +
         n * 2.12194440e-4f;  // ln 2 in two parts, so that nothing is lost
  f4 p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f, p = p * r + 4.1665795894e-2f, p = p * r + 1.6666665459e-1f,
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * (f4)((__builtin_convertvector(n, i4) + 127) << 23);
}

// ----------------------------------------------------------------------------------- a product

// Sixteen signed bytes as float32, times d, plus m.
static inline void spread(v128_t bytes, float d, float m, float *out) {
  v128_t low = wasm_i16x8_extend_low_i8x16(bytes), high = wasm_i16x8_extend_high_i8x16(bytes);
  v128_t fours[] = {wasm_i32x4_extend_low_i16x8(low), wasm_i32x4_extend_high_i16x8(low),
                    wasm_i32x4_extend_low_i16x8(high), wasm_i32x4_extend_high_i16x8(high)};
  for (int i = 0; i < 4; i++)
    *(f4 *)(out + 4 * i) = (f4)wasm_f32x4_convert_i32x4(fours[i]) * d + m;
}

// Four rows of a matrix as float32: out is (ROWS, n).
static void write_out(const Matrix *w, int row, int n, float *out) {
  int at = row * (n / BLOCK), end = at + ROWS * (n / BLOCK);
  for (; at < end; at++, out += BLOCK) {
    float d = half(w->d[at]);
    if (w->m) {  // the low halves of 16 bytes are weights 0 to 15, the high halves 16 to 31
      v128_t q = wasm_v128_load(w->q + 16 * at);
      float m = half(w->m[at]);
      spread(wasm_v128_and(q, wasm_i8x16_splat(15)), d, m, out);
      spread(wasm_u8x16_shr(q, 4), d, m, out + 16);
    } else {
      spread(wasm_v128_load(w->q + 32 * at), d, 0, out);
      spread(wasm_v128_load(w->q + 32 * at + 16), d, 0, out + 16);
    }
  }
}

// Four rows times one or two tokens: y is (tokens, outputs), x is (tokens, n).
static inline __attribute__((always_inline)) void tile(const float *w, const float *x, float *y,
                                                       int n, int outputs, int two) {
  f4 s[ROWS] = {0}, t[ROWS] = {0};
  for (int i = 0; i < n; i += 4) {
    f4 first = load(x + i), second = two ? load(x + n + i) : first;
    for (int r = 0; r < ROWS; r++) {
      f4 weights = load(w + r * n + i);
      s[r] += weights * first;
      if (two) t[r] += weights * second;
    }
  }
  for (int r = 0; r < ROWS; r++) {
    y[r] = total(s[r]);
    if (two) y[outputs + r] = total(t[r]);
  }
}

// y = W x for every token, and the low-rank update where there is one. x: (tokens, n), y:
// (tokens, outputs).
static void product(const Matrix *w, const Update *update, const float *x, float *y, int tokens,
                    int n, int outputs) {
  static float panel[ROWS * LONGEST] __attribute__((aligned(64)));
  for (int row = 0; row < outputs; row += ROWS) {
    int t = 0;
    write_out(w, row, n, panel);
    for (; t + 1 < tokens; t += 2) tile(panel, x + t * n, y + t * outputs + row, n, outputs, 1);
    if (t < tokens) tile(panel, x + t * n, y + t * outputs + row, n, outputs, 0);
  }
  if (!updated || !update || !update->a) return;
  for (int t = 0; t < tokens; t++) {
    float inner[RANK] __attribute__((aligned(16)));
    for (int r = 0; r < RANK; r++) inner[r] = dot(update->a + r * n, x + t * n, n);
    for (int o = 0; o < outputs; o++)
      y[t * outputs + o] += dot(update->b + o * RANK, inner, RANK);
  }
}

// -------------------------------------------------------------------------- parts of the model

// out = norm(x), steered: RMSNorm brings a token to length sqrt(WIDTH), and the affine steering
// acts on what comes out.
static void norm(const float *x, int which, float strength, float *out) {
  const float *weight = norms + which * WIDTH, *a = scale + which * WIDTH,
              *b = shift + which * WIDTH;
  double squares = 0;
  for (int i = 0; i < WIDTH; i++) squares += (double)x[i] * x[i];
  float r = (float)(1.0 / __builtin_sqrt(squares / WIDTH + 1e-5));
  for (int i = 0; i < WIDTH; i += 4) {
    f4 h = load(x + i) * r * load(weight + i);
    if (scale && strength != 0) h += strength * (load(a + i) * h + load(b + i));
    *(f4 *)(out + i) = h;
  }
}

// What leaves a block, steered: an addition, or a direction taken out.
static void steer_residual(float *x, int layer, float strength) {
  if (push) add_to(x, push + layer * WIDTH, strength, WIDTH);
  if (along && centre[layer] != 0) {
    const float *r = along + layer * WIDTH;
    add_to(x, r, -strength * centre[layer] * (dot(x, r, WIDTH) - centre[LAYERS + layer]),
           WIDTH);
  }
}

// The rotary embedding: the two halves of each head are turned by angles that grow with the
// position.
static void turn(float *x, int heads, int position) {
  const float *cosine = turns + position * HEAD, *sine = cosine + HEAD / 2;
  for (int h = 0; h < heads; h++, x += HEAD)
    for (int i = 0; i < HEAD / 2; i += 4) {
      f4 p = load(x + i), q = load(x + i + HEAD / 2);
      *(f4 *)(x + i) = p * load(cosine + i) - q * load(sine + i);
      *(f4 *)(x + i + HEAD / 2) = q * load(cosine + i) + p * load(sine + i);
    }
}

// Causal attention of one token: each head looks back over its own sequence. kept, seen:
// (per_row, SHARED).
static void attend(const float *query, const float *kept, const float *seen, int position,
                   float *score, float *out) {
  for (int h = 0; h < HEADS; h++) {
    const float *q = query + h * HEAD, *k = kept + h / (HEADS / GROUPS) * HEAD,
                *v = seen + h / (HEADS / GROUPS) * HEAD;
    float top = -1e30f, sum = 0, *o = out + h * HEAD;
    for (int p = 0; p <= position; p++) {
      score[p] = dot(q, k + p * SHARED, HEAD) * 0.125f;  // 1 / sqrt(HEAD)
      top = score[p] > top ? score[p] : top;
    }
    for (int p = position + 1; p & 3; p++) score[p] = -1e30f;
    for (int p = 0; p <= position; p += 4) {
      f4 e = power(load(score + p) - top);
      *(f4 *)(score + p) = e;
    }
    for (int p = 0; p <= position; p++) sum += score[p];
    for (int i = 0; i < HEAD; i++) o[i] = 0;
    for (int p = 0; p <= position; p++) add_to(o, v + p * SHARED, score[p] / sum, HEAD);
  }
}

// ---------------------------------------------------------------------------- the forward pass

// Run `tokens` new tokens, those of a sequence in order, and write the logits of some of them.
//
//   word      (tokens,)  the token's id; or -1 - i for row i of `pictures`, (., WIDTH), which
//   takes the place of an embedding row       (tokens,)  its sequence place     (tokens,)  its
//   position there, below per_row strength  (rows,)    of each sequence asked     (answers,)
//   indices of the tokens whose logits are wanted; logits: (answers, WORDS)
//
// Returns 0 where memory ends; what is taken here is given back.
int EXPORT(forward)(int tokens, const int *word, const int *row, const int *place,
                    const float *strength, const float *pictures, int answers, const int *asked,
                    float *logits) {
  u8 *before = next;
  float *x = alloc(4 * tokens * WIDTH), *h = alloc(4 * tokens * WIDTH);
  float *mixed = alloc(4 * tokens * QUERY), *q = alloc(4 * tokens * QUERY);
  float *k = alloc(4 * tokens * SHARED), *v = alloc(4 * tokens * SHARED);
  float *gate = alloc(4 * tokens * INNER), *up = alloc(4 * tokens * INNER);
  float *score = alloc(4 * per_row + 16);
  if (!x || !h || !mixed || !q || !k || !v || !gate || !up || !score) return next = before, 0;

  for (int t = 0; t < tokens; t++)
    for (int i = 0; i < WIDTH; i++) {
      int at = word[t] * WIDTH + i;
      x[t * WIDTH + i] = word[t] < 0
                             ? pictures[(-1 - word[t]) * WIDTH + i]
                             : half(embedding.d[at / BLOCK]) * (signed char)embedding.q[at];
    }

  for (int layer = 0; layer < LAYERS; layer++) {
    const Block *b = &blocks[layer];
    float *kept = keys + layer * slots * SHARED, *seen = values + layer * slots * SHARED;

    for (int t = 0; t < tokens; t++)
      norm(x + t * WIDTH, 2 * layer, strength[row[t]], h + t * WIDTH);
    product(&b->q, &b->on_q, h, q, tokens, WIDTH, QUERY);
    product(&b->k, 0, h, k, tokens, WIDTH, SHARED);
    product(&b->v, &b->on_v, h, v, tokens, WIDTH, SHARED);
    for (int t = 0; t < tokens; t++) {
      int slot = (row[t] * per_row + place[t]) * SHARED, own = row[t] * per_row * SHARED;
      turn(q + t * QUERY, HEADS, place[t]), turn(k + t * SHARED, GROUPS, place[t]);
      for (int i = 0; i < SHARED; i++)
        kept[slot + i] = k[t * SHARED + i], seen[slot + i] = v[t * SHARED + i];
      attend(q + t * QUERY, kept + own, seen + own, place[t], score, mixed + t * QUERY);
    }
    product(&b->o, 0, mixed, h, tokens, QUERY, WIDTH);
    add_to(x, h, 1, tokens * WIDTH);

    for (int t = 0; t < tokens; t++)
      norm(x + t * WIDTH, 2 * layer + 1, strength[row[t]], h + t * WIDTH);
    product(&b->gate, 0, h, gate, tokens, WIDTH, INNER);
    product(&b->up, 0, h, up, tokens, WIDTH, INNER);
    for (int i = 0; i < tokens * INNER; i += 4)
      *(f4 *)(gate + i) *= load(up + i) / (1 + power(-load(gate + i)));  // silu(gate) * up
    product(&b->down, &b->on_down, gate, h, tokens, INNER, WIDTH);
    add_to(x, h, 1, tokens * WIDTH);

    for (int t = 0; t < tokens; t++)
      if (strength[row[t]] != 0) steer_residual(x + t * WIDTH, layer, strength[row[t]]);
  }

  for (int a = 0; a < answers; a++)
    norm(x + asked[a] * WIDTH, NORMS - 1, strength[row[asked[a]]], h + a * WIDTH);
  product(&embedding, 0, h, logits, answers, WIDTH, WORDS);
  next = before;
  return 1;
}
