"""SmolLM2 as an ONNX file, written by hand: with the published 4-bit and 8-bit blocks as they are, or written out as float32.

    python build_onnx.py FOLDER        # four-bit.onnx, float32.onnx and their weights, FOLDER/*.data

A block of 32 weights is w = d q + m. The operator for 4-bit products knows a scale and a whole zero point, w = d (q - 8), so that the rest
is a product of its own, with the sum of each block of x:

    W x = MatMulNBits(q, d) x + (m + 8 d) (block sums of x)

Both files can be steered at every norm as the page's engine can: h += s (a h + b), with s of each sequence an input. Needs `onnx`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from steerlib.inpage.engine import HEAD, LONGEST, VOCABULARY, WIDTH, frequencies
from steerlib.inpage.vectors import LAYERS
from steerlib.inpage.weights import planes

CONTRIB = "com.microsoft"
HEADS, SHARED, BLOCK, EPSILON = 9, 3, 32, 1e-5
FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64


class Graph:
    """Nodes and weights, in the order in which they are added; every method returns the name of what it computes."""

    def __init__(self, weights: Path) -> None:
        self.nodes: list[Any] = []
        self.held: list[Any] = []
        self.file = weights.open("wb")

    def add(self, op: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        names = [f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def hold(self, name: str, array: NDArray[Any]) -> str:
        """A weight; large ones lie in the file beside the graph."""
        tensor = helper.make_tensor(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.tobytes(), True
        )
        if array.nbytes > 1024:
            tensor.ClearField("raw_data")
            tensor.data_location = TensorProto.EXTERNAL
            where = {"location": Path(self.file.name).name, "offset": self.file.tell(), "length": array.nbytes}
            for key, value in where.items():
                tensor.external_data.add(key=key, value=str(value))
            self.file.write(array.tobytes())
        self.held.append(tensor)
        return name


def blocks() -> dict[str, dict[str, NDArray[Any]]]:
    """The weights of each matrix as they were published: q (rows, blocks, bytes), d and, where there is one, m (rows, blocks)."""
    raw: dict[str, dict[str, bytes]] = {}
    for plane in planes():
        raw.setdefault(plane.of, {})[plane.part] = plane.data
    found: dict[str, dict[str, NDArray[Any]]] = {}
    for name, parts in raw.items():
        if name == "norms":
            found[name] = {"f32": np.frombuffer(parts["f32"], "<f4").reshape(-1, WIDTH)}
            continue
        inputs = 3 * 512 if name.endswith("ffn_down") else WIDTH
        numbers = {
            k: np.stack([np.frombuffer(parts[k + byte], "u1") for byte in "01"], -1) for k in "dm" if k + "0" in parts
        }
        found[name] = {k: n.view("<f2").astype("<f4").reshape(-1, inputs // BLOCK) for k, n in numbers.items()}
        found[name]["q"] = np.frombuffer(parts["q"], "u1").reshape(*found[name]["d"].shape, -1)
    return found


def values(q: NDArray[np.uint8], d: NDArray[np.float32], m: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """The weights of a matrix as numbers: (rows, inputs)."""
    numbers = q.view("i1") if m is None else np.concatenate([q & 15, q >> 4], -1)
    written = numbers.astype("<f4") * d[..., None] + (0 if m is None else m[..., None])
    return np.ascontiguousarray(written.reshape(len(d), -1), dtype="<f4")


def product(g: Graph, name: str, x: str, held: dict[str, NDArray[Any]], four_bit: bool) -> str:
    """W x, for the 4-bit matrices."""
    q, d, m = held["q"], held["d"], held["m"]
    outputs, inputs = len(d), d.shape[1] * BLOCK
    if not four_bit:
        return str(g.add("MatMul", x, g.hold(f"{name}.w", np.ascontiguousarray(values(q, d, m).T))))
    numbers = np.concatenate([q & 15, q >> 4], -1)  # bytes of the operator hold neighbours, not weights 16 apart
    pairs = numbers[..., 0::2] | numbers[..., 1::2] << 4
    shape = {"K": inputs, "N": outputs, "bits": 4, "block_size": BLOCK, "domain": CONTRIB}
    scaled = g.add("MatMulNBits", x, g.hold(f"{name}.q", pairs), g.hold(f"{name}.d", d), **shape)
    sums = x + ".sums"
    if not any(sums in node.output for node in g.nodes):  # q, k and v share theirs, as gate and up do
        split = g.add("Reshape", x, g.hold(f"{name}.split", np.array([0, 0, -1, BLOCK])))
        g.nodes.append(helper.make_node("ReduceSum", [split, "last"], [sums], keepdims=0))
    return str(g.add("Add", scaled, g.add("MatMul", sums, g.hold(f"{name}.m", np.ascontiguousarray((m + 8 * d).T)))))


def build(folder: Path, name: str, four_bit: bool) -> None:
    """Write FOLDER/NAME.onnx and FOLDER/NAME.data."""
    g, weights = Graph(folder / f"{name}.data"), blocks()
    angles = np.arange(LONGEST, dtype="<f4")[:, None] * frequencies()
    g.hold("cos", np.cos(angles).astype("<f4")), g.hold("sin", np.sin(angles).astype("<f4"))
    g.hold("last", np.array([-1])), g.hold("end", np.array(-1)), g.hold("whole", np.array([0, 0, WIDTH]))
    embedding = weights["embedding"]

    def steered(h: str, at: int) -> str:
        a, b = (g.add("Gather", given, g.hold(f"{given}.{at}", np.array(at)), axis=0) for given in ("scale", "shift"))
        return str(g.add("Add", h, g.add("Mul", "strength", g.add("Add", g.add("Mul", h, a), b))))

    def norm(x: str, more: str, at: int) -> tuple[str, str]:
        """x + more, and its norm, steered."""
        gamma = g.hold(f"norm.{at}", np.ascontiguousarray(weights["norms"]["f32"][at]))
        if not more:
            return x, steered(g.add("SimplifiedLayerNormalization", x, gamma, epsilon=EPSILON, axis=-1), at)
        made = g.add("SkipSimplifiedLayerNormalization", x, more, gamma, outputs=4, domain=CONTRIB, epsilon=EPSILON)
        return made[3], steered(made[0], at)

    if four_bit:  # the table in 8 bits, with zero at 128, serves both ends of the model
        table = g.hold("table.q", embedding["q"] + np.uint8(128))
        scales = g.hold("table.scales", np.ascontiguousarray(embedding["d"][..., None]))
        taken = {"bits": 8, "block_size": BLOCK, "gather_axis": 0, "quantize_axis": 2, "domain": CONTRIB}
        x = g.add("Reshape", g.add("GatherBlockQuantized", table, "ids", scales, **taken), "whole")
    else:
        table = g.hold("table", values(embedding["q"], embedding["d"]))
        x = g.add("Gather", table, "ids", axis=0)

    more, pasts, presents = "", [], []
    for layer in range(LAYERS):
        mine = {key.partition(".")[2]: value for key, value in weights.items() if key.startswith(f"{layer}.")}

        def times(which: str, x: str, mine: dict[str, Any] = mine, layer: int = layer) -> str:
            return product(g, f"{layer}.{which}", x, mine[which], four_bit)

        x, h = norm(x, more, 2 * layer)
        past = [f"past.{layer}.{kind}" for kind in ("key", "value")]
        looked = {"num_heads": HEADS, "kv_num_heads": SHARED, "do_rotary": 1, "outputs": 3, "domain": CONTRIB}
        qkv = [times(f"attn_{which}", h) for which in "qkv"]
        mixed, *present = g.add("GroupQueryAttention", *qkv, *past, "before", "length", "cos", "sin", **looked)
        pasts, presents = pasts + past, presents + present
        x, h = norm(x, times("attn_output", mixed), 2 * layer + 1)
        gate = times("ffn_gate", h)
        inner = g.add("Mul", g.add("Mul", gate, g.add("Sigmoid", gate)), times("ffn_up", h))
        more = times("ffn_down", inner)
    _, h = norm(x, more, 2 * LAYERS)
    h = g.add("Gather", h, "end", axis=1)  # (sequences, width): only what follows the last token is asked
    if four_bit:
        shape = {"K": WIDTH, "N": VOCABULARY, "bits": 8, "block_size": BLOCK, "domain": CONTRIB}
        logits = g.add("MatMulNBits", h, table, g.hold("table.d", embedding["d"]), **shape)
    else:
        logits = g.add("Gemm", h, table, transB=1)

    given = {
        "ids": (INT64, ["rows", "tokens"]),
        "before": (INT32, ["rows"]),  # tokens of each sequence, the new ones among them, less one
        "length": (INT32, []),
        "strength": (FLOAT, ["rows", 1, 1]),
        "scale": (FLOAT, [2 * LAYERS + 1, WIDTH]),
        "shift": (FLOAT, [2 * LAYERS + 1, WIDTH]),
        **{past: (FLOAT, ["rows", SHARED, "known", HEAD]) for past in pasts},
    }
    made = {logits: (FLOAT, ["rows", VOCABULARY]), **{p: (FLOAT, ["rows", SHARED, "all", HEAD]) for p in presents}}
    described = [[helper.make_tensor_value_info(k, *about) for k, about in side.items()] for side in (given, made)]
    graph = helper.make_graph(g.nodes, name, *described, initializer=g.held)
    versions = [helper.make_opsetid("", 21), helper.make_opsetid(CONTRIB, 1)]
    onnx.save(helper.make_model(graph, opset_imports=versions, ir_version=10), str(folder / f"{name}.onnx"))
    g.file.close()


if __name__ == "__main__":
    for name in ("four-bit", "float32"):
        build(Path(sys.argv[1]), name, name == "four-bit")
