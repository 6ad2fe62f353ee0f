"""The Map: the one picture of the model, in which each method lights up where it touches.

The one idea: `the_map.svg`, written by hand, names its places, and METHODS says which of them a method changes and which it is made
from. From these two come the picture, its buttons and the same in words. A page needs no script for it: the buttons are radio
inputs, and book/_static/map.css does the rest. A form keeps two maps on a page apart.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from steerlib.errors import SteerlibError

NOWHERE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Method:
    """A method on the Map.

    Attributes:
        name: on its button.
        says: what it touches and how, in a sentence or two.
        changes: the places that it changes.
        made_from: the places that are read, or stepped on, to make it.
    """

    name: str
    says: str
    changes: tuple[str, ...]
    made_from: tuple[str, ...] = ()


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "prompt": Method(
            "Prompting",
            "An instruction is put in front of the <b>prompt</b>. The model itself is left as it is.",
            ("tokens",),
        ),
        "add": Method(
            "Adding",
            "The same vector is added to the <b>residual stream</b> after some blocks, at every token. It is the difference, on "
            "average, between the activations of two sets of <i>prompts</i>.",
            ("residual",),
            ("tokens",),
        ),
        "ablate": Method(
            "Ablating",
            "The part along one direction is taken out of the <b>residual stream</b> after some blocks, so each token moves by its own "
            "distance from the centre. The direction comes from two sets of <i>prompts</i>.",
            ("residual",),
            ("tokens",),
        ),
        "contrastive": Method(
            "Contrastive vectors",
            "In a model that sees, the directions come from two sets of <i>pictures</i>: those of a man or a woman, and those in which the "
            "model sees a person. They are ablated in the <b>residual stream</b> after some late blocks.",
            ("residual",),
            ("picture",),
        ),
        "gradient": Method(
            "One gradient step",
            "One small step at the <i>pixels</i> (or the <i>visual tokens</i>) makes a word likelier. What that step changes after the blocks "
            "is the direction, which is then ablated in the <b>residual stream</b>; the changed picture is thrown away.",
            ("residual",),
            ("picture", "visual"),
        ),
        "iti": Method(
            "ITI",
            "Inference-time intervention adds a vector to what a few <b>attention heads</b> hand on. Their probes tell best, in "
            "<i>prompts</i> with their answers, which answers follow the stereotype.",
            ("heads",),
            ("tokens",),
        ),
        "dso": Method(
            "DSO",
            "Direct Steering Optimization scales and shifts the output of <b>every norm</b> of the language model. The numbers are learned "
            "from the model’s own <i>decisions</i>.",
            ("norm",),
            ("decision",),
        ),
        "lora": Method(
            "LoRA",
            "A low-rank update is added to every <b>weight matrix</b> in the blocks. It is learned from the same <i>decisions</i> as DSO.",
            ("matrix",),
            ("decision",),
        ),
        "merge": Method(
            "Merging",
            "A steering that was made before is written into a plain checkpoint: into the <b>weights of the norms</b> and the <b>biases</b> "
            "of the matrices. What has no place there is refused.",
            ("norm-weight", "bias"),
        ),
    }
)
"""The methods of the book, in the order of its chapters."""

ALT = (
    "A language model, read from the bottom up. The tokens of a prompt become embeddings. They enter the residual stream, which runs up "
    "through a stack of blocks. In each block a norm and attention heads, then a norm and a feed-forward part, read the stream and add "
    "to it. After the last block come a final norm, logits, a softmax, and the probabilities of he and she. At the side a picture "
    "goes through a vision tower and a projector and becomes visual tokens, which enter beside the embeddings."
)


def the_map(here: str = "", links: Mapping[str, str] = NOWHERE) -> str:
    """The Map as HTML for a page of the book, without a blank line, so that Markdown leaves it alone.

    Args:
        here: the method of the page, one of METHODS; it is chosen from the start, and its button says "You are here".
        links: the address of the chapter on a method, by method.

    Returns:
        A figure: the buttons, the picture, what is said of the chosen method, and all of it in words.

    Raises:
        SteerlibError: `here` or `links` name a method that is not on the Map.

    >>> page = the_map(here="dso", links={"dso": "direct-steering-optimization.html"})
    >>> page.count('type="radio"'), page.count("You are here"), "\\n\\n" in page
    (9, 1, False)
    """
    unknown = {here, *links} - {"", *METHODS}
    if unknown:
        raise SteerlibError(f"the Map has no method '{min(unknown)}': use {', '.join(METHODS)}.")
    said = "\n".join(
        f'<p class="only o-{key}"><strong>{method.name}.</strong> {method.says}{_link(method, links.get(key))}</p>'
        for key, method in METHODS.items()
    )
    words = "\n".join(
        f"<li><strong>{method.name}.</strong> {method.says}{_link(method, links.get(key))}</li>"
        for key, method in METHODS.items()
    )
    return f"""<figure class="book-map">
<form method="dialog" autocomplete="off">
<fieldset>
<legend>Where does a method touch the model?</legend>
{"".join(_button(key, method, key == here) for key, method in METHODS.items())}</fieldset>
{_picture()}
<div class="map-said" aria-live="polite">
<p class="map-hint">Choose a method: what it changes is filled, what it was made from is dashed.</p>
{said}
</div>
</form>
<details><summary>The Map in words</summary>
<p>{ALT}</p>
<ul>
{words}
</ul>
</details>
</figure>"""


def _link(method: Method, address: str | None) -> str:
    return f' <a href="{html.escape(address)}">Read about it<span> ({method.name})</span></a>' if address else ""


def _only(keys: str) -> str:
    """Classes of what is shown while one of these methods is chosen."""
    return " ".join(f"o-{key}" for key in keys.split())


def _button(key: str, method: Method, here: bool) -> str:
    chosen, mark = (" checked", " <em>You are here</em>") if here else ("", "")
    return f'<label><input type="radio" name="method" value="{key}"{chosen}> {method.name}{mark}</label>\n'


def _picture() -> str:
    """The SVG, whose places know by which methods they are changed and which are made from them."""
    svg = Path(__file__).with_suffix(".svg").read_text(encoding="utf-8")
    svg = re.sub(r"<!--.*?-->\n", "", svg, flags=re.DOTALL).strip()

    def known(match: re.Match[str]) -> str:
        place = match[1]
        changed = [f"c-{key}" for key, method in METHODS.items() if place in method.changes]
        source = [f"f-{key}" for key, method in METHODS.items() if place in method.made_from]
        return f'data-place="{place}" class="{" ".join(changed + source)}"'

    svg = re.sub(r'data-place="([^"]*)"', known, svg)
    svg = re.sub(r'data-only="([^"]*)"', lambda match: f'class="only {_only(match[1])}"', svg)
    return svg.replace(' xmlns="http://www.w3.org/2000/svg"', f' role="img" aria-label="{html.escape(ALT)}"', 1)
