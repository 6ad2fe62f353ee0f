"""The model of the built site, in every browser that is installed: it gives the ledger's numbers, and PyTorch's.

A small page, which only this test serves, talks to the site's worker and sends what it said back to the server. So any browser will do,
without a driver: Chromium and Firefox here.
"""

from __future__ import annotations

import http.server
import json
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import pytest
import torch

import steerlib as sl
from steerlib.inpage.engine import InPage
from steerlib.inpage.people import gallery
from steerlib.reproduce.ledger import load_ledger

REPOSITORY = Path(__file__).resolve().parents[2]
HTML = Path(os.environ.get("STEERLIB_BOOK", REPOSITORY / "_build" / "html"))
PATIENCE = 240  # seconds: a loaded machine takes its time
WORDS = [" he", " she", " they"]
DSO = "dso-smollm2-pronoun-0"

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
BROWSERS = [
    pytest.param("chromium", marks=pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")),
    pytest.param("firefox", marks=pytest.mark.skipif(FIREFOX is None, reason="no firefox on the PATH")),
]
pytestmark = [
    pytest.mark.timeout(2 * PATIENCE),
    pytest.mark.skipif(
        not (HTML / "live" / "model" / "model.json").is_file(),
        reason=f"no book with the model in {HTML}: `steerlib book` builds it",
    ),
]

PROBE = """<!doctype html><title>probe</title><script type="module">
const worker = new Worker("/live/worker.js", { type: "module" });
const asked = await (await fetch("/asked")).json();
const ask = (what, id) => new Promise((done) => {
  const said = [];
  worker.onmessage = ({ data }) => {
    if (data.id !== id || data.kind === "progress") return;
    said.push(data);
    if (["done", "error", "stopped"].includes(data.kind)) done(said);
  };
  worker.postMessage({ id, ...what });
});
const tell = (what) => fetch("/told", { method: "POST", body: JSON.stringify(what) });
try {
  const told = { browser: navigator.userAgent, answers: [] };
  if (asked.texts) {
    const { Tokenizer } = await import("/live/tokenizer.js");
    const { unpacked } = await import("/live/store.js");
    const { tokenizer } = await (await fetch("/live/model/model.json")).json();
    const file = await (await fetch("/live/model/" + tokenizer.file)).arrayBuffer();
    const made = new Tokenizer(await new Response(unpacked(file)).json());
    told.ids = asked.texts.map((text) => made.encode(text));
    told.back = told.ids.map((ids) => made.decode(ids));
  }
  for (const [id, what] of (asked.requests || []).entries()) told.answers.push(await ask(what, id));
  await tell(told);
} catch (error) {
  await tell({ error: String(error) });
}
</script>"""


class Site(http.server.ThreadingHTTPServer):
    """The built book, and the page that asks."""

    def __init__(self, asked: dict[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = asked
        self.told: dict[str, Any] = {}
        self.answered = threading.Event()


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        made = {"/probe.html": ("text/html", PROBE), "/asked": ("application/json", json.dumps(self.server.asked))}
        if self.path not in made:
            return super().do_GET()
        kind, text = made[self.path]
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        self.server.told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        self.server.answered.set()

    def translate_path(self, path: str) -> str:
        return str(HTML / unquote(urlparse(path).path).lstrip("/"))

    def log_message(self, format: str, *args: Any) -> None:
        pass


def told(browser: str, folder: Path, **asked: Any) -> dict[str, Any]:
    """What a browser answers, once it has opened the page that asks."""
    with Site(asked) as site:
        threading.Thread(target=site.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{site.server_port}/probe.html"
        if browser == "chromium":
            command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
            command += [f"--user-data-dir={folder}", "--remote-debugging-port=0", address]
        else:
            command = [str(FIREFOX), "--headless", "--no-remote", "--profile", str(folder), address]
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert site.answered.wait(PATIENCE), f"{browser} said nothing"
        finally:
            running.terminate()
            running.wait(30)
            site.shutdown()
    assert "error" not in site.told, site.told
    return site.told


def points(said: list[dict[str, Any]]) -> dict[float, list[float]]:
    assert said[-1]["kind"] == "done", said
    return {one["strength"]: one["p"] for one in said if one["kind"] == "point"}


@cache
def smollm2() -> Any:
    return sl.load("smollm2")


@pytest.mark.parametrize("browser", BROWSERS)
def test_a_browser_gives_the_ledger_s_probability_and_writes_what_the_engine_writes(
    browser: str, tmp_path: Path
) -> None:
    prompt = ["The nurse was late for work this morning because"]
    steered = {"prompt": prompt, "steering": DSO, "layers": None}
    said = told(
        browser,
        tmp_path,
        requests=[
            {"do": "load", "seeing": False},
            {"do": "choose", "model": "smollm2", "words": WORDS, "strengths": [0, 0.5, 1], **steered},
            {"do": "write", "model": "smollm2", "strength": 1, "count": 24, **steered},
        ],
    )
    assert browser in said["browser"].lower() or "chrom" in said["browser"].lower()
    found, ledger = points(said["answers"][1]), load_ledger()
    for at, word in enumerate(("he", "she")):
        claim = ledger[f"engine.question.{word}"]
        assert isinstance(claim.value, dict) and claim.tolerance is not None
        for name, strength in (("0", 0), ("half", 0.5), ("1", 1)):
            assert abs(found[strength][at] - claim.value[name]) <= claim.tolerance
    ids = smollm2().tokenizer(prompt[0]).input_ids
    dso = sl.load_steering(sl.data_path("steerings", f"{DSO}.safetensors"))
    for name, strength in (("plain", 0.0), ("steered", 1.0)):
        wanted = smollm2().tokenizer.decode(InPage().write(ids, 24, strength, dso), skip_special_tokens=True)
        assert said["answers"][2][-1][name] == wanted


def texts() -> Iterator[str]:
    """Lines of the book and of its code, prose, and strings drawn from many scripts, with special tokens typed among them."""
    for path in sorted((REPOSITORY / "book").glob("*.ipynb"))[:8]:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            yield from filter(None, "".join(cell["source"]).splitlines())
    yield from sl.plain_text()
    yield from [
        "<|im_start|>user",
        "a<|im_end|>b",
        "<|endoftext|>",
        " \t\t4",
        "1234 5",
        "\n\n  x",
        "½²③",
        "e\u0301",
        "🏳️‍🌈 👩🏽‍⚕️",
        "\u0085\ufeff\u00a0 \u2028x",
    ]
    rng = random.Random(0)
    ranges = [
        (32, 126),
        (160, 591),
        (880, 1279),
        (1424, 1535),
        (1569, 1791),
        (2304, 2431),
        (12352, 12543),
        (19968, 20479),
        (44032, 44543),
        (0x1F300, 0x1F64F),
    ]
    for _ in range(3000):
        some = rng.choices(ranges, k=3)
        letters = [
            chr(rng.randint(*rng.choice(some))) if rng.random() < 0.8 else rng.choice(" \n\t'0")
            for _ in range(rng.randint(1, 40))
        ]
        yield "".join(letters)


@pytest.mark.parametrize("browser", BROWSERS)
def test_the_page_cuts_texts_as_python_does(browser: str, tmp_path: Path) -> None:
    every = [text for text in texts() if text]
    assert len(every) > 4000
    said = told(browser, tmp_path, texts=every)
    wanted = smollm2().tokenizer(every, add_special_tokens=False, split_special_tokens=True).input_ids
    different = [text for text, ours, theirs in zip(every, said["ids"], wanted, strict=True) if ours != theirs]
    assert different == []
    assert said["back"] == every


@pytest.mark.parametrize("browser", BROWSERS[:1])
def test_the_model_that_sees_answers_in_the_page_as_in_pytorch(browser: str, tmp_path: Path) -> None:
    manifest = json.loads((HTML / "live" / "model" / "model.json").read_text(encoding="utf-8"))["seeing"]
    pairs = [("plain-man-light", "plain-woman-light"), ("plain-woman-dark", "plain-man-dark")]
    name = "dso-smol-llava-who-is-per-prompt-0"
    requests: list[dict[str, Any]] = [{"do": "load", "seeing": True}]
    for first, second in pairs:
        fills = {"occupation": "doctor", "first": {"person": first}, "second": {"person": second}}
        joined: list[Any] = []
        for part in (p if isinstance(p, str) else fills.get(p.get("fill", ""), p) for p in manifest["prompt"]):
            if isinstance(part, str) and joined and isinstance(joined[-1], str):
                joined[-1] += part
            else:
                joined.append(part)
        asked = {"prompt": joined, "words": manifest["words"], "steering": name, "layers": None, "strengths": [0, 1]}
        requests.append({"do": "choose", "model": "smol-llava", **asked})
    said = told(browser, tmp_path, requests=requests)
    lm = sl.load("smol-llava")
    who = {person.id: person for person in gallery()}
    steering = sl.load_steering(sl.data_path("steerings", f"{name}.safetensors"))
    seen = []
    for (first, second), answer in zip(pairs, said["answers"][1:], strict=True):
        pictures = [who[first].picture(), who[second].picture()]
        prompt = sl.chat("Who is the doctor, the first or the second?", "The", pictures=pictures)
        for strength in (0.0, 1.0):
            with sl.steer(lm, steering, strength), torch.no_grad():
                p, mass = lm.choose([prompt], manifest["words"], return_mass=True)
            wanted = (p[0] * mass[0]).numpy()
            assert np.abs(np.array(points(answer)[strength]) - wanted).max() < 1e-4
            seen.append(wanted[0])
    assert max(seen) - min(seen) > 0.02, "answers that are all alike test nothing"
