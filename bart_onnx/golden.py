"""Golden requests: what a bundle was asked when it was made, and what it answered.

    golden.json     {"tolerance": 0.001, "requests": [{
                        "text", "output"        where the bundle has a tokenizer
                        "source_ids", "options", "ids", "log_probs"}]}

The bundle itself is their judge, once it has passed the check against torch: they are to tell
whether another machine computes what the one that exported did. The checkpoint in float32 cannot
tell that of a rounded bundle, since a tolerance that forgives the rounding forgives a machine's
fault too. It knows no runner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bart_onnx.bundle import AGAIN, GOLDEN, Bundle
from bart_onnx.errors import BundleError
from bart_onnx.sealed import read_json

# A bundle of a stranger's is not to keep a server busy before it is ready, nor to pass whatever it
# answers.
MOST_NEW_TOKENS = 24
MOST_BEAMS = 4
_MOST_BYTES = 1 << 20
_MOST_REQUESTS = 16
_MOST_TOKENS = 4096
_MOST_TOLERANCE = 1.0
# All of them, so that a stranger's generation config has no say in it.
_OPTIONS: Mapping[str, range] = {
    "num_beams": range(1, MOST_BEAMS + 1),
    "min_length": range(MOST_NEW_TOKENS + 1),
    "max_new_tokens": range(1, MOST_NEW_TOKENS + 1),
}


@dataclass(frozen=True)
class GoldenRequest:
    """One request by the bundle's generation config, and its answer.

    Attributes:
        source_ids: what the encoder reads, special ids included.
        options: num_beams, min_length and max_new_tokens, as in `DecodingOptions`.
        ids: the best sequence, from the decoder's first token on.
        log_probs: the model's own, natural logarithms, of the last so many of `ids`.
        text: what `source_ids` were made of; None where the bundle has no tokenizer.
        output: the text of `ids`; likewise.
    """

    source_ids: tuple[int, ...]
    options: Mapping[str, Any]
    ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    text: str | None = None
    output: str | None = None


@dataclass(frozen=True)
class Golden:
    """The golden requests of a bundle.

    Attributes:
        tolerance: how far a log-probability may be from what was written. Tokens must be the same:
            only requests are written of which none was nearly another.
    """

    tolerance: float
    requests: tuple[GoldenRequest, ...]

    @classmethod
    def of(cls, bundle: Bundle) -> Golden | None:
        """Those of a bundle; None of one that was exported without.

        Raises:
            BundleError: its golden.json cannot be used.
        """
        if GOLDEN not in bundle.manifest["files"]:
            return None
        path = bundle.path / GOLDEN
        if path.stat().st_size > _MOST_BYTES:
            raise BundleError(f"{path} has {path.stat().st_size} bytes, more than any. {AGAIN}")
        content = read_json(path, AGAIN)
        try:
            requests = tuple(_request(each) for each in content["requests"])
            tolerance = float(content["tolerance"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BundleError(f"{path} holds no golden requests: {error!r:.300}. {AGAIN}") from None
        if not 0 <= tolerance <= _MOST_TOLERANCE or not 1 <= len(requests) <= _MOST_REQUESTS:
            raise BundleError(
                f"{path} has {len(requests)} requests and a tolerance of {tolerance}; expected 1 "
                f"to {_MOST_REQUESTS} and one from 0 to {_MOST_TOLERANCE:g}. {AGAIN}"
            )
        return cls(tolerance, requests)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def _request(values: Mapping[str, Any]) -> GoldenRequest:
    options = dict(values["options"])
    if set(options) != set(_OPTIONS):
        raise ValueError(f"options {', '.join(options):.200}, expected {', '.join(_OPTIONS)}")
    for name, values_of in _OPTIONS.items():
        if type(options[name]) is not int or options[name] not in values_of:
            raise ValueError(
                f"{name} is {options[name]!r:.80}, expected {values_of[0]} to {values_of[-1]}"
            )
    request = GoldenRequest(
        tuple(map(int, values["source_ids"])),
        options,
        tuple(map(int, values["ids"])),
        tuple(map(float, values["log_probs"])),
        values.get("text"),
        values.get("output"),
    )
    if not 1 <= len(request.source_ids) + len(request.ids) <= _MOST_TOKENS:
        raise ValueError(f"{len(request.source_ids)} and {len(request.ids)} tokens")
    if len(request.log_probs) > len(request.ids):
        raise ValueError("more log-probabilities than tokens")
    texts = (request.text, request.output)
    if not all(each is None or isinstance(each, str) for each in texts):
        raise TypeError("a text that is none")
    return request
