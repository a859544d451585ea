"""Master graphs -> graphs of other precisions: small named passes, in the order they are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from bart_onnx.config import BartConfig
from exporters.rewrite.device_counts import count_on_device
from exporters.rewrite.flat_rows import fuse_norms, use_flat_rows
from exporters.rewrite.half import use_bfloat16, use_float16
from exporters.rewrite.int8_caches import use_int8_caches
from exporters.rewrite.int8_linears import use_int8_weights
from exporters.rewrite.packed_self_attention import pack_self_attention

Rewrite = Callable[[ir.Model, BartConfig], None]

REWRITES: Mapping[str, tuple[Rewrite, ...]] = {
    "fp32": (),
    "int8": (
        use_flat_rows,
        use_int8_weights,
        use_int8_caches,
        pack_self_attention,
        fuse_norms,
    ),
    "fp16": (use_float16, count_on_device),
    "bf16": (use_bfloat16, count_on_device),
}
