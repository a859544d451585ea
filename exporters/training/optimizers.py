"""Optimizers over one vector that holds every weight of a model. They know no data and no loss.

All weights lie in one vector and all gradients in another, so a step, a norm or an average is a
few operations whatever the number of tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from bart_onnx.training_options import OptimizerOptions

# Coefficients of the quintic iteration, from Jordan 2024, "Muon: an optimizer for hidden layers".
_QUINTIC = (3.4445, -4.7750, 2.0315)
_QUINTIC_STEPS = 5


@dataclass(frozen=True)
class Slot:
    """Where one weight lies in the vector."""

    name: str
    first: int
    shape: torch.Size

    def of(self, vector: Tensor) -> Tensor:
        """The part of a vector that is this weight's, in its shape."""
        return vector[self.first : self.first + self.shape.numel()].view(self.shape)


class WeightVector:
    """The weights of a module moved into one vector, which the module then trains in.

    Attributes:
        values: float32 [weights].
        gradients: float32 [weights], which `backward` adds to.
        slots: where each weight lies, by the module's names.
    """

    def __init__(self, module: nn.Module) -> None:
        parameters = dict(module.named_parameters())
        first, self.slots = 0, {}
        for name, parameter in parameters.items():
            self.slots[name] = Slot(name, first, parameter.shape)
            first += parameter.numel()
        device = next(iter(parameters.values())).device
        self.values = torch.empty(first, device=device)
        self.gradients = torch.zeros(first, device=device)
        for name, parameter in parameters.items():
            slot = self.slots[name]
            slot.of(self.values).copy_(parameter.detach())
            parameter.data = slot.of(self.values)
            parameter.grad = slot.of(self.gradients)

    def clip(self, longest: float) -> None:
        """Shorten the gradient to length `longest` if it is longer, as Keras' global_clipnorm."""
        self.gradients.mul_(longest / self.gradients.norm().clamp(min=longest))


class Optimizer(Protocol):
    """Changes weights by their gradients.

    Attributes:
        state: what a resumed run needs, vectors as long as the weights'.
    """

    state: dict[str, Tensor]

    def step(self, rate: float, count: int) -> None:
        """One change; `count` is the number of this step, from 1."""


class Adam:
    """Kingma & Ba 2015, section 2, end: the form that Keras computes.

        weight -= rate sqrt(1 - beta_2^t) / (1 - beta_1^t) mean / (sqrt(square) + epsilon)

    With `weight_decay`, weight -= rate weight_decay weight before it (AdamW).
    """

    def __init__(self, weights: WeightVector, options: OptimizerOptions, decay: float) -> None:
        self._weights, self._options, self._decay = weights, options, decay
        self.state = {name: torch.zeros_like(weights.values) for name in ("mean", "square")}

    @torch.no_grad()
    def step(self, rate: float, count: int) -> None:
        options, gradients = self._options, self._weights.gradients
        mean, square = self.state["mean"], self.state["square"]
        mean.lerp_(gradients, 1.0 - options.beta_1)
        square.mul_(options.beta_2).addcmul_(gradients, gradients, value=1.0 - options.beta_2)
        correction = math.sqrt(1.0 - options.beta_2**count) / (1.0 - options.beta_1**count)
        if self._decay:
            self._weights.values.mul_(1.0 - rate * self._decay)
        divisor = square.sqrt().add_(options.epsilon)
        self._weights.values.addcdiv_(mean, divisor, value=-rate * correction)


class Muon:
    """Matrices inside layers move by their orthogonalised momentum, everything else by AdamW.

    Orthogonalised, all directions of a matrix move equally far, the rare ones too. A packed
    projection is as many matrices as it has parts.
    """

    def __init__(self, weights: WeightVector, options: OptimizerOptions) -> None:
        self._weights, self._options = weights, options
        self._adam = Adam(weights, options, options.weight_decay)
        self.state = {**self._adam.state, "momentum": torch.zeros_like(weights.values)}
        self._slots = [slot for slot in weights.slots.values() if slot.name.endswith(".kernel")]

    @torch.no_grad()
    def step(self, rate: float, count: int) -> None:
        values, gradients = self._weights.values, self._weights.gradients
        momentum, keep = self.state["momentum"], self._options.momentum
        momentum.lerp_(gradients, 1.0 - keep)
        updates = gradients.lerp(momentum, keep)
        before = [slot.of(values).clone() for slot in self._slots]
        self._adam.step(rate, count)
        for slot, kernel in zip(self._slots, before, strict=True):
            slot.of(values).copy_(kernel)
        self._move_matrices(updates, rate * self._options.matrix_rate)

    def _move_matrices(self, updates: Tensor, rate: float) -> None:
        groups: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for slot in self._slots:
            kernel, update = slot.of(self._weights.values), slot.of(updates)
            for pair in zip(_parts(slot, kernel), _parts(slot, update), strict=True):
                groups.setdefault(pair[0].shape, []).append(pair)
        decay = 1.0 - rate * self._options.weight_decay
        for (inputs, outputs), pairs in groups.items():
            moves = orthogonalised(torch.stack([update for _, update in pairs]))
            length = rate * math.sqrt(max(1.0, outputs / inputs))
            for (kernel, _), move in zip(pairs, moves, strict=True):
                kernel.mul_(decay).add_(move, alpha=-length)


def orthogonalised(matrices: Tensor) -> Tensor:
    """U V' of each matrix U S V', nearly: singular values end between about 0.7 and 1.2.

    Args:
        matrices: float32 [matrices, inputs, outputs].
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    # bfloat16 is exact enough for this; 28 matrices [128, 128] took 11 ms instead of 27.
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    a, b, c = _QUINTIC
    for _ in range(_QUINTIC_STEPS):
        square = x @ x.mT
        x = a * x + torch.baddbmm(square, square, square, beta=b, alpha=c) @ x
    result: Tensor = x.mT if tall else x
    return result.to(matrices.dtype)


def optimizer_of(weights: WeightVector, options: OptimizerOptions) -> Optimizer:
    """The optimizer that the options name."""
    if options.name == "muon":
        return Muon(weights, options)
    return Adam(weights, options, options.weight_decay if options.name == "adamw" else 0.0)


def _parts(slot: Slot, matrix: Tensor) -> tuple[Tensor, ...]:
    """The matrices that lie side by side in a kernel (`exporters.packing`)."""
    packed = slot.name.endswith((".query_key_value.kernel", ".key_value.kernel"))
    return torch.split(matrix, matrix.shape[0], dim=1) if packed else (matrix,)
