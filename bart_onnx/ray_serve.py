"""`serve run bart_onnx.ray_serve:app preset=NAME`: the server's application on Ray Serve.

Ray is imported when an application is built, and nowhere else.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from bart_onnx.errors import InputError, MissingPackageError
from bart_onnx.server.options import ServerOptions, check_least, option_parser, read_options

# Ray listens and routes, so that these would say nothing.
_OF_RAY = ("host", "port", "drain_delay")
# Seconds between two looks at a replica.
_HEALTH_PERIOD = 1.0


@dataclass(frozen=True)
class Scale:
    """How many replicas there are, and what each takes.

    Attributes:
        replicas: with a scheduler and a copy of the weights each.
        most_replicas: as many as there may become under load; None for no more.
        fronts: who forward requests to them; they have no model.
        cpus, gpus: of each replica; steps have as many threads as CPUs, unless `threads` says.

    Raises:
        InputError: a value out of its range.
    """

    replicas: int = 1
    most_replicas: int | None = None
    fronts: int = 1
    cpus: float = 1.0
    gpus: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("replicas", 1), ("fronts", 1), ("cpus", 0), ("gpus", 0)):
            check_least(name, getattr(self, name), least)
        if self.most_replicas is not None and self.most_replicas < self.replicas:
            raise InputError(
                f"most_replicas is {self.most_replicas}, less than replicas, {self.replicas}."
            )

    @property
    def most(self) -> int:
        """Replicas that there may be."""
        return self.most_replicas or self.replicas


def app(arguments: Mapping[str, Any]) -> Any:
    """An application of `serve run`'s arguments, or of `args` in a configuration file.

    Args:
        arguments: fields of `Scale` and `ServerOptions` by name; the environment and a `config`
            count as they do for `python -m bart_onnx.serve`.

    Raises:
        InputError: an argument that is no option, or of Ray; see `read_options` also.
        MissingPackageError: Ray, or what serving needs, is not installed.
    """
    if taken := sorted(set(arguments) & set(_OF_RAY)):
        raise InputError(
            f"{', '.join(taken)} is said to Ray, in http_options or to `serve start`; leave it out."
        )
    served = option_parser("", "")
    parser = _Parser("bart_onnx.ray_serve", parents=[served], add_help=False, allow_abbrev=False)
    kinds = {"int": int, "int | None": int, "float": float}
    for field in dataclasses.fields(Scale):
        kind = kinds[str(field.type)]
        parser.add_argument(f"--{_dashed(field.name)}", type=kind, default=field.default)
    flags = parser.parse_args(list(_flags(arguments)))
    scale = Scale(**{each.name: getattr(flags, each.name) for each in dataclasses.fields(Scale)})
    return application(read_options(flags, os.environ), scale)


def application(options: ServerOptions, scale: Scale | None = None) -> Any:
    """An application for `serve.run`: fronts before replicas; see docs/scale_out.md.

    Raises:
        MissingPackageError: Ray, or what serving needs, is not installed.
    """
    try:
        from ray import serve

        from bart_onnx.server.ray_front import Front
        from bart_onnx.server.ray_replica import Replica
    except ImportError as error:
        raise MissingPackageError(
            f"Serving on Ray needs {error.name}, which is not installed; run "
            'pip install "bart_onnx[cpu,ray]".'
        ) from error
    scale = scale or Scale()
    options = dataclasses.replace(options, threads=options.threads or max(1, int(scale.cpus)))
    replicas = serve.deployment(**replica_settings(options, scale))(Replica).bind(options)
    front = serve.deployment(**front_settings(options, scale))(Front)
    return front.bind(replicas, options.body_bytes)


def replica_settings(options: ServerOptions, scale: Scale) -> dict[str, Any]:
    """What Ray is told of replicas: a scheduler gets all that it can decode or let wait."""
    settings: dict[str, Any] = {
        "name": "Replica",
        "max_ongoing_requests": options.rows + options.waiting,
        "max_queued_requests": options.waiting,
        "ray_actor_options": {"num_cpus": scale.cpus, "num_gpus": scale.gpus},
        "graceful_shutdown_timeout_s": options.drain_timeout,
        "health_check_period_s": _HEALTH_PERIOD,
    }
    if scale.most == scale.replicas:
        return settings | {"num_replicas": scale.replicas}
    autoscaling = {
        "min_replicas": scale.replicas,
        "max_replicas": scale.most,
        "target_ongoing_requests": options.rows,
    }
    return settings | {"autoscaling_config": autoscaling}


def front_settings(options: ServerOptions, scale: Scale) -> dict[str, Any]:
    """What Ray is told of fronts: they take what all replicas take, and refuse by their answers."""
    return {
        "name": "Front",
        "num_replicas": scale.fronts,
        # And what waits for a replica, so that it is the handle there that is full, and says so.
        "max_ongoing_requests": (options.rows + 2 * options.waiting) * scale.most,
        "ray_actor_options": {"num_cpus": 0.1},
        "graceful_shutdown_timeout_s": options.drain_timeout,
        "health_check_period_s": _HEALTH_PERIOD,
    }


class _Parser(argparse.ArgumentParser):
    """One whose errors are raised: there may be no command line to end."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"bart_onnx.ray_serve: {message}.")


def _flags(arguments: Mapping[str, Any]) -> Iterator[str]:
    """Arguments as flags; texts of a command line's are read as there."""
    words = {"true": True, "false": False}
    for name, value in arguments.items():
        value = words.get(value, value) if isinstance(value, str) else value
        if isinstance(value, bool):
            yield f"--{'' if value else 'no-'}{_dashed(name)}"
        elif value is not None:
            values = value if isinstance(value, list | tuple) else [value]
            yield from (f"--{_dashed(name)}={each}" for each in values)


def _dashed(name: str) -> str:
    return name.replace("_", "-")
