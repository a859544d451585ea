"""`python -m bart_onnx.serve`: models over HTTP. Parses, opens, serves."""

from __future__ import annotations

import ipaddress
import os
import sys
import warnings
from collections.abc import Sequence

from bart_onnx.errors import InputTruncatedWarning, MissingPackageError
from bart_onnx.exit_status import exit_status
from bart_onnx.presets import PRESETS
from bart_onnx.server.options import ServerOptions, option_parser, read_options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        0 when a signal ended it and all that was accepted is answered; 1 for an error said; 2 for
        wrong usage.
    """
    parser = option_parser("python -m bart_onnx.serve", f"Built-in presets: {', '.join(PRESETS)}.")
    flags = parser.parse_args(arguments)
    return exit_status(lambda: _serve(read_options(flags, os.environ)))


def _serve(options: ServerOptions) -> int:
    try:
        from bart_onnx.server import logs, running, served
    except ImportError as error:
        raise MissingPackageError(
            f"The server needs {error.name}, which is not installed; run "
            'pip install "bart_onnx[cpu,serve]".'
        ) from error
    # Each answer says for itself whether its text was cut.
    warnings.simplefilter("ignore", InputTruncatedWarning)
    if not options.api_key and not _is_loopback(options.host):
        print(
            f"WARNING: whoever reaches {options.host} may use this server, since it asks for no "
            "key. Set BART_ONNX_API_KEY.",
            file=sys.stderr,
        )
    logs.log_to_stderr()
    running.run(served.opened(options), options)
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    sys.exit(main())
