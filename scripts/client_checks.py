"""Clients of the Open Inference Protocol, unmodified, ask a running server; each check is a line.

    python scripts/client_checks.py CLIENT URL MODEL < texts

CLIENT is tritonclient or kserve. Each line of standard input is a text, a tab, and what `generate`
makes of it. It needs that client and nothing of this package, so that it may run where a client is
that pins what this package does not take: scripts/check_clients makes such an environment.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

_TIMES = 10


def tritonclient(url: str, model: str, texts: Mapping[str, str]) -> Iterator[str]:
    """Ask with tritonclient.http; what was asked, when it was answered as it should be."""
    import tritonclient.http as http

    # So many that an answer is worth compressing.
    given = np.array([text.encode() for text in texts] * _TIMES, np.object_)
    wanted = list(texts.values()) * _TIMES
    tensor = http.InferInput("text_input", list(given.shape), "BYTES")
    with http.InferenceServerClient(url.removeprefix("http://")) as client:
        yield from _told(client, model)
        tensor.set_data_from_numpy(given, binary_data=False)
        yield from _inferred_in_json(http, client, model, tensor, wanted)
        tensor.set_data_from_numpy(given)
        yield from _inferred(client, model, tensor, wanted)
        yield from _inferred_otherwise(client, model, tensor, wanted)


def _told(client: Any, model: str) -> Iterator[str]:
    check(client.is_server_live() and client.is_server_ready())
    check(client.is_model_ready(model) and client.is_model_ready(model, "1"))
    yield "live, ready, model ready"
    check("binary_tensor_data" in client.get_server_metadata()["extensions"])
    told = client.get_model_metadata(model)
    names = [each["name"] for each in told["inputs"] + told["outputs"]]
    check(names, ["text_input", "text_output"])
    yield "metadata of server and model"


def _inferred_in_json(
    http: Any, client: Any, model: str, tensor: Any, wanted: list[str]
) -> Iterator[str]:
    as_json = [http.InferRequestedOutput("text_output", binary_data=False)]
    answer = client.infer(model, [tensor], outputs=as_json)
    check(_texts(answer), wanted)
    check("data" in answer.get_output("text_output"))
    yield "infer in JSON"


def _inferred(client: Any, model: str, tensor: Any, wanted: list[str]) -> Iterator[str]:
    answer = client.infer(model, [tensor], request_id="an id")
    check(_texts(answer), wanted)
    check(answer.get_response()["id"], "an id")
    check("binary_data_size" in answer.get_output("text_output")["parameters"])
    yield "infer with default arguments (binary), request_id"
    for coding in ("gzip", "deflate"):
        answer = client.infer(
            model,
            [tensor],
            request_compression_algorithm=coding,
            response_compression_algorithm=coding,
        )
        check(_texts(answer), wanted)
    yield "infer with bodies in gzip and deflate, both ways"


def _inferred_otherwise(client: Any, model: str, tensor: Any, wanted: list[str]) -> Iterator[str]:
    from tritonclient.utils import InferenceServerException

    asked = {"num_beams": 3, "num_return_sequences": 2}
    answer = client.infer(model, [tensor], priority=1, timeout=30_000_000, parameters=asked)
    check(len(_texts(answer)), 2 * len(wanted))
    yield "infer with priority, timeout and parameters"
    waiting = client.async_infer(model, [tensor])
    check(_texts(waiting.get_result()), wanted)
    yield "infer without waiting"
    try:
        client.infer("another", [tensor])
    except InferenceServerException as error:
        check((error.status(), "There is no model" in error.message()), ("404", True))
    else:
        raise AssertionError("A model that is not there has answered.")
    yield "an error as its exception"


def _texts(answer: Any) -> list[str]:
    found = answer.as_numpy("text_output").tolist()
    return [text if isinstance(text, str) else text.decode() for text in found]


def kserve(url: str, model: str, texts: Mapping[str, str]) -> Iterator[str]:
    """Ask with KServe's client; see `tritonclient`."""
    yield from asyncio.run(_kserve(url, model, texts))


async def _kserve(url: str, model: str, texts: Mapping[str, str]) -> list[str]:
    from httpx import HTTPStatusError
    from kserve import InferenceRESTClient, InferInput, InferRequest
    from kserve.inference_client import RESTConfig

    def request(binary: bool) -> Any:
        tensor = InferInput("text_input", [len(texts)], "BYTES")
        given = np.array([text.encode() if binary else text for text in texts], np.object_)
        tensor.set_data_from_numpy(given, binary_data=binary)
        return InferRequest(model, [tensor], request_id="an id")

    def found(answer: Any) -> list[str]:
        output = answer.outputs[0].as_numpy().tolist()
        return [text if isinstance(text, str) else text.decode() for text in output]

    async with InferenceRESTClient(RESTConfig(protocol="v2")) as client:
        check(await client.is_server_live(url) and await client.is_server_ready(url))
        check(await client.is_model_ready(url, model))
        for binary in (False, True):
            answer = await client.infer(url, request(binary), model_name=model)
            check((found(answer), answer.id), (list(texts.values()), "an id"))
        try:
            await client.infer(url, request(True), model_name="another")
        except HTTPStatusError as error:
            check("There is no model" in str(error))
        else:
            raise AssertionError("A model that is not there has answered.")
    return [
        "live, ready, model ready",
        "infer in JSON and binary, request_id",
        "an error as its exception",
    ]


def check(found: Any, wanted: Any = True) -> None:
    """Stop where something was found that is not wanted."""
    if found != wanted:
        raise AssertionError(f"found {found!r}, wanted {wanted!r}")


CLIENTS: Mapping[str, Callable[[str, str, Mapping[str, str]], Iterator[str]]] = {
    "tritonclient": tritonclient,
    "kserve": kserve,
}


def main(name: str, url: str, model: str) -> None:
    """Run one client's checks with the texts of standard input."""
    texts = dict(line.rstrip("\n").split("\t") for line in sys.stdin)
    check(bool(texts))
    for asked in CLIENTS[name](url, model, texts):
        print(f"{name} {version(name)}: {asked}")


if __name__ == "__main__":
    main(*sys.argv[1:])
