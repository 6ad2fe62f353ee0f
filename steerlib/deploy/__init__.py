"""Taking a Steering out of steerlib: folders and files for other programs. `steerlib.merge` and `steerlib.audit` are beside it."""

from steerlib.deploy.card import model_card
from steerlib.deploy.engines import hook_factory, sglang_hooks
from steerlib.deploy.gguf import save_control_vector
from steerlib.deploy.peft import save_adapter
from steerlib.deploy.save import push_to_hub, save

__all__ = [
    "hook_factory",
    "model_card",
    "push_to_hub",
    "save",
    "save_adapter",
    "save_control_vector",
    "sglang_hooks",
]
