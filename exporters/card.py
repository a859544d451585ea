"""The model card of a bundle: what it is, where it came from and how to use it, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bart_onnx.config import BartConfig
from bart_onnx.graphs import FP32, HALF_PRECISIONS, LOGITS

_CARD = """\
---
library_name: bart_onnx
tags: [bart, onnx, {precision}]
---
# {preset}

A BART exported to ONNX by bart_onnx {bart_onnx_version}. It runs on onnxruntime, without torch:

```python
from bart_onnx import OnnxBartSeq2SeqLM

lm = OnnxBartSeq2SeqLM.from_preset("PATH_OR_URI_OF_THIS_DIRECTORY"{opening})
```

| | |
|---|---|
| source | {uri} |
| format of the source | {format} |
| precision | {precision} |
| vocabulary | {vocabulary_size} |
| encoder | {encoder} |
| decoder | {decoder} |
| width | {hidden_dim} |
| positions | {max_sequence_length} |
| exported with | {versions} |
| check against torch | {check} |

The weights are those of the source; its licence and its limits hold here too.
`sha256sum -c manifest.sha256` checks the manifest, which has the sha256 of every other file.
"""


def model_card(manifest: Mapping[str, Any], config: BartConfig) -> str:
    """The text of README.md for a bundle with this manifest."""
    source = manifest["source"]
    sides = {
        name: f"{side.num_layers} layers, {side.num_heads} heads, width {side.intermediate_dim}"
        for name, side in (("encoder", config.encoder), ("decoder", config.decoder))
    }
    return _CARD.format(
        preset=source["name"],
        uri=source["uri"],
        format=source["format"],
        precision=manifest["precision"],
        opening=_opening(manifest["precision"]),
        bart_onnx_version=manifest["bart_onnx_version"],
        vocabulary_size=config.vocabulary_size,
        hidden_dim=config.hidden_dim,
        max_sequence_length=config.max_sequence_length,
        versions=", ".join(f"{name} {version}" for name, version in manifest["versions"].items()),
        check=_check(manifest),
        **sides,
    )


def _opening(precision: str) -> str:
    """What `from_preset` has to be told of a precision."""
    if precision == FP32:
        return ""
    device = ', device="cuda"' if precision in HALF_PRECISIONS else ""
    return f', precision="{precision}"{device}'


def _check(manifest: Mapping[str, Any]) -> str:
    """What the check against torch found, in a line."""
    if "verification" in manifest:
        verification = manifest["verification"]
        logits = verification[LOGITS]
        return (
            f"logits within {logits['largest_difference']:.2g} of up to {logits['largest']:.3g} "
            f"over {verification['decoder_tokens']} tokens"
        )
    quality = manifest["quality"]
    text = (
        f"logit error {quality['logit_error']:.4f}, the same likeliest token at "
        f"{quality['token_agreement']:.1%} of {quality['tokens']} places"
    )
    if quality["score_before"] is not None:
        before, after = quality["score_before"], quality["score_after"]
        text += f", score {before:.4f} before and {after:.4f} after (nats a token)"
    text += f"; judged by {quality['judged_by']}"
    if quality["accepted_loss"]:
        text += f". **Accepted on export: {'; '.join(quality['accepted_loss'])}**"
    return text
