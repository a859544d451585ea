"""How the next token is chosen from the model's outputs. Pure numpy; no session, no tokenizer."""

from bart_onnx.samplers.greedy_sampler import GreedySampler
from bart_onnx.samplers.registry import get
from bart_onnx.samplers.sampler import Sampler

__all__ = ["GreedySampler", "Sampler", "get"]
