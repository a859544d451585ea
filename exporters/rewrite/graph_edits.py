"""Small edits of a graph: nodes put before another, constants shared, what is unused dropped."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass


class Edits:
    """Edits of one model."""

    def __init__(self, model: ir.Model) -> None:
        self._model = model

    def before(self, node: ir.Node) -> Adder:
        """What adds nodes before this one."""
        return Adder(self, node)

    def at_end(self) -> Adder:
        """What adds nodes after all others."""
        return Adder(self, None)

    def replace(self, node: ir.Node, value: ir.Value) -> None:
        """Let `value` stand for the only output of a node, which is removed."""
        output = node.outputs[0]
        graph = self._model.graph
        value.shape, value.type = output.shape, output.type
        if output.is_graph_output():
            name, output.name = output.name, None
            value.name = name
            graph.outputs[list(graph.outputs).index(output)] = value
        ir.convenience.replace_all_uses_with(output, value)
        graph.remove(node, safe=True)

    def weight(self, name: str, dtype: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
        """An initializer of that name, whose values are referred to later."""
        initializers = self._model.graph.initializers
        if name not in initializers:
            initializers[name] = ir.Value(
                name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype)
            )
        return initializers[name]

    def constant(self, values: NDArray[Any] | np.generic) -> ir.Value:
        """A constant; equal ones are one."""
        array = np.asarray(values)
        content = hashlib.sha256(repr((array.dtype.str, array.shape)).encode() + array.tobytes())
        name = f"constant_{content.hexdigest()[:16]}"
        initializers = self._model.graph.initializers
        if name not in initializers:
            initializers[name] = ir.Value(
                name=name,
                shape=ir.Shape(array.shape),
                type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
                const_value=ir.tensor(array, name=name),
            )
        return initializers[name]

    def drop_unused(self) -> None:
        """Remove nodes and initializers that nothing reads any more."""
        RemoveUnusedNodesPass()(self._model)

    def insert(self, node: ir.Node | None, new: ir.Node) -> None:
        """Put a new node before another; None for the end."""
        if node is None:
            self._model.graph.append(new)
        else:
            self._model.graph.insert_before(node, new)


@dataclass(frozen=True)
class Adder:
    """Adds nodes before one, or at the end; called with an operator, inputs and attributes."""

    edits: Edits
    node: ir.Node | None

    def __call__(
        self, operator: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any
    ) -> ir.Value:
        """The only output of a new node."""
        return self.several(operator, 1, *inputs, domain=domain, **attributes)[0]

    def several(
        self,
        operator: str,
        outputs: int,
        *inputs: ir.Value | None,
        domain: str = "",
        **attributes: Any,
    ) -> list[ir.Value]:
        """The outputs of a new node."""
        new = ir.node(
            operator, list(inputs), attributes=attributes, domain=domain, num_outputs=outputs
        )
        self.edits.insert(self.node, new)
        return list(new.outputs)

    def constant(self, values: NDArray[Any] | np.generic) -> ir.Value:
        """See `Edits.constant`."""
        return self.edits.constant(values)


def named(values: Iterable[ir.Value], name: str) -> ir.Value:
    """The value of that name."""
    return next(value for value in values if value.name == name)


def only_user(value: ir.Value) -> ir.Node:
    """The one node that reads a value."""
    (use,) = value.uses()
    return use.node


def origin(value: ir.Value | None) -> ir.Value:
    """The first input of the node that makes a value."""
    node = None if value is None else value.producer()
    source = None if node is None else node.inputs[0]
    assert source is not None
    return source
