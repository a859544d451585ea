"""Bodies of the Open Inference Protocol and of Triton's generate extension, read and written.

One BYTES tensor of texts goes in and one comes out, in JSON or as bytes. It knows no route. The
forms are those of kserve/open-inference-protocol (inference_rest.md) and
triton-inference-server/server (extension_binary_data.md, extension_generate.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from bart_onnx.server.binary_tensors import LENGTH_HEADER, packed, unpacked
from bart_onnx.server.completion_request import BODY, NULL_IS_EMPTY, Natural, check_prompts
from bart_onnx.server.failures import Refusal
from bart_onnx.server.options import ServerOptions
from bart_onnx.server.parameters import merged
from bart_onnx.triton_contract import INPUT, OUTPUT

TEXTS = "BYTES"
#: The priority of who names none: 1 goes before it, 3 and on behind.
USUAL_PRIORITY = 2

_OPEN = ConfigDict(**{**BODY, "extra": "allow"})


class Parameters(BaseModel):
    """Those of a request; what is not here is of decoding.

    Attributes:
        timeout: microseconds; 0 for none.
        priority: 1 is the highest; 0 for the usual one.
    """

    model_config = _OPEN

    binary_data_output: bool | None = None
    priority: Natural | None = None
    stream: bool | None = None
    timeout: Annotated[int, Field(ge=0, lt=1 << 62)] | None = None

    @property
    def of_decoding(self) -> Mapping[str, Any]:
        """What is asked of decoding, by name."""
        return self.model_extra or {}

    @property
    def deadline(self) -> float | None:
        """Seconds that the client gives it; None for the server's own."""
        return self.timeout / 1e6 if self.timeout else None

    @property
    def order(self) -> int:
        """What a scheduler calls its priority, of which 0 is the usual one."""
        return (self.priority or USUAL_PRIORITY) - USUAL_PRIORITY


class InputParameters(BaseModel):
    """Those of an input."""

    model_config = BODY

    binary_data_size: Natural | None = None


class Input(BaseModel):
    """An input tensor; its texts stand in `data`, or are bytes behind the JSON."""

    model_config = BODY

    name: str
    datatype: str
    shape: list[int]
    parameters: InputParameters | None = None
    data: list[str] | None = None

    def texts(self, raw: bytes, limits: ServerOptions) -> list[str]:
        """Its texts.

        Raises:
            Refusal, InputError: 400; it is another tensor than this model's, or not what it says.
        """
        self._check(limits)
        size = None if self.parameters is None else self.parameters.binary_data_size
        if (size is None) == (self.data is None):
            raise Refusal(400, f"{INPUT} must have data or binary_data_size, and not both.")
        if len(raw) != (size or 0):
            raise Refusal(
                400,
                f"{len(raw)} bytes follow the JSON; binary_data_size says {size or 0}. Say in "
                f"{LENGTH_HEADER} where the JSON ends.",
            )
        if self.data is None:
            return unpacked(raw, self.shape[0])
        if len(self.data) != self.shape[0]:
            raise Refusal(400, f"{INPUT} has the shape {self.shape} and {len(self.data)} texts.")
        return self.data

    def _check(self, limits: ServerOptions) -> None:
        if (self.name, self.datatype) != (INPUT, TEXTS):
            raise Refusal(
                400,
                f"The input must be {INPUT} of {TEXTS}, found {self.name:.80} of "
                f"{self.datatype:.80}.",
            )
        if len(self.shape) != 1 or self.shape[0] < 0:
            raise Refusal(400, f"{INPUT} must have one dimension, of texts: give a shape as [1].")
        check_prompts(self.shape[0], limits)


class OutputParameters(BaseModel):
    """Those of an output."""

    model_config = BODY

    binary_data: bool | None = None


class Output(BaseModel):
    """An output tensor that is asked for."""

    model_config = BODY

    name: str
    parameters: OutputParameters | None = None


class InferRequest(BaseModel):
    """A body of `infer`.

    Attributes:
        model_name: KServe's client sends it besides; the path says which model it is.
    """

    model_config = BODY

    id: str | None = None
    model_name: str | None = None
    parameters: Annotated[Parameters, NULL_IS_EMPTY] = Parameters()
    inputs: Annotated[list[Input], Field(min_length=1, max_length=1)]
    outputs: Annotated[list[Output], Field(max_length=1)] | None = None

    @property
    def wants_bytes(self) -> bool:
        """Whether the output is asked for as bytes.

        Raises:
            Refusal: 400; another output is asked for.
        """
        asked = self.parameters.binary_data_output
        for output in self.outputs or ():
            if output.name != OUTPUT:
                raise Refusal(400, f"The output is {OUTPUT}; found {output.name:.80}.")
            if output.parameters is not None and output.parameters.binary_data is not None:
                asked = output.parameters.binary_data
        return bool(asked)


class GenerateRequest(BaseModel):
    """A body of `generate`: parameters stand beside the text, or in an object of their own."""

    model_config = _OPEN

    id: str | None = None
    text_input: str | list[str]
    parameters: dict[str, Any] | None = None

    @property
    def texts(self) -> list[str]:
        """Its texts."""
        return [self.text_input] if isinstance(self.text_input, str) else self.text_input

    @property
    def asked(self) -> dict[str, Any]:
        """Its parameters, from both places.

        Raises:
            Refusal: 400; one stands in both.
        """
        return merged(self.model_extra or {}, self.parameters or {})


def infer_response(head: Mapping[str, Any], texts: list[str], as_bytes: bool) -> Response:
    """An answer of `infer`.

    Args:
        head: what stands before the outputs.
    """
    output: dict[str, Any] = {"name": OUTPUT, "datatype": TEXTS, "shape": [len(texts)]}
    if not as_bytes:
        return JSONResponse({**head, "outputs": [{**output, "data": texts}]})
    raw = packed(texts)
    output["parameters"] = {"binary_data_size": len(raw)}
    content = json.dumps({**head, "outputs": [output]}, ensure_ascii=False).encode()
    headers = {LENGTH_HEADER: str(len(content))}
    return Response(content + raw, 200, headers, "application/octet-stream")


def generated(head: Mapping[str, Any], texts: list[str]) -> dict[str, Any]:
    """An answer of `generate`: one text stands alone, as Triton has it."""
    return {**head, OUTPUT: texts[0] if len(texts) == 1 else texts}
