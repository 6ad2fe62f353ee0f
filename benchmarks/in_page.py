"""The page's engine beside what it could have been: onnxruntime-web and wllama, in one run, in node and in Chromium.

    python benchmarks/in_page.py                       # about ten minutes, 1.2 GB in a scratch folder, 4 GB of memory
    python benchmarks/in_page.py --rounds 8
    python benchmarks/in_page.py --wasm faster=other.wasm    # another build of the engine takes part

All run the published 4-bit weights with one thread of WebAssembly, each in a process of its own, and take turns. Times are processor seconds
of that process, and ratios are to the page's engine in the same place and the same round. Node and Chromium have the same engine of
JavaScript and WebAssembly, V8; wllama needs a browser. Everything is steered at all 61 norms by DSO, except wllama, which cannot be.

Packages of npm and PyPI that steerlib does not need go to the scratch folder; without npm, or without `chromium`, rows say why they are empty.
"""

from __future__ import annotations

import argparse
import gzip
import http.server
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

import steerlib as sl
from steerlib.assets import fetch
from steerlib.inpage.pack import pack
from steerlib.models.load import EMBEDDED

REPOSITORY = Path(__file__).resolve().parents[1]
HERE = REPOSITORY / "benchmarks" / "in_page"
NPM = {"onnxruntime-web": "1.30.0", "@wllama/wllama": "3.13.0"}
PYPI = ["onnx==1.23.2", "protobuf==7.36.2", "ml_dtypes==0.6.0", "typing_extensions==4.16.0"]
PYPI += ["playwright==1.65.2", "pyee==13.0.1", "greenlet==3.5.6"]
STEERING = "dso-smollm2-pronoun-0"
FIRST = [
    "The",
    "My",
    "Our",
    "One",
    "Each",
    "That",
    "This",
    "His",
    "Her",
    "Their",
    "Some",
    "Any",
]  # so that no prompt is met again
TEXT = " nurse was late for work this morning because the bus that goes to the hospital did not come, and when the next one came at last"
TASKS = {
    "12 tokens": (12, [1.0], False),
    "30 tokens": (30, [1.0], False),
    "write": (12, [1.0], True),
    "write both": (12, [0.0, 1.0], True),
}
"""What is timed: how many tokens are read, the strengths of the sequences, and whether not that is timed, but each token written then."""


# ---------------------------------------------------------------------------------------------------------------- what takes part


@dataclass(frozen=True)
class Contestant:
    """A way to run the model in a page.

    Args:
        kind: which class of contestants.mjs drives it.
        files: what that class is given.
        runtime: the files that a page would load to have it, without the weights.
        count: how many tokens it writes; fewer where one takes long, more where what was read has to be taken off.
    """

    kind: str
    files: dict[str, str]
    runtime: list[Path]
    count: int = 8


def contestants(scratch: Path, others: dict[str, Path]) -> dict[str, Contestant]:
    """Those that take part, by name; the first is what the others are compared with."""
    made = json.loads((scratch / "model" / "model.json").read_text(encoding="utf-8"))
    files = {"model": str(scratch / "model"), "steering": made["steerings"][STEERING]["file"]}
    engine = REPOSITORY / "book" / "live" / "engine.js"
    builds = {"the page's engine": REPOSITORY / "engine" / "engine.wasm", **others}
    found = {
        name: Contestant("own", {**files, "engine": str(engine), "wasm": str(wasm)}, [engine, wasm])
        for name, wasm in builds.items()
    }
    dist = scratch / "node_modules" / "onnxruntime-web" / "dist"
    runtime = [dist / f"ort-wasm-simd-threaded.{ending}" for ending in ("mjs", "wasm")] + [dist / "ort.wasm.min.mjs"]
    for name, graph in (("onnxruntime-web, 4 bits", "four-bit"), ("onnxruntime-web, float32", "float32")):
        given = {**files, "graph": str(scratch / "onnx" / graph), "wasm": f"{dist}/"}
        given |= {"node": str(dist / "ort.node.min.mjs"), "runtime": str(runtime[-1])}
        found[name] = Contestant("onnx", given, runtime, 3 if graph == "four-bit" else 8)
    esm = scratch / "node_modules" / "@wllama" / "wllama" / "esm"
    gguf = fetch(EMBEDDED["smollm2"][0]) / EMBEDDED["smollm2"][1]
    given = {"runtime": str(esm / "index.min.js"), "wasm": str(esm / "wasm" / "wllama.wasm"), "gguf": str(gguf)}
    found["wllama"] = Contestant("wllama", given, [esm / "index.min.js", esm / "wasm" / "wllama.wasm"], 24)
    found["an empty process"] = Contestant("nothing", {}, [])
    return found


def prepare(scratch: Path) -> None:
    """Packages, the packed model and the two ONNX files, each unless it is there."""
    scratch.mkdir(parents=True, exist_ok=True)
    if not (scratch / "node_modules").is_dir():
        wanted = [f"{name}@{version}" for name, version in NPM.items()]
        quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
        subprocess.run(["npm", "install", "--prefix", str(scratch), *quiet, *wanted], check=True)
    target = scratch / "python"
    if not target.is_dir():
        quiet = ["--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([sys.executable, "-m", "pip", "install", *quiet, "--target", str(target), *PYPI], check=True)
    if not (scratch / "model" / "model.json").is_file():
        pack(scratch / "model")
    if not (scratch / "onnx" / "done").is_file():
        (scratch / "onnx").mkdir(exist_ok=True)
        paths = os.pathsep.join([str(REPOSITORY), str(target)])  # what is installed for steerlib goes first
        environment = {**os.environ, "PYTHONPATH": paths}
        command = [sys.executable, str(HERE / "build_onnx.py"), str(scratch / "onnx")]
        subprocess.run(command, check=True, env=environment)
        (scratch / "onnx" / "done").touch()
    sys.path.append(str(target))


# ---------------------------------------------------------------------------------------------------------------- where they run


class Node:
    """A contestant in a process of node."""

    def __init__(self, one: Contestant) -> None:
        self.process = subprocess.Popen(
            ["node", str(HERE / "in_node.mjs")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.folder = Path("/proc", str(self.process.pid))
        files = {**one.files, **({"runtime": one.files["node"]} if "node" in one.files else {})}
        self.ask(do="load", kind=one.kind, files=files)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The answer: its value, and the processor seconds it took."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "the process ended"}
        if answer["error"]:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


class Page:
    """A contestant in a page of a Chromium of its own; processor time and memory are those of the page's process, all threads."""

    def __init__(self, one: Contestant, playwright: Any, address: str) -> None:
        self.browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        self.page = self.browser.new_page()
        self.page.set_default_timeout(600_000)
        self.page.goto(address)
        self.page.wait_for_function("window.desk")
        self.ask(do="load", kind=one.kind, files=one.files)

    @cached_property
    def folder(self) -> Path:
        found = self.browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
        renderers = [one["id"] for one in found if one["type"] == "renderer"]
        return Path("/proc", str(max(renderers, key=lambda pid: spent(Path("/proc", str(pid))))))

    def ask(self, **request: Any) -> dict[str, Any]:
        """As of Node."""
        before = spent(self.folder) if request["do"] != "load" else 0.0
        value = self.page.evaluate("request => window.desk.answer(request)", request)
        return {"value": value, "cpu": spent(self.folder) - before}

    def close(self) -> None:
        self.browser.close()


def peak(process: Path) -> int:
    """The most memory that a process has had, in bytes."""
    line = next(line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def spent(process: Path) -> float:
    """Processor seconds of all threads of a process, which Linux counts in nanoseconds."""
    return sum(int((task / "schedstat").read_text().split()[0]) for task in (process / "task").iterdir()) / 1e9


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves a blank page, and the files of the disk that the contestants are made of."""

    roots: ClassVar[tuple[str, ...]] = ()
    extensions_map: ClassVar[dict[str, str]] = {
        "": "application/octet-stream",
        ".mjs": "text/javascript",
        ".js": "text/javascript",
        ".wasm": "application/wasm",
    }

    def do_GET(self) -> None:
        if self.path != "/":
            return super().do_GET()
        script = f"import {{ Desk }} from 'http://{self.headers['Host']}{HERE}/contestants.mjs'; window.desk = new Desk(PLACE);"
        place = (
            "{ read: async (file) => new Uint8Array(await (await fetch(file)).arrayBuffer()), "
            "load: (file) => import(file), folder: (file) => location.origin + file }"
        )
        body = f"<!doctype html><script type='module'>{script.replace('PLACE', place)}</script>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def translate_path(self, path: str) -> str:
        found = os.path.realpath(path.partition("?")[0])
        return found if found.startswith(self.roots) else os.devnull

    def log_message(self, *_: Any) -> None:
        pass


# ---------------------------------------------------------------------------------------------------------------- what is measured


def prompts(lm: sl.Model) -> dict[int, list[tuple[list[int], str]]]:
    """Prompts of 12 and of 30 tokens, as ids and as texts, each with a first word of its own."""
    found: dict[int, list[tuple[list[int], str]]] = {12: [], 30: []}
    for first in FIRST:
        ids = lm.tokenizer(first + TEXT * 2, add_special_tokens=False).input_ids
        for length, held in found.items():
            text = lm.tokenizer.decode(ids[:length])
            assert lm.tokenizer(text, add_special_tokens=False).input_ids == ids[:length]
            held.append((ids[:length], text))
    return found


def exactness(lm: sl.Model, running: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Each contestant's largest difference from PyTorch, of a logit and of a probability: 4 prompts at 3 strengths.

    wllama: of the 20 likeliest words' probabilities, unsteered; it gives no logits.
    """
    items = sl.tasks.pronoun("test").ambiguous
    texts = [lm.render(items[i].prompt) for i in (0, 3, 5, -1)]
    steering = sl.load_steering(sl.data_path("steerings", f"{STEERING}.safetensors"))
    found: dict[str, tuple[float, float]] = {}
    for strength in (0.0, 0.5, 1.0):
        for text in texts:
            ids = lm.tokenizer(text, add_special_tokens=False).input_ids
            with sl.steer(lm, steering, strength), torch.inference_mode():
                wanted = lm.hf(torch.tensor([ids])).logits[0, -1].double()
            sure = wanted.softmax(-1)
            for name, one in running.items():
                if name != "wllama":
                    got = torch.tensor(one.ask(do="logits", ids=ids, strength=strength)["value"], dtype=torch.float64)
                    new = (float((got - wanted).abs().max()), float((got.softmax(-1) - sure).abs().max()))
                elif strength == 0:
                    answer = one.ask(do="likely", text=text)["value"]
                    assert answer["tokens"] == len(ids), "both read the same tokens"
                    new = (float("nan"), max(abs(np.exp(p) - float(sure[word])) for word, p in answer["words"]))
                else:
                    continue
                old = found.get(name, (0.0, 0.0))
                found[name] = (max(new[0], old[0]) if new[0] == new[0] else new[0], max(new[1], old[1]))
    return found


def turns(
    running: dict[str, Any], counts: dict[str, int], asked: dict[int, list[tuple[list[int], str]]], rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Processor seconds of each contestant, by task; per token, where tokens are written. The round before the first warms up."""
    found: dict[str, dict[str, list[float]]] = {task: {name: [] for name in running} for task in TASKS}
    for number in range(rounds + 1):
        for at, (task, (length, strengths, writes)) in enumerate(TASKS.items()):
            ids, text = asked[length][(number + 3 * at) % len(FIRST)]
            other = asked[length][(number + 3 * at + 1) % len(FIRST)][1]
            for name, one in running.items():
                if name == "wllama" and len(strengths) > 1:
                    continue
                used = float(one.ask(do="read", ids=ids, text=text, strengths=strengths)["cpu"])
                if writes:  # wllama reads a text once more: what reading took is taken off
                    more = float(one.ask(do="write", text=other, strengths=strengths, count=counts[name])["cpu"])
                    used = (more - (used if name == "wllama" else 0)) / counts[name]
                if number:
                    found[task][name].append(used)
    return found


# ---------------------------------------------------------------------------------------------------------------- the run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often each contestant takes its turn")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir(), "steerlib-in-page"))
    parser.add_argument("--places", nargs="+", choices=["node", "Chromium"], default=["node", "Chromium"])
    parser.add_argument("--only", nargs="*", help="names of contestants, besides the page's engine")
    parser.add_argument("--wasm", nargs="+", default=[], metavar="NAME=FILE", help="other builds of the engine")
    given = parser.parse_args()
    scratch = given.scratch.resolve()
    prepare(scratch)
    others = {name: Path(file).resolve() for name, _, file in (entry.partition("=") for entry in given.wasm)}
    found = contestants(scratch, others)
    if given.only is not None:
        found = {name: one for at, (name, one) in enumerate(found.items()) if at == 0 or name in given.only}
    print(
        f"{time.strftime('%Y-%m-%d')}, {processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start"
    )
    print(f"torch {torch.__version__}, {', '.join(f'{name} {version}' for name, version in NPM.items())}")
    for name, one in found.items():
        size = sum(len(gzip.compress(file.read_bytes(), 9, mtime=0)) for file in one.runtime)
        print(f"  runtime of {name:32} {size / 1000:8.1f} kB gzipped")
    lm = sl.load("smollm2")
    if "node" in given.places:
        print(f"\nnode {version('node')}")
        measure(lm, {name: one for name, one in found.items() if one.kind != "wllama"}, Node, given.rounds)
        print("  wllama: not run, for it needs the Worker of a browser")
    if "Chromium" in given.places:
        if not shutil.which("chromium"):
            print("\nChromium: not run, no `chromium` on the PATH")
        else:
            in_chromium(lm, found, given.rounds, scratch)
    print(f"\nload {os.getloadavg()[0]:.1f} at the end")


def in_chromium(lm: sl.Model, found: dict[str, Contestant], rounds: int, scratch: Path) -> None:
    from playwright.sync_api import Error, sync_playwright

    weights = fetch(EMBEDDED["smollm2"][0])
    places = [REPOSITORY, scratch, weights, *(Path(one.files["wasm"]) for one in found.values() if "wasm" in one.files)]
    Files.roots = tuple(str(place.resolve()) for place in places)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        print(f"\n{version('chromium')}")
        address = f"http://127.0.0.1:{server.server_port}/"
        measure(lm, found, lambda one: Page(one, playwright, address), rounds, [Error])
    server.shutdown()


def measure(lm: sl.Model, found: dict[str, Contestant], start: Any, rounds: int, failures: Any = ()) -> None:
    """Run all, and print a table: best times and, in brackets, the median of the ratios to the first within a round."""
    running: dict[str, Any] = {}
    for name, one in found.items():
        try:
            running[name] = start(one)
        except (RuntimeError, *failures) as error:
            print(f"  {name}: not run, {str(error).splitlines()[0]}")
    empty = running.pop("an empty process", None)
    times = turns(running, {name: one.count for name, one in found.items()}, prompts(lm), rounds)
    peaks = {
        name: peak(one.folder) for name, one in [*running.items(), *([("an empty process", empty)] if empty else [])]
    }
    exact = exactness(lm, running)  # last: all logits go out of the process, which takes memory
    own = next(iter(running))
    columns = "".join((task + ", ms").rjust(22) for task in TASKS)
    print(f"  {'':32} {columns} {'peak, MB':>10} {'max |dlogit|':>13} {'max |dP|':>9}")
    for name in [*running, *(["an empty process"] if empty else [])]:
        cells = []
        for task in TASKS:
            mine = times[task].get(name, [])
            ratio = np.median([a / b for a, b in zip(mine, times[task][own], strict=True)]) if mine else 0
            cells.append(f"{1000 * min(mine):9.1f} ({ratio:5.2f})" if mine else "")
        differences = "".join(f"{value:11.1e}" for value in exact.get(name, ()))
        print(f"  {name:32} {''.join(f'{cell:>22}' for cell in cells)} {peaks[name] / 1e6:10.0f} {differences}")
    for one in [*running.values(), *([empty] if empty else [])]:
        one.close()


def version(program: str) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
