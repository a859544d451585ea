"""The names and shapes of a BART's weights: the one naming that every checkpoint is read into.

Kernels are [inputs, outputs], as Keras keeps them. It knows no file and no array.
"""

from __future__ import annotations

from collections.abc import Iterator

from bart_onnx.config import BartConfig, SideConfig

TOKEN_EMBEDDING = "token_embedding"
LM_HEAD = "lm_head"
FINAL_LOGITS_BIAS = "final_logits_bias"


def position_embedding(side: str) -> str:
    """Name of the position table of a side ("encoder" or "decoder"), rows 0..P-1, no offset."""
    return f"{side}.position_embedding"


def unread_positions(side: str) -> str:
    """Name of the two rows that Hugging Face keeps before position 0 and never reads."""
    return f"{side}.unread_positions"


def weight_shapes(config: BartConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight that a BART of this config must have."""
    vocabulary, width = config.vocabulary_size, config.hidden_dim
    shapes: dict[str, tuple[int, ...]] = {TOKEN_EMBEDDING: (vocabulary, width)}
    for side_name, side in (("encoder", config.encoder), ("decoder", config.decoder)):
        shapes[position_embedding(side_name)] = (config.max_sequence_length, width)
        shapes |= _norm(f"{side_name}.embedding_layer_norm", width)
        for index in range(side.num_layers):
            shapes.update(_layer(f"{side_name}.layers.{index}", side_name, side, width))
    if not config.tied_embeddings:
        shapes[LM_HEAD] = (vocabulary, width)
    if config.final_logits_bias:
        shapes[FINAL_LOGITS_BIAS] = (vocabulary,)
    return shapes


def optional_weight_shapes(config: BartConfig) -> dict[str, tuple[int, ...]]:
    """Weights that no graph reads, kept so that a checkpoint can be written back unchanged."""
    return {unread_positions(side): (2, config.hidden_dim) for side in ("encoder", "decoder")}


def _layer(
    prefix: str, side_name: str, side: SideConfig, width: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    attentions = ["self_attention"] + (["cross_attention"] if side_name == "decoder" else [])
    for attention in attentions:
        for projection in ("query", "key", "value", "output"):
            yield from _dense(f"{prefix}.{attention}.{projection}", width, width).items()
        yield from _norm(f"{prefix}.{attention}_layer_norm", width).items()
    yield from _dense(f"{prefix}.feedforward_intermediate", width, side.intermediate_dim).items()
    yield from _dense(f"{prefix}.feedforward_output", side.intermediate_dim, width).items()
    yield from _norm(f"{prefix}.feedforward_layer_norm", width).items()


def _dense(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.kernel": (inputs, outputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.gamma": (width,), f"{name}.beta": (width,)}
