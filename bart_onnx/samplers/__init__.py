"""How the next token is chosen from the model's outputs. Pure numpy; no session, no tokenizer.

The names are those of `keras_hub.samplers`, with the same arguments and defaults.
"""

from bart_onnx.samplers.beam_sampler import BeamSampler
from bart_onnx.samplers.contrastive_sampler import ContrastiveSampler
from bart_onnx.samplers.greedy_sampler import GreedySampler
from bart_onnx.samplers.random_sampler import RandomSampler
from bart_onnx.samplers.registry import deserialize, get, serialize
from bart_onnx.samplers.sampler import Sampler
from bart_onnx.samplers.top_k_sampler import TopKSampler
from bart_onnx.samplers.top_p_sampler import TopPSampler

__all__ = [
    "BeamSampler",
    "ContrastiveSampler",
    "GreedySampler",
    "RandomSampler",
    "Sampler",
    "TopKSampler",
    "TopPSampler",
    "deserialize",
    "get",
    "serialize",
]
