"""Sends a running server what its wires' schemas allow, and what they do not: schemathesis.

    pip install schemathesis==4.32.5
    python scripts/fuzz_http.py --inputs 1000

The application has no OpenAPI document, since each wire's form is its protocol's; here one is made
of the models that bodies are validated by. What a body means beyond its schema, and the bytes
behind Open Inference's JSON, are `scripts/fuzz`'s to try. A failure is a 5xx, or an answer that is
no JSON in the form of its wire.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from bart_onnx.server.completion_request import CompletionRequest  # noqa: E402
from bart_onnx.server.hugging_face_forms import TaskRequest  # noqa: E402
from bart_onnx.server.open_inference_forms import (  # noqa: E402
    INPUT,
    OUTPUT,
    TEXTS,
    GenerateRequest,
    InferRequest,
)

BODIES: Mapping[str, type[BaseModel]] = {
    "/v1/completions": CompletionRequest,
    "/v2/models/{name}/infer": InferRequest,
    "/v2/models/{name}/generate": GenerateRequest,
    "/v2/models/{name}/generate_stream": GenerateRequest,
    "/models/{name}": TaskRequest,
    "/models/{name}/summarization": TaskRequest,
}


def document(model: str) -> dict[str, Any]:
    """An OpenAPI document of the routes that decode."""
    paths, schemas = {}, {}
    for path, kind in BODIES.items():
        schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= schema.pop("$defs", {})
        if kind is CompletionRequest:
            schema["properties"]["model"] = {"enum": [model]}
        if kind is InferRequest:
            # What the form leaves open and this model does not: one text, under its name.
            text = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 1}
            known = {
                "name": {"const": INPUT},
                "datatype": {"const": TEXTS},
                "shape": {"const": [1]},
            }
            schemas["Input"] |= {"properties": {**known, "data": text}}
            schemas["Input"]["required"] = [*known, "data"]
            schemas["Output"]["properties"]["name"] = {"const": OUTPUT}
        content = {"application/json": {"schema": schema}}
        operation = {"requestBody": {"required": True, "content": content}, "responses": {}}
        paths[path.format(name=model)] = {"post": operation}
    head = {"openapi": "3.1.0", "info": {"title": "bart_onnx", "version": "1"}}
    return {**head, "paths": paths, "components": {"schemas": schemas}}


def main() -> int:
    """Run it; a failure ends it with the request that it came of."""
    import schemathesis
    from server_process import running
    from serving import NAME

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--inputs", type=int, default=1000, help="for each route and kind")
    options = parser.parse_args()
    schema = schemathesis.openapi.from_dict(document(NAME))
    with running("--deadline", "20") as server:
        for found in schema.get_all_operations():
            operation = found.ok()
            for mode in schemathesis.GenerationMode:
                requests = operation.as_strategy(generation_mode=mode)
                answers = tried(requests, server.url, options.inputs)
                told = {"path": operation.path, "kind": mode.value, "answers": dict(answers)}
                print(json.dumps(told), flush=True)
    return 0


def tried(requests: Any, url: str, inputs: int) -> Counter[int]:
    """How often each status was answered to so many requests."""
    from hypothesis import HealthCheck, given, settings
    from serving import NAME, wires_of

    wires = {wire.path: wire for wire in wires_of(NAME)}
    statuses: Counter[int] = Counter()

    def one(case: Any) -> None:
        answer = case.call(base_url=url, timeout=60)
        statuses[answer.status_code] += 1
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert wires[case.path].is_error(answer.json()), answer.text

    limits = settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    limits(given(case=requests)(one))()
    return statuses


if __name__ == "__main__":
    sys.exit(main())
