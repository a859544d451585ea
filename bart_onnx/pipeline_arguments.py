"""Arguments of transformers' pipelines: what each means here, or why it cannot. Opens nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from bart_onnx.documents import LongInput
from bart_onnx.errors import DeviceError, InputError, InputTypeError
from bart_onnx.hub.uri import SCHEME, is_hub_uri, suggest_uri
from bart_onnx.presets import PRESETS
from bart_onnx.store import preset_path

TASKS: Mapping[str, str] = {"summarization": "summary", "text2text-generation": "generated"}
"""Task -> how the keys of its results begin."""

# What transformers 4 took where no model was named.
_USUAL_MODEL = f"{SCHEME}sshleifer/distilbart-cnn-12-6"

_ANY = object()


@dataclass(frozen=True)
class Accepted:
    """An argument that changes nothing here, for some values.

    Attributes:
        values: these, by their text; all where it is `_ANY`.
        instead: what to do where another is meant.
    """

    values: Any
    instead: str = "leave it out"

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that would have to change something.

        Raises:
            InputError: it has the argument's name, and what to do.
        """
        if self.values is not _ANY and str(value) not in map(str, self.values):
            raise InputError(f"{name}={value!r:.60} cannot be done here; {self.instead}.")


_NOTHING = (None,)
_DTYPE = Accepted(
    (None, "auto", "float32", "torch.float32"), "this version computes in fp32; leave it out"
)
_TOKEN = Accepted((None, True, False), "set HF_TOKEN or log in; the hub's client reads it")
_OF_BUNDLE = Accepted(_NOTHING, "a bundle holds all that the model is; leave it out")
_IN_RESULT = Accepted((None, False), "ask the model: lm.summarize(texts, return_dict=True)")

#: Arguments of `pipeline` that change nothing.
OPENING: Mapping[str, Accepted] = {
    "framework": Accepted((None, "pt", "tf"), "arrays are numpy's whatever it says; leave it out"),
    "use_fast": Accepted(_ANY),
    "trust_remote_code": Accepted((None, False), "no code of a checkpoint is ever run"),
    "torch_dtype": _DTYPE,
    "dtype": _DTYPE,
    "device_map": Accepted((None, "auto", "cpu"), "give device"),
    "token": _TOKEN,
    "use_auth_token": _TOKEN,
    "model_kwargs": Accepted((None, {}), "give precision, threads, offline or verify by name"),
    "binary_output": Accepted((None, False)),
    "config": _OF_BUNDLE,
    "feature_extractor": _OF_BUNDLE,
    "image_processor": _OF_BUNDLE,
    "processor": _OF_BUNDLE,
    "pipeline_class": Accepted(_NOTHING, "wrap the pipeline that you get"),
    "args_parser": Accepted(_NOTHING),
}

#: Arguments of a call that change nothing.
CALLING: Mapping[str, Accepted] = {
    "num_workers": Accepted(_ANY),
    "use_cache": Accepted(_ANY),
    "low_memory": Accepted(_ANY),
    "pad_token_id": Accepted(_ANY),
    "bos_token_id": Accepted(_ANY),
    "return_text": Accepted(_ANY),
    "transformers_version": Accepted(_ANY),
    "_from_model_config": Accepted(_ANY),
    "synced_gpus": Accepted((None, False)),
    "return_type": Accepted(_NOTHING, "give return_tensors=True or nothing"),
    "generation_config": Accepted(
        _NOTHING, "give its values by name: **generation_config.to_diff_dict()"
    ),
    "num_beam_groups": Accepted((None, 1), "diverse beam search is not here"),
    "diversity_penalty": Accepted((None, 0.0, 0), "diverse beam search is not here"),
    "penalty_alpha": Accepted(
        (None, 0.0, 0), 'ask the model: lm.compile(sampler="contrastive"), lm.generate(texts)'
    ),
    "return_dict_in_generate": _IN_RESULT,
    "output_scores": _IN_RESULT,
    "output_logits": _IN_RESULT,
    "output_attentions": _IN_RESULT,
    "output_hidden_states": _IN_RESULT,
    "assistant_model": Accepted(_NOTHING, "drafts of another model are not here; leave it out"),
    "streamer": Accepted(_NOTHING, "ask the model: lm.stream(text, **options)"),
}


def without(arguments: Mapping[str, Any], accepted: Mapping[str, Accepted]) -> dict[str, Any]:
    """The arguments that mean something, the others checked and left out.

    Raises:
        InputError: one of the others would have to change something.
    """
    for name, value in arguments.items():
        if name in accepted:
            accepted[name].check(name, value)
    return {name: value for name, value in arguments.items() if name not in accepted}


def checked_task(task: Any) -> str:
    """The task itself.

    Raises:
        InputError: it is none of `TASKS`; the message has them.
    """
    if task in TASKS:
        return str(task)
    known = " and ".join(map(repr, TASKS))
    why = "A BART that summarises or rewrites is all this package runs"
    if str(task).startswith("translation"):
        why = "mBART's languages are not here"
    raise InputError(f"There is no pipeline for task {task!r:.80}; there are {known}. {why}.")


def preset_of(model: Any, task: str, revision: Any) -> str:
    """The preset that a model's name means; on the hub where it is no directory and no built-in.

    Raises:
        InputTypeError: no name.
        InputError: no model named for a task that has no usual one, or a revision of no hub's.
    """
    if model is None:
        if task != "summarization":
            raise InputError(f"Task {task!r} has no usual model here; name one with model=...")
        model = _USUAL_MODEL
    if not isinstance(model, str):
        raise InputTypeError(
            "model must be a name, a directory or an OnnxBartSeq2SeqLM, found "
            f"{type(model).__name__}. Give the name or directory that it was loaded from."
        )
    known = model in PRESETS or preset_path(model) is not None
    preset = model if known else suggest_uri(model) or model
    if revision is None:
        return preset
    if not is_hub_uri(preset) or "@" in preset:
        raise InputError(f"revision={revision!r:.60} is of a hub's model, and {preset!r} is none.")
    return f"{preset}@{revision}"


def device_of(device: Any) -> str:
    """transformers' words for a device as this package's.

    Raises:
        DeviceError: one that no version drives; whether this one does is said at opening.
    """
    if isinstance(device, Integral) and not isinstance(device, bool):
        text = "cpu" if device == -1 else f"cuda:{device}"
    else:
        text = "cpu" if device is None else str(device)
    kind, _, index = text.partition(":")
    if kind not in ("cpu", "cuda") or index not in ("", "0"):
        raise DeviceError(
            f"device={device!r} is not driven by this version; leave it out, or give 'cpu' or -1."
        )
    return kind


def long_input_of(truncation: Any, long_input: LongInput | None) -> LongInput:
    """What becomes of a text that is too long, by transformers' argument or by ours.

    Raises:
        InputError: another strategy, or both arguments.
    """
    # A TruncationStrategy is known by its value; transformers is not imported for it.
    strategy = getattr(truncation, "value", truncation)
    if strategy in (None, False, "do_not_truncate"):
        return "error" if long_input is None else long_input
    if strategy not in (True, "longest_first", "only_first"):
        raise InputError(f"truncation={truncation!r} is for pairs of texts; give True or False.")
    if long_input not in (None, "truncate"):
        raise InputError(f"truncation=True and long_input={long_input!r} differ; give one of them.")
    return "truncate"


def checked_batch_size(batch_size: Any) -> int:
    """How many texts of an iterable are read ahead; None means 1.

    Raises:
        InputError: no integer of at least 1.
    """
    if batch_size is None:
        return 1
    if not isinstance(batch_size, Integral) or isinstance(batch_size, bool) or batch_size < 1:
        raise InputError(f"batch_size must be an integer of at least 1, found {batch_size!r:.60}.")
    return int(batch_size)
