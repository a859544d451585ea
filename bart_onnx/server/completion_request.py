"""The body of a completion request: OpenAI's fields, strictly read, as the library's options."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from bart_onnx.errors import InputError, InputTooLongError
from bart_onnx.server.failures import Refusal
from bart_onnx.server.options import ServerOptions

_MOST_LOG_PROBS = 5
_MOST_STOPS, _LONGEST_STOP = 4, 64
#: How bodies are read, whatever their wire.
BODY = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)

B = TypeVar("B", bound=BaseModel)
# No number of tokens, beams or sequences is anywhere near it; what lies beyond has no int64.
_NO_MORE = 1 << 31
Count = Annotated[int, Field(ge=1, lt=_NO_MORE)]
Natural = Annotated[int, Field(ge=0, lt=_NO_MORE)]
# As Triton's and others' clients have it: 64 bits without a sign.
Seed = Annotated[int, Field(ge=0, lt=1 << 64)]
#: Of a field that is an object: null is one with nothing in it.
NULL_IS_EMPTY = BeforeValidator(lambda given: {} if given is None else given)
Prompt: TypeAlias = str | list[str] | list[Natural] | list[list[Natural]]
Stop = Annotated[str, Field(min_length=1, max_length=_LONGEST_STOP)]

# What OpenAI knows and an encoder-decoder has no use for, with the values that ask for nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "echo": (None, False),
    "suffix": (None, ""),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
}

#: Options by the names that clients use for them.
EXTENSIONS = {
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "num_beams": "num_beams",
    "n": "num_return_sequences",
    "length_penalty": "length_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "repetition_penalty": "repetition_penalty",
    "early_stopping": "early_stopping",
}


# What the library calls what clients know otherwise.
_WORDS: Mapping[str, str] = {
    "add do_sample=True": "set a temperature above 0",
    "encoder_text row": "prompt",
    "encoder_sequence_length is": "the most that is read is",
    "raise encoder_sequence_length up to the model's positions, or pass": "or send",
}


class StreamOptions(BaseModel):
    """What a stream tells besides."""

    model_config = BODY

    include_usage: bool = False


class CompletionRequest(BaseModel):
    """A body of `/v1/completions`; the last group of fields is this package's own."""

    model_config = BODY

    model: str
    prompt: Prompt
    best_of: int | None = None
    echo: bool | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: Annotated[int, Field(ge=0, le=_MOST_LOG_PROBS)] | None = None
    max_tokens: Count | None = None
    n: Count | None = None
    presence_penalty: float | None = None
    seed: Seed | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=_MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: str | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    user: str | None = None

    alignments: bool | None = None
    early_stopping: bool | Literal["never"] | None = None
    length_penalty: float | None = None
    long_input: Literal["error", "truncate"] | None = None
    min_tokens: Natural | None = None
    no_repeat_ngram_size: Natural | None = None
    num_beams: Count | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    top_k: Natural | None = None

    @property
    def texts(self) -> list[str] | None:
        """The prompts that are texts; None where they are ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        return None if self.ids is not None else self.prompt  # type: ignore[return-value]

    @property
    def ids(self) -> list[list[int]] | None:
        """The prompts that are ids; None where they are texts."""
        first: Any = self.prompt[0] if self.prompt else ""
        if isinstance(self.prompt, str) or isinstance(first, str):
            return None
        return [self.prompt] if isinstance(first, int) else self.prompt  # type: ignore[list-item,return-value]

    @property
    def stops(self) -> tuple[str, ...]:
        """What ends a text."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def draws(self) -> bool:
        """Whether tokens are drawn: only a temperature above 0 asks for that."""
        return bool(self.temperature)

    def options(self) -> dict[str, Any]:
        """What is asked of decoding, under the library's names."""
        given = {own: getattr(self, name) for name, own in EXTENSIONS.items()}
        asked = {own: value for own, value in given.items() if value is not None}
        if self.stops:
            asked["stop_strings"] = self.stops
        if self.temperature is not None:
            # Without a word of beams, neither what is greedy nor what is drawn has any.
            asked |= {"num_beams": self.num_beams or 1, "do_sample": self.draws}
        if self.draws:
            drawn = {name: getattr(self, name) for name in ("temperature", "top_p", "top_k")}
            # A temperature is one of all tokens, as OpenAI's is, and not of a checkpoint's few.
            neutral = {"top_p": 1.0, "top_k": 0, "seed": self.seed}
            asked |= neutral | {name: value for name, value in drawn.items() if value is not None}
        return asked


def read_request(body: bytes) -> CompletionRequest:
    """A completion's body; see `read_body`."""
    return read_body(CompletionRequest, body)


def read_body(kind: type[B], body: bytes) -> B:
    """A body as what a wire expects.

    Raises:
        Refusal: 400; it names the field.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error, {}) from None


def validated(
    kind: type[B], values: Mapping[str, Any], called: Mapping[str, str] | None = None
) -> B:
    """Values of a body that has been read, as what a wire expects.

    Args:
        called: what the client calls a field, where that is not its name.

    Raises:
        Refusal: 400; it names the field.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _refusal(error, called or {}) from None


def _refusal(error: ValidationError, called: Mapping[str, str]) -> Refusal:
    """What is wrong with a body, by its first fault."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    # Of a field that may be of several types: what is wrong with the one that it is of.
    of_field = [each for each in faults if each["loc"][:1] == faults[0]["loc"][:1]]
    first = next((each for each in of_field if not each["type"].endswith("_type")), faults[0])
    parts = [called.get(str(each), str(each)) for each in first["loc"] if _is_a_clients(each)]
    told = "There is no such field" if first["type"] == "extra_forbidden" else first["msg"]
    param = parts[0] if parts else None
    return Refusal(400, f"{'.'.join(parts) or 'The body':.200}: {told}.", param=param)


def _is_a_clients(part: int | str) -> bool:
    """Whether a part of a place is a field or an index, and no name of a type that it may have."""
    return isinstance(part, int) or (part.isidentifier() and part not in ("str", "int", "bool"))


def in_clients_words(error: InputError) -> Exception:
    """What the library refuses, said with the names of the request's fields."""
    message = str(error)
    for own, theirs in _WORDS.items():
        message = message.replace(own, theirs)
    if isinstance(error, InputTooLongError):
        return Refusal(400, message, param="prompt", code="context_length_exceeded")
    for name, own in EXTENSIONS.items():
        message = re.sub(rf"\b{own}\b", name, message)
    first = re.search(rf"\b({'|'.join(EXTENSIONS)})\b", message)
    return Refusal(400, message, param=first and first[0])


def check_request(asked: CompletionRequest, limits: ServerOptions) -> None:
    """What is read, and still cannot be answered.

    Raises:
        Refusal: 400, or 413 for more text than is taken; it names the field.
    """
    check_neutral({name: getattr(asked, name) for name in _NEUTRAL}, _NEUTRAL)
    count = asked.n or 1
    if asked.best_of not in (None, count):
        raise Refusal(400, f"best_of must be n, {count}, or left out.", param="best_of")
    if asked.stream_options is not None and not asked.stream:
        raise Refusal(400, "stream_options is for streams; add stream.", param="stream_options")
    if not asked.draws and asked.temperature is None and (asked.top_p or 1.0) < 1.0:
        raise Refusal(400, "top_p is of drawn tokens; add a temperature.", param="top_p")
    if not asked.draws and asked.temperature is None and asked.top_k:
        raise Refusal(400, "top_k is of drawn tokens; add a temperature.", param="top_k")
    if count > 1 and not asked.draws and asked.temperature is not None and not asked.num_beams:
        raise Refusal(
            400,
            f"n is {count}, but greedy decoding has one answer; set a temperature, or num_beams.",
            param="n",
        )
    if asked.alignments and asked.ids is not None:
        raise Refusal(
            400,
            "alignments point at characters of prompt, which is ids; give a text.",
            param="alignments",
        )
    _check_size(asked, limits)


def check_neutral(given: Mapping[str, Any], neutral: Mapping[str, tuple[Any, ...]]) -> None:
    """That what is not done here is not asked for.

    Args:
        neutral: of each name the values that ask for nothing.

    Raises:
        Refusal: 400; something does.
    """
    for name, values in neutral.items():
        # 1 is True to Python, and not to a client.
        if (type(given.get(name)) is bool, given.get(name)) not in [
            (type(each) is bool, each) for each in values
        ]:
            raise Refusal(400, f"{name} is not supported here; leave it out.", param=name)


def check_prompts(count: int, limits: ServerOptions) -> None:
    """How many prompts there are.

    Raises:
        Refusal: 400; none, or more than are taken.
    """
    if not count:
        raise Refusal(400, "prompt holds nothing; give a text.", param="prompt")
    if count > limits.prompts:
        raise Refusal(
            400, f"There are {count} prompts; {limits.prompts} are taken.", param="prompt"
        )


def _check_size(asked: CompletionRequest, limits: ServerOptions) -> None:
    texts, ids = asked.texts, asked.ids
    count = len(texts if texts is not None else ids or [])
    check_prompts(0 if ids is not None and not all(ids) else count, limits)
    characters = sum(map(len, texts if texts is not None else ids or []))
    if characters > limits.characters:
        raise Refusal(
            413,
            f"The prompts have {characters} characters; {limits.characters} are taken.",
            param="prompt",
        )
    for name in ("n", "num_beams"):
        if (getattr(asked, name) or 1) > limits.sequences:
            raise Refusal(400, f"{name} may be {limits.sequences} at most.", param=name)
