"""What Hugging Face calls a BART's tensors, and in which layout. It knows no file and no array."""

from __future__ import annotations

from collections.abc import Iterable

from bart_onnx.config import BartConfig
from bart_onnx.weights import (
    FINAL_LOGITS_BIAS,
    LM_HEAD,
    TOKEN_EMBEDDING,
    position_embedding,
    weight_shapes,
)

# Rows that the position table has before position 0; no position reads them.
POSITION_OFFSET = 2

# Any of these may be the one token embedding, in the order in which they are looked for.
EMBEDDING_NAMES = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
HEAD_NAME = "lm_head.weight"
BIAS_NAME = "final_logits_bias"

# Left over from fairseq; transformers drops them as well.
HARMLESS_NAMES = frozenset({"encoder.version", "decoder.version"})

# First part of the names that other models built on BART have.
FOREIGN_HEADS = {
    "classification_head": "sequence classification",
    "qa_outputs": "question answering",
}

_WORDS = {
    "self_attention": "self_attn",
    "cross_attention": "encoder_attn",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "output": "out_proj",
    "self_attention_layer_norm": "self_attn_layer_norm",
    "cross_attention_layer_norm": "encoder_attn_layer_norm",
    "feedforward_intermediate": "fc1",
    "feedforward_output": "fc2",
    "feedforward_layer_norm": "final_layer_norm",
    "embedding_layer_norm": "layernorm_embedding",
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
}
_SPECIAL = (TOKEN_EMBEDDING, LM_HEAD, FINAL_LOGITS_BIAS)


def plain_name(name: str) -> str:
    """A tensor's name without the `model.` that some checkpoints put before it."""
    return name.removeprefix("model.")


def file_name(weight: str) -> str:
    """Hugging Face's name, without prefix, of a weight other than embedding, head and bias.

    "encoder.layers.0.self_attention.query.kernel" -> "encoder.layers.0.self_attn.q_proj.weight"
    """
    if weight in (position_embedding("encoder"), position_embedding("decoder")):
        return f"{weight.split('.')[0]}.embed_positions.weight"
    return ".".join(_WORDS.get(word, word) for word in weight.split("."))


def is_transposed(weight: str) -> bool:
    """Whether the file keeps a weight as [outputs, inputs]."""
    return weight.endswith(".kernel")


def layer_shapes(config: BartConfig) -> dict[str, tuple[int, ...]]:
    """Plain name to shape in the file of every tensor but embeddings, head and bias."""
    shapes = {}
    for weight, shape in weight_shapes(config).items():
        if weight in _SPECIAL:
            continue
        if is_transposed(weight):
            shape = shape[::-1]
        elif weight.endswith(".position_embedding"):
            shape = (shape[0] + POSITION_OFFSET, shape[1])
        shapes[file_name(weight)] = shape
    return shapes


def foreign_heads(names: Iterable[str]) -> dict[str, str]:
    """Plain names that belong to another task's head, and that task."""
    return {
        name: FOREIGN_HEADS[name.split(".")[0]]
        for name in names
        if name.split(".")[0] in FOREIGN_HEADS
    }
