"""A Steering as a control vector of llama.cpp: one vector a block, added to what the block hands on.

    residual.k: Add v, at strength s   ->   tensor direction.k = s v, float32

llama.cpp adds direction.k to the output of block k, counted from 0, and has no place for block 0. It holds Add only; merge a steering
of norms and convert the folder with llama.cpp's `convert_hf_to_gguf.py`, which keeps a Llama's biases. Use the file with

    llama-cli -m model.gguf --control-vector file.gguf
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from steerlib.deploy.merge import check_plain
from steerlib.deploy.save import whole_file
from steerlib.errors import SteerlibError
from steerlib.models import sites
from steerlib.models.model import Model
from steerlib.steering.apply import steer
from steerlib.steering.operations import Add, Affine, Operation, Steering


def save_control_vector(model: Model, steering: Steering, file: str | Path, strength: float = 1.0) -> Path:
    """Write a steering that adds vectors to blocks' outputs as a control vector in GGUF.

    Args:
        model: the model that the steering is for; only its shapes are looked at.
        steering: Add at residual sites, from block 1 on.
        file: its name, in a folder that exists; a file of that name is replaced.
        strength: what the vectors are multiplied by; llama.cpp can multiply once more.

    Returns:
        The file.

    Raises:
        SteerlibError: the steering does something that a control vector cannot, does not fit the model, or the file cannot be
            written.

    Example:
        >>> import steerlib as sl, tempfile, torch
        >>> lm = sl.load("smollm2", device="cpu")
        >>> add = sl.Steering({"residual.12": sl.Add(torch.ones(576))})
        >>> sl.deploy.save_control_vector(lm, add, tempfile.mkdtemp() + "/vector.gguf", strength=0.5).name
        'vector.gguf'
    """
    check_plain(model, steering, "save_control_vector")
    with steer(model, steering, strength):  # refuses what does not fit
        pass
    vectors: dict[int, Tensor] = {}
    for site, operation in steering.operations.items():
        vector = _added(operation)
        if site.kind != "residual" or vector is None:
            raise SteerlibError(
                f"a control vector adds vectors to the outputs of blocks, and {site} holds {type(operation).__name__}: merge it instead."
            )
        if site.layer == 0:
            raise SteerlibError(
                "llama.cpp has no control vector for block 0: leave residual.0 out, or merge the steering."
            )
        vectors[site.layer] = strength * vector.detach().cpu().float()
    import gguf

    with whole_file(file) as scratch:
        writer = gguf.GGUFWriter(str(scratch), "controlvector")
        writer.add_string("controlvector.model_hint", str(sites.decoder(model.hf).config.model_type))
        writer.add_uint32("controlvector.layer_count", len(vectors))
        for layer, vector in sorted(vectors.items()):
            writer.add_tensor(f"direction.{layer}", vector.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return Path(file).expanduser()


def _added(operation: Operation) -> Tensor | None:
    """The vector that an operation adds, if that is all it does."""
    if isinstance(operation, Add):
        return operation.vector
    if isinstance(operation, Affine) and not bool(torch.any(operation.scale)):
        return operation.shift
    return None
