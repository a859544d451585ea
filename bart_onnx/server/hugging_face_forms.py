"""Bodies of Hugging Face's tasks, summarization and text generation, read and written.

The two send the same body where nothing but a text is given. It knows no route. The forms are those
of huggingface_hub 2.4's InferenceClient, and of text-generation-inference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict

from bart_onnx.decoding.tasks import Hypothesis
from bart_onnx.server.completion_forms import Completion, finite
from bart_onnx.server.completion_request import (
    BODY,
    NULL_IS_EMPTY,
    CompletionRequest,
    check_neutral,
)
from bart_onnx.server.failures import Refusal
from bart_onnx.server.parameters import completion_request, merged
from bart_onnx.server.requests import Hypotheses

GENERATED, SUMMARY = "generated_text", "summary_text"

_LONG_INPUTS: Mapping[str, str] = {
    "do_not_truncate": "error",
    "longest_first": "truncate",
    "only_first": "truncate",
}

# What clients may send for nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "adapter_id": (None,),
    "best_of": (None, 1),
    "clean_up_tokenization_spaces": (None, False),
    "decoder_input_details": (None, False),
    "frequency_penalty": (None, 0),
    "grammar": (None,),
    "return_full_text": (None, False),
    "top_n_tokens": (None, 0),
    "truncate": (None,),
    "typical_p": (None, 1),
    "watermark": (None, False),
}


class Parameters(BaseModel):
    """Those of either task; what is not here is of decoding, or asks for nothing."""

    model_config = ConfigDict(**{**BODY, "extra": "allow"})

    details: bool | None = None
    generate_parameters: dict[str, Any] | None = None
    truncation: Literal["do_not_truncate", "longest_first", "only_first"] | None = None

    def of_decoding(self) -> dict[str, Any]:
        """What is asked of decoding, by name.

        Raises:
            Refusal: 400; it stands there twice, or is not done here.
        """
        given = merged(self.model_extra or {}, self.generate_parameters or {})
        check_neutral(given, _NEUTRAL)
        if self.truncation is not None:
            given = merged(given, {"long_input": _LONG_INPUTS[self.truncation]})
        return {name: value for name, value in given.items() if name not in _NEUTRAL}


class TaskRequest(BaseModel):
    """A body of either task."""

    model_config = BODY

    inputs: str | list[str]
    parameters: Annotated[Parameters, NULL_IS_EMPTY] = Parameters()
    stream: bool | None = None

    def completion(self, model: str) -> CompletionRequest:
        """It as the request that it is.

        Raises:
            Refusal: 400; it is none.
        """
        texts = [self.inputs] if isinstance(self.inputs, str) else self.inputs
        if self.stream and len(texts) > 1:
            raise Refusal(400, "A stream is of one text; ask for each by itself.")
        asked = completion_request(
            model,
            texts,
            self.parameters.of_decoding(),
            stream=self.stream,
            logprobs=0 if self.parameters.details or self.stream else None,
        )
        if not self.stream:
            return asked
        if (asked.n or 1) > 1:
            raise Refusal(400, "A stream is of one sequence; leave num_return_sequences at 1.")
        return asked.model_copy(update={"n": 1})


def answers(
    completion: Completion, found: list[Hypotheses], names: Sequence[str], with_details: bool
) -> list[dict[str, Any]]:
    """An answer for each sequence.

    Args:
        names: what its text is called.
    """
    told: list[dict[str, Any]] = [dict.fromkeys(names, each) for each in completion.texts(found)]
    if with_details:
        every = [each for hypotheses in found for each in hypotheses]
        for answer, each in zip(told, every, strict=True):
            answer["details"] = _with_tokens(completion, each)
    return told


def details(completion: Completion, found: Hypothesis) -> dict[str, Any]:
    """How a sequence came to be, as a stream tells it."""
    ended = int(found.token_ids[-1]) in completion.options.eos_token_id
    reason = "eos_token" if ended else "stop_sequence"
    return {
        "finish_reason": "length" if found.finish_reason == "length" else reason,
        "generated_tokens": len(found.token_ids) - found.prompt_length,
        "seed": completion.options.seed if completion.options.do_sample else None,
    }


def _with_tokens(completion: Completion, found: Hypothesis) -> dict[str, Any]:
    ids = found.token_ids[found.prompt_length :].tolist()
    assert found.log_probs is not None
    tokens = [
        token(completion, each, completion.token_text(each), log_prob)
        for each, log_prob in zip(ids, found.log_probs.tolist(), strict=True)
    ]
    return {**details(completion, found), "prefill": [], "tokens": tokens}


def token(completion: Completion, token_id: int, text: str, log_prob: float) -> dict[str, Any]:
    """One token."""
    return {
        "id": token_id,
        "text": text,
        "logprob": finite(log_prob),
        "special": completion.is_special(token_id),
    }
