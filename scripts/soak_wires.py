"""How each of the server's wires is asked for texts, and what texts its answer holds.

Used by soak.py. A wire is a function of a client, a model's name, prompts and the decoding fields
of `/v1/completions`; it returns the texts, prompt by prompt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from bart_onnx.server.binary_tensors import LENGTH_HEADER, packed, parted, unpacked

Fields = Mapping[str, Any]
Asking = Callable[[httpx2.Client, str, list[str], Fields], list[str]]


class WrongStatusError(Exception):
    """An answer that is no 200; it carries the status and the beginning of its body."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body[:300]}")
        self.status = status


@dataclass(frozen=True)
class Wire:
    """One way to ask.

    Attributes:
        name: for the report.
        single: whether it takes one prompt of one sequence only.
    """

    name: str
    ask: Asking
    single: bool = False


def _sent(client: httpx2.Client, path: str, **how: Any) -> httpx2.Response:
    answer = client.post(path, **how)
    if answer.status_code != 200:
        raise WrongStatusError(answer.status_code, answer.text)
    return answer


def _events(client: httpx2.Client, path: str, body: Mapping[str, Any]) -> Iterator[Any]:
    with client.stream("POST", path, json=body) as answer:
        if answer.status_code != 200:
            raise WrongStatusError(answer.status_code, answer.read().decode())
        for line in answer.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                event = json.loads(line.removeprefix("data: "))
                if "error" in event:
                    raise WrongStatusError(200, line)
                yield event


def _completions(
    client: httpx2.Client, model: str, prompts: list[str], fields: Fields
) -> list[str]:
    body = {"model": model, "prompt": prompts, **fields}
    choices = _sent(client, "/v1/completions", json=body).json()["choices"]
    return [choice["text"] for choice in sorted(choices, key=lambda choice: choice["index"])]


def _completion_stream(
    client: httpx2.Client, model: str, prompts: list[str], fields: Fields
) -> list[str]:
    body = {"model": model, "prompt": prompts, "stream": True, **fields}
    texts: dict[int, str] = {}
    for event in _events(client, "/v1/completions", body):
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return [texts[index] for index in sorted(texts)]


def _tensor(prompts: list[str], **rest: Any) -> dict[str, Any]:
    return {"name": "text_input", "datatype": "BYTES", "shape": [len(prompts)], **rest}


def _infer(client: httpx2.Client, model: str, prompts: list[str], fields: Fields) -> list[str]:
    body = {"inputs": [_tensor(prompts, data=prompts)], "parameters": dict(fields)}
    outputs = _sent(client, f"/v2/models/{model}/infer", json=body).json()["outputs"]
    return list(outputs[0]["data"])


def _infer_bytes(
    client: httpx2.Client, model: str, prompts: list[str], fields: Fields
) -> list[str]:
    raw = packed(prompts)
    tensor = _tensor(prompts, parameters={"binary_data_size": len(raw)})
    asked = {"inputs": [tensor], "parameters": {"binary_data_output": True, **fields}}
    head = json.dumps(asked).encode()
    headers = {LENGTH_HEADER: str(len(head))}
    answer = _sent(client, f"/v2/models/{model}/infer", content=head + raw, headers=headers)
    told, found = parted(answer.content, answer.headers[LENGTH_HEADER])
    return unpacked(found, json.loads(told)["outputs"][0]["shape"][0])


def _generate(client: httpx2.Client, model: str, prompts: list[str], fields: Fields) -> list[str]:
    body = {"text_input": prompts, "parameters": dict(fields)}
    found = _sent(client, f"/v2/models/{model}/generate", json=body).json()["text_output"]
    return [found] if isinstance(found, str) else list(found)


def _generate_stream(
    client: httpx2.Client, model: str, prompts: list[str], fields: Fields
) -> list[str]:
    body = {"text_input": prompts[0], **fields}
    events = _events(client, f"/v2/models/{model}/generate_stream", body)
    return ["".join(event["text_output"] for event in events)]


def _summarization(
    client: httpx2.Client, model: str, prompts: list[str], fields: Fields
) -> list[str]:
    body = {"inputs": prompts, "parameters": {"generate_parameters": dict(fields)}}
    found = _sent(client, f"/models/{model}/summarization", json=body).json()
    return [each["summary_text"] for each in found]


def _text_generation(
    client: httpx2.Client, model: str, prompts: list[str], fields: Fields
) -> list[str]:
    body = {"inputs": prompts, "parameters": dict(fields)}
    return [each["generated_text"] for each in _sent(client, f"/models/{model}", json=body).json()]


def _text_generation_stream(
    client: httpx2.Client, model: str, prompts: list[str], fields: Fields
) -> list[str]:
    body = {"inputs": prompts[0], "parameters": dict(fields), "stream": True}
    return [list(_events(client, f"/models/{model}", body))[-1]["generated_text"]]


WIRES = (
    Wire("completions", _completions),
    Wire("completions, streamed", _completion_stream),
    Wire("infer", _infer),
    Wire("infer, bytes", _infer_bytes),
    Wire("generate", _generate),
    Wire("generate_stream", _generate_stream, single=True),
    Wire("summarization", _summarization),
    Wire("text generation", _text_generation),
    Wire("text generation, streamed", _text_generation_stream, single=True),
)
