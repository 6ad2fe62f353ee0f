"""Steering language and vision-language models away from social bias while they run, with no retraining."""

from steerlib import deploy, plots, tasks
from steerlib.assets import data_path
from steerlib.baselines.adapted import adapted
from steerlib.baselines.adapter import Adapter
from steerlib.baselines.bitfit import bitfit
from steerlib.baselines.lora import lora
from steerlib.baselines.prompting import INSTRUCTIONS, prompting
from steerlib.baselines.reft import reft
from steerlib.deploy.audit import Audit, audit
from steerlib.deploy.merge import merge
from steerlib.doctor import Diagnosis, doctor
from steerlib.errors import SteerlibError
from steerlib.evaluate.benchmarks import Benchmark, benchmark
from steerlib.evaluate.capability import Capability, capability
from steerlib.evaluate.crossed import over_wordings
from steerlib.evaluate.decisions import DecisionBias, decision_bias
from steerlib.evaluate.harness import harness
from steerlib.evaluate.language import (
    Fluency,
    Sentiment,
    distinct_n,
    fluency,
    perplexities,
    perplexity,
    perplexity_ratio,
    plain_text,
    sentiment,
)
from steerlib.evaluate.layers import LayerChoice, choose_layers
from steerlib.evaluate.mentions import MentionRate, attribute_words, highlight, mention_rate, mentions
from steerlib.evaluate.reduction import reduction
from steerlib.evaluate.selection import selection_rates
from steerlib.evaluate.statistics import Estimate, minimum_detectable_effect, paired
from steerlib.evaluate.tradeoff import Tradeoff, pareto, tradeoff
from steerlib.evaluate.trend import monotone
from steerlib.methods.contrastive import contrastive, split_answers
from steerlib.methods.dso import dso
from steerlib.methods.gradient import gradient
from steerlib.methods.iti import iti
from steerlib.methods.leace import leace
from steerlib.models.load import load
from steerlib.models.mergeable import mergeable_sites
from steerlib.models.model import Model
from steerlib.models.parallel import Processes, parallel
from steerlib.models.prompts import chat
from steerlib.models.sites import Site
from steerlib.models.wrap import wrap
from steerlib.reproduce.claims import claim, claims
from steerlib.steering import controls
from steerlib.steering.apply import steer
from steerlib.steering.capture import activations, capture
from steerlib.steering.edits import cosines, sparsify, subset
from steerlib.steering.maps import Erase, Linear
from steerlib.steering.operations import Ablate, Add, Affine, Steering, load_steering
from steerlib.training.config import Training

__version__ = "0.1.0"
__all__ = [
    "INSTRUCTIONS",
    "Ablate",
    "Adapter",
    "Add",
    "Affine",
    "Audit",
    "Benchmark",
    "Capability",
    "DecisionBias",
    "Diagnosis",
    "Erase",
    "Estimate",
    "Fluency",
    "LayerChoice",
    "Linear",
    "MentionRate",
    "Model",
    "Processes",
    "Sentiment",
    "Site",
    "Steering",
    "SteerlibError",
    "Tradeoff",
    "Training",
    "activations",
    "adapted",
    "attribute_words",
    "audit",
    "benchmark",
    "bitfit",
    "capability",
    "capture",
    "chat",
    "choose_layers",
    "claim",
    "claims",
    "contrastive",
    "controls",
    "cosines",
    "data_path",
    "decision_bias",
    "deploy",
    "distinct_n",
    "doctor",
    "dso",
    "fluency",
    "gradient",
    "harness",
    "highlight",
    "iti",
    "leace",
    "load",
    "load_steering",
    "lora",
    "mention_rate",
    "mentions",
    "merge",
    "mergeable_sites",
    "minimum_detectable_effect",
    "monotone",
    "over_wordings",
    "paired",
    "parallel",
    "pareto",
    "perplexities",
    "perplexity",
    "perplexity_ratio",
    "plain_text",
    "plots",
    "prompting",
    "reduction",
    "reft",
    "selection_rates",
    "sentiment",
    "sparsify",
    "split_answers",
    "steer",
    "subset",
    "tasks",
    "tradeoff",
    "wrap",
]
