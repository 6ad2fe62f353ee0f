"""Steering language and vision-language models away from social bias while they run, with no retraining."""

from steerlib import controls, plots, tasks
from steerlib.assets import data_path
from steerlib.claims import claim
from steerlib.errors import SteerlibError
from steerlib.evaluate.decisions import DecisionBias, decision_bias, selection_rates
from steerlib.evaluate.language import distinct_n, perplexity, perplexity_ratio, plain_text
from steerlib.evaluate.statistics import Estimate
from steerlib.methods.contrastive import contrastive
from steerlib.models import Model, chat, load
from steerlib.sites import Site
from steerlib.steering import Ablate, Add, Affine, Steering, capture, load_steering, steer

__version__ = "0.1.0"
__all__ = [
    "Ablate",
    "Add",
    "Affine",
    "DecisionBias",
    "Estimate",
    "Model",
    "Site",
    "Steering",
    "SteerlibError",
    "capture",
    "chat",
    "claim",
    "contrastive",
    "controls",
    "data_path",
    "decision_bias",
    "distinct_n",
    "load",
    "load_steering",
    "perplexity",
    "perplexity_ratio",
    "plain_text",
    "plots",
    "selection_rates",
    "steer",
    "tasks",
]
