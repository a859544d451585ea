"""A model of Triton that has no weights: it asks the decoupled one, and gives its answer in one.

So `/infer`, which decoupled models refuse, costs no second copy of the weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bart_onnx.triton_contract import MODEL, OUTPUT

# Requests under way; who comes then waits for one of them. A thread that waits costs some kB.
_THREADS = 256


class TritonPythonModel:
    """See https://github.com/triton-inference-server/python_backend, Business Logic Scripting."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read which model is asked."""
        import triton_python_backend_utils

        self._backend: Any = triton_python_backend_utils
        config = json.loads(args["model_config"])
        self._model = config["parameters"][MODEL]["string_value"]
        self._pool = ThreadPoolExecutor(_THREADS, "bart_onnx forwarding")

    def execute(self, requests: Sequence[Any]) -> None:
        """Begin to forward some requests; each is answered by its own sender."""
        for request in requests:
            self._pool.submit(self._forward, request, request.get_response_sender())

    def finalize(self) -> None:
        """End; Triton has waited for what was under way."""
        self._pool.shutdown()

    def _forward(self, request: Any, sender: Any) -> None:
        try:
            answer = self._answer(request)
        except Exception as error:  # Triton's own; unsaid, its client would wait for ever
            answer = self._failed("INTERNAL", str(error))
        sender.send(answer, flags=self._backend.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def _answer(self, request: Any) -> Any:
        parameters = json.loads(request.parameters() or "{}")
        if parameters.get("stream"):
            return self._failed("INVALID_ARG", f"This model does not stream; ask {self._model}.")
        forwarded = self._backend.InferenceRequest(
            model_name=self._model,
            requested_output_names=[OUTPUT],
            inputs=request.inputs(),
            # These may not be numbers with a fraction; the other model reads them from texts.
            parameters={
                name: repr(value) if isinstance(value, float) else value
                for name, value in parameters.items()
            },
        )
        # What is asked whole comes in one response; an empty one may say that it was the last.
        for response in forwarded.exec(decoupled=True):
            if response.has_error():
                return self._backend.InferenceResponse([], error=response.error())
            if response.output_tensors():
                return self._backend.InferenceResponse(response.output_tensors())
        return self._failed("INTERNAL", f"{self._model} gave no answer.")

    def _failed(self, code: str, message: str) -> Any:
        error = self._backend.TritonError
        return self._backend.InferenceResponse([], error=error(message, getattr(error, code)))
