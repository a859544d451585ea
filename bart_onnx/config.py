"""BartConfig: the numbers that describe one BART. It knows no file, no weights and no tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bart_onnx.errors import InputError

# What KerasHub's BartBackbone is made from, and its presets hold.
BACKBONE_ARGUMENTS = (
    "vocabulary_size",
    "num_layers",
    "num_heads",
    "hidden_dim",
    "intermediate_dim",
    "dropout",
    "max_sequence_length",
)

# Far beyond any BART; a config that asks for more is a mistake or an attack.
_LARGEST, _LARGEST_DEPTH = 10_000_000, 1_000


@dataclass(frozen=True)
class SideConfig:
    """The numbers of one side, encoder or decoder."""

    num_layers: int
    num_heads: int
    intermediate_dim: int


@dataclass(frozen=True)
class BartConfig:
    """The numbers of a BART; encoder and decoder may differ in depth, heads and feed-forward width.

    Names are KerasHub's `BartBackbone` arguments; `num_layers`, `num_heads` and `intermediate_dim`
    describe the encoder, and the decoder too where its own field is None.

    Raises:
        InputError: a number is not positive, heads do not divide `hidden_dim`, or a token id lies
            outside the vocabulary.
    """

    vocabulary_size: int
    num_layers: int
    num_heads: int
    hidden_dim: int
    intermediate_dim: int
    dropout: float = 0.1
    max_sequence_length: int = 1024
    decoder_num_layers: int | None = None
    decoder_num_heads: int | None = None
    decoder_intermediate_dim: int | None = None
    scale_embedding: bool = False
    tied_embeddings: bool = True
    final_logits_bias: bool = False
    start_token_id: int = 0
    pad_token_id: int = 1
    end_token_id: int = 2
    decoder_start_token_id: int = 2

    def __post_init__(self) -> None:
        for name in ("vocabulary_size", "hidden_dim", "max_sequence_length"):
            _check_size(name, getattr(self, name), _LARGEST)
        for side_name, side in (("encoder", self.encoder), ("decoder", self.decoder)):
            for field in dataclasses.fields(side):
                largest = _LARGEST_DEPTH if field.name == "num_layers" else _LARGEST
                _check_size(f"{side_name} {field.name}", getattr(side, field.name), largest)
            if self.hidden_dim % side.num_heads:
                raise InputError(
                    f"hidden_dim {self.hidden_dim} cannot be shared by {side.num_heads} "
                    f"{side_name} heads; choose a number of heads that divides it."
                )
        for name in ("start", "pad", "end", "decoder_start"):
            token_id = getattr(self, f"{name}_token_id")
            if not 0 <= token_id < self.vocabulary_size:
                raise InputError(
                    f"{name}_token_id is {token_id}, but the vocabulary has ids 0 to "
                    f"{self.vocabulary_size - 1}."
                )

    @property
    def encoder(self) -> SideConfig:
        """The encoder's numbers."""
        return SideConfig(self.num_layers, self.num_heads, self.intermediate_dim)

    @property
    def decoder(self) -> SideConfig:
        """The decoder's numbers."""

        def own(value: int | None, shared: int) -> int:
            return shared if value is None else value

        return SideConfig(
            own(self.decoder_num_layers, self.num_layers),
            own(self.decoder_num_heads, self.num_heads),
            own(self.decoder_intermediate_dim, self.intermediate_dim),
        )

    @property
    def decoder_head_dim(self) -> int:
        """Width of one attention head of the decoder, which is also the cross caches'."""
        return self.hidden_dim // self.decoder.num_heads

    def to_dict(self) -> dict[str, Any]:
        """Every field by name, ready for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BartConfig:
        """The inverse of `to_dict`.

        Raises:
            InputError: a field is unknown, missing or of the wrong type.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise InputError(f"BartConfig has no field {', '.join(unknown):.200}.")
        missing = sorted(
            name
            for name, field in fields.items()
            if field.default is dataclasses.MISSING and name not in values
        )
        if missing:
            raise InputError(f"BartConfig needs {', '.join(missing)}.")
        for name, value in values.items():
            _check_type(name, value, str(fields[name].type))
        return cls(**values)


def _check_size(name: str, value: int, largest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= largest:
        raise InputError(f"{name} must be a whole number from 1 to {largest}, found {value!r:.80}.")


def _check_type(name: str, value: object, annotation: str) -> None:
    if annotation == "bool":
        fits = isinstance(value, bool)
    elif annotation == "float":
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        optional = value is None and "None" in annotation
        fits = optional or (isinstance(value, int) and not isinstance(value, bool))
    if not fits:
        raise InputError(f"BartConfig {name} must be {annotation}, found {value!r:.80}.")
