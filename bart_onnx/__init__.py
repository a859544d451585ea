"""BART on ONNX Runtime: export a checkpoint, then generate without torch, with KerasHub's API."""

from bart_onnx import models, samplers
from bart_onnx.backbone import BartBackbone
from bart_onnx.bundle import Bundle
from bart_onnx.config import BartConfig
from bart_onnx.errors import BartOnnxError
from bart_onnx.pipelines import pipeline
from bart_onnx.preprocessor import BartSeq2SeqLMPreprocessor
from bart_onnx.seq2seq_lm import OnnxBartSeq2SeqLM
from bart_onnx.tokenizer import BartTokenizer
from bart_onnx.version import __version__

__all__ = [
    "BartBackbone",
    "BartConfig",
    "BartOnnxError",
    "BartSeq2SeqLMPreprocessor",
    "BartTokenizer",
    "Bundle",
    "OnnxBartSeq2SeqLM",
    "__version__",
    "models",
    "pipeline",
    "samplers",
]
