"""What Keras calls a BART's datasets in HDF5, and their shapes. It knows no file and no array."""

from __future__ import annotations

import re

from bart_onnx.config import BartConfig
from bart_onnx.weights import TOKEN_EMBEDDING, weight_shapes

_LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.(.+)\.(kernel|bias|gamma|beta)")
_ATTENTION = re.compile(r"(self|cross)_attention\.(query|key|value|output)")
_VARIABLE = {"kernel": 0, "bias": 1, "gamma": 0, "beta": 1}

# Layers of one kind are numbered in the order in which the model was built: the encoder's first.
_SINGLE = {
    TOKEN_EMBEDDING: "reversible_embedding/vars/0",
    "encoder.position_embedding": "position_embedding/vars/0",
    "decoder.position_embedding": "position_embedding_1/vars/0",
    "encoder.embedding_layer_norm.gamma": "layer_normalization/vars/0",
    "encoder.embedding_layer_norm.beta": "layer_normalization/vars/1",
    "decoder.embedding_layer_norm.gamma": "layer_normalization_1/vars/0",
    "decoder.embedding_layer_norm.beta": "layer_normalization_1/vars/1",
}

# Where a backbone stands in the file of a whole task; older Keras went by attribute names.
_IN_A_TASK = ("layers/bart_backbone/", "backbone/", "_backbone/")
# What older versions of Keras, tf.keras and KerasNLP called the same thing.
_OLDER = {
    "_layer_checkpoint_dependencies": "layers",
    "embedding": "reversible_embedding",
    "_query_dense": "query_dense",
    "_key_dense": "key_dense",
    "_value_dense": "value_dense",
    "_output_dense": "output_dense",
    "_self_attention_layernorm": "_self_attention_layer_norm",
    "_cross_attention_layernorm": "_cross_attention_layer_norm",
    "_feedforward_layernorm": "_feedforward_layer_norm",
}
# State that is no weight: of training, and of the random draws of dropout.
_NO_WEIGHTS = frozenset({"optimizer", "metrics", "compile_metrics", "loss_tracker", "preprocessor"})
_RANDOM_STATE = "seed_generator"


def dataset_name(weight: str) -> str:
    """The dataset of a weight in a backbone's file.

    "decoder.layers.1.self_attention.query.bias" ->
    "layers/transformer_decoder_1/_self_attention_layer/query_dense/vars/1"
    """
    if weight in _SINGLE:
        return f"layers/{_SINGLE[weight]}"
    match = _LAYER.fullmatch(weight)
    if match is None:
        raise KeyError(weight)
    side, index, part, variable = match.groups()
    number = f"_{index}" if int(index) else ""
    attention = _ATTENTION.fullmatch(part)
    if attention:
        inner = f"_{attention[1]}_attention_layer/{attention[2]}_dense"
    else:
        inner = f"_{part}" if part.endswith("_layer_norm") else f"_{part}_dense"
    return f"layers/transformer_{side}{number}/{inner}/vars/{_VARIABLE[variable]}"


def dataset_shapes(config: BartConfig) -> dict[str, tuple[int, ...]]:
    """Dataset to shape, for every weight of a backbone of equal sides.

    Attention keeps its heads apart: query, key and value are [width, heads, head] and output is
    [heads, head, width]; all others have the shapes of `weight_shapes`.
    """
    return {
        dataset_name(weight): _split_heads(weight, shape, config)
        for weight, shape in weight_shapes(config).items()
    }


def plain_name(dataset: str) -> str:
    """A dataset's name as Keras 3 would have it in a backbone's own file.

    "_backbone/_layer_checkpoint_dependencies/embedding/vars/0" ->
    "layers/reversible_embedding/vars/0"
    """
    # tf.keras on Windows joined the first two parts with a backslash.
    parts = re.split(r"[/\\]", dataset.strip("/"))
    name = "/".join(_OLDER.get(part, part) for part in parts)
    for prefix in _IN_A_TASK:
        if name.startswith(f"{prefix}layers/"):
            return name.removeprefix(prefix)
    return name


def is_weight(dataset: str) -> bool:
    """Whether a dataset holds a weight, not the state of an optimizer, metric or random draw."""
    parts = [part.lstrip("_") for part in re.split(r"[/\\]", dataset.strip("/"))]
    return parts[0] not in _NO_WEIGHTS and _RANDOM_STATE not in parts


def _split_heads(weight: str, shape: tuple[int, ...], config: BartConfig) -> tuple[int, ...]:
    match = _LAYER.fullmatch(weight)
    attention = _ATTENTION.fullmatch(match[3]) if match else None
    if match is None or attention is None:
        return shape
    side = config.encoder if match[1] == "encoder" else config.decoder
    heads = (side.num_heads, config.hidden_dim // side.num_heads)
    if attention[2] == "output":
        return (*heads, config.hidden_dim) if match[4] == "kernel" else shape
    return (config.hidden_dim, *heads) if match[4] == "kernel" else heads
