"""Checkpoints in Hugging Face's layout for tests: the tiny golden one, rewritten."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import BartConfig, BartForConditionalGeneration

Tensors = dict[str, torch.Tensor]
GOLDEN = Path(__file__).resolve().parent / "data" / "keras_golden" / "hf_checkpoint"


def golden_config(**changes: object) -> dict[str, Any]:
    """The tiny checkpoint's config.json with changes; a value of `...` removes the key."""
    config = {**json.loads((GOLDEN / "config.json").read_text()), **changes}
    return {key: value for key, value in config.items() if value is not ...}


def golden_tensors() -> Tensors:
    """The tiny checkpoint's tensors by name."""
    return load_file(GOLDEN / "model.safetensors")


def random_tensors(config: Mapping[str, Any], seed: int = 0) -> Tensors:
    """Tensors that transformers makes for a config, all of them random; tied ones once."""
    torch.manual_seed(seed)
    model = BartForConditionalGeneration(BartConfig(**config))
    tensors = {}
    for name, tensor in model.state_dict().items():
        tensors[name] = torch.randn_like(tensor) if name != "final_logits_bias" else tensor
    if config.get("tie_word_embeddings", True):
        for name in ("lm_head.weight", "model.encoder.embed_tokens.weight"):
            del tensors[name]
        del tensors["model.decoder.embed_tokens.weight"]
    return tensors


def write_checkpoint(
    directory: Path, config: Mapping[str, Any], tensors: Tensors | None = None
) -> Path:
    """Write config.json and, if given, model.safetensors."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    if tensors is not None:
        plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(plain, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def write_raw(path: Path, header: object, data: bytes = b"", size: int | None = None) -> Path:
    """Write a safetensors file whose header may say anything, its length included."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + data)
    return path


def transformers_weights(directory: Path) -> dict[str, NDArray[np.float32]]:
    """Every weight as transformers loads it, under this package's names, kernels [in, out]."""
    model = BartForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)
    arrays = dict(_weights(model))
    return {name: tensor.detach().numpy() for name, tensor in arrays.items()}


def _weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    embedding, head = model.model.shared.weight, model.lm_head.weight
    for side in (model.model.encoder, model.model.decoder):
        assert torch.equal(side.embed_tokens.weight, embedding)
    yield "token_embedding", embedding
    if not torch.equal(head, embedding):
        yield "lm_head", head
    if model.final_logits_bias.any():
        yield "final_logits_bias", model.final_logits_bias[0]
    for name, side in (("encoder", model.model.encoder), ("decoder", model.model.decoder)):
        yield f"{name}.position_embedding", side.embed_positions.weight[2:]
        yield f"{name}.unread_positions", side.embed_positions.weight[:2]
        yield from _norm(f"{name}.embedding_layer_norm", side.layernorm_embedding)
        for index, layer in enumerate(side.layers):
            yield from _layer(f"{name}.layers.{index}", layer)


def _layer(prefix: str, layer: Any) -> Iterator[tuple[str, torch.Tensor]]:
    blocks = {"self_attention": (layer.self_attn, layer.self_attn_layer_norm)}
    if hasattr(layer, "encoder_attn"):
        blocks["cross_attention"] = (layer.encoder_attn, layer.encoder_attn_layer_norm)
    for name, (attention, norm) in blocks.items():
        yield from _dense(f"{prefix}.{name}.query", attention.q_proj)
        yield from _dense(f"{prefix}.{name}.key", attention.k_proj)
        yield from _dense(f"{prefix}.{name}.value", attention.v_proj)
        yield from _dense(f"{prefix}.{name}.output", attention.out_proj)
        yield from _norm(f"{prefix}.{name}_layer_norm", norm)
    yield from _dense(f"{prefix}.feedforward_intermediate", layer.fc1)
    yield from _dense(f"{prefix}.feedforward_output", layer.fc2)
    yield from _norm(f"{prefix}.feedforward_layer_norm", layer.final_layer_norm)


def _dense(name: str, layer: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield f"{name}.kernel", layer.weight.T
    yield f"{name}.bias", layer.bias


def _norm(name: str, layer: Any) -> Iterator[tuple[str, torch.Tensor]]:
    yield f"{name}.gamma", layer.weight
    yield f"{name}.beta", layer.bias
