"""Writing a model to a folder or a hub, whole or not at all, with its tokenizer and a card.

Everything is written beside the folder's final name and then moved there in one step. A full disk leaves nothing behind.

Serving a merged folder with vLLM needs nothing else, because it has Llama's biases (`attention_bias`, `mlp_bias`):

    vllm serve plain-checkpoint/
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from steerlib.errors import SteerlibError
from steerlib.models.model import Model
from steerlib.models.trouble import listening


def save(model: Model, folder: str | Path, *, card: str) -> Path:
    """Write a model as a folder that transformers and other engines load, without steerlib.

    Args:
        model: such as `merge` returns.
        folder: a new one, in a folder that exists; `~` is the home folder.
        card: the text of its README.md, as `model_card` writes it.

    Returns:
        The folder.

    Raises:
        SteerlibError: the folder is there already, it cannot be written, or the card is empty.

    Example:
        >>> import steerlib as sl, tempfile
        >>> folder = tempfile.mkdtemp() + "/plain"
        >>> path = sl.deploy.save(sl.load("smollm2", device="cpu"), folder, card="# A copy of SmolLM2")
        >>> sorted(file.name for file in path.iterdir())[:2]
        ['README.md', 'chat_template.jinja']
    """
    if not isinstance(card, str) or not card.strip():
        raise SteerlibError("a saved model needs a card that says what it is: write one with model_card.")
    with whole_folder(folder) as made, listening():  # whose bars would stand in every notebook
        model.hf.save_pretrained(made)
        (model.processor or model.tokenizer).save_pretrained(made)
        (made / "README.md").write_text(card, encoding="utf-8")
    return Path(folder).expanduser()


def push_to_hub(model: Model, repository: str, *, card: str, private: bool = True) -> str:
    """Upload a model with its card to the Hugging Face hub, in one commit, with the token that `hf auth login` keeps.

    Args:
        model: such as `merge` returns.
        repository: "owner/name"; it is made if it is not there.
        card: as for `save`.
        private: whether a new repository is seen by its owner only.

    Returns:
        The address of the commit.

    Raises:
        SteerlibError: the name is not one of a repository, or the hub refuses.

    Example:
        >>> import steerlib as sl
        >>> sl.deploy.push_to_hub(sl.load("smollm2", device="cpu"), "no owner", card="# A copy")
        Traceback (most recent call last):
        steerlib.errors.SteerlibError: 'no owner' is not a repository: write owner/name.
    """
    owner, _, name = repository.partition("/")
    if not owner or not name or "/" in name or any(letter.isspace() for letter in repository):
        raise SteerlibError(f"'{repository}' is not a repository: write owner/name.")
    with tempfile.TemporaryDirectory() as scratch:
        folder = save(model, Path(scratch) / "model", card=card)
        import huggingface_hub

        try:
            api = huggingface_hub.HfApi()
            api.create_repo(repository, private=private, exist_ok=True)
            done: Any = api.upload_folder(
                repo_id=repository, folder_path=str(folder), commit_message="A model with a steering in its weights"
            )
        except (OSError, ValueError) as error:  # the hub's errors are OSErrors
            reason = " ".join(str(error).split())[:200]
            raise SteerlibError(
                f"'{repository}' was not uploaded ({reason}): check the name, the token and the network."
            ) from error
    return str(done)


@contextmanager
def whole_folder(folder: str | Path) -> Iterator[Path]:
    """A scratch folder that gets its name when the `with` ends, and vanishes if it ends by an error.

    Args:
        folder: the name, which nothing has yet.

    Raises:
        SteerlibError: something has that name, or writing failed.
    """
    final = Path(folder).expanduser()
    with _whole(final, shutil.rmtree) as scratch:
        scratch.mkdir()
        yield scratch


@contextmanager
def whole_file(file: str | Path) -> Iterator[Path]:
    """A scratch file that gets its name when the `with` ends, and vanishes if it ends by an error.

    Args:
        file: the name; a file of that name is replaced.

    Raises:
        SteerlibError: a folder has that name, or writing failed.
    """
    final = Path(file).expanduser()
    with _whole(final, lambda path: path.unlink()) as scratch:
        yield scratch


@contextmanager
def _whole(final: Path, remove: Callable[[Path], None]) -> Iterator[Path]:
    if final.is_dir():
        raise SteerlibError(f"{final} is there already: name a new one, or remove it first.")
    scratch = final.with_name(f".{final.name}.{uuid.uuid4().hex[:8]}")
    try:
        yield scratch
        os.replace(scratch, final)
    except (OSError, SafetensorError) as error:
        raise SteerlibError(f"{final} cannot be written ({error}): name a new one in a folder that exists.") from error
    finally:
        if scratch.exists():
            remove(scratch)
