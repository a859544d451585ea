"""Keep a server busy for an hour with all it takes: does it answer right, does it grow?

    python scripts/soak.py [--seconds 3600] [--clients 12] [--preset bart_tiny_en_g2p]

A server is started in a process of its own. Clients ask over every wire, with every way of
decoding, leave before the end, and send what cannot be answered. Every answer is compared with
`generate` of the same request in this process. The server's memory, threads and file descriptors
are read from /proc (Linux). The last line is JSON; the exit status is 0 when nothing was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import httpx2
from soak_server import ERROR, MIB, Server, busy_gauges, settled, watch
from soak_wires import WIRES, WrongStatusError

from bart_onnx import OnnxBartSeq2SeqLM

#: What the server may grow by after its warm-up; what Triton's own soaks allow is twice that.
_MOST_GROWTH = 50 * MIB
#: Threads that asyncio may still add to its pool, which it fills as it needs them.
_POOL = min(32, (os.cpu_count() or 1) + 4)
_WORDS = Path(__file__).resolve().parent.parent / "tests" / "data" / "words.txt"

_ALL = {"top_k": 0, "top_p": 1.0}
# Fields of a request, and what `generate` calls the same.
KINDS: tuple[tuple[Mapping[str, Any], Mapping[str, Any]], ...] = (
    ({}, {"do_sample": False}),
    ({"temperature": 0}, {"num_beams": 1, "do_sample": False}),
    ({"num_beams": 4}, {"num_beams": 4}),
    ({"num_beams": 3, "n": 2}, {"num_beams": 3, "num_return_sequences": 2}),
    ({"num_beams": 2, "length_penalty": 2.0}, {"num_beams": 2, "length_penalty": 2.0}),
    (
        {"temperature": 1.2, "seed": 5},
        {"do_sample": True, "temperature": 1.2, "seed": 5, **_ALL},
    ),
    (
        {"temperature": 0.9, "seed": 8, "top_p": 0.8, "n": 3},
        {
            **{"do_sample": True, "temperature": 0.9, "seed": 8, **_ALL},
            **{"top_p": 0.8, "num_return_sequences": 3},
        },
    ),
    (
        {"temperature": 1.5, "seed": 2, "top_k": 4},
        {"do_sample": True, "temperature": 1.5, "seed": 2, **_ALL, "top_k": 4},
    ),
    ({"max_tokens": 7}, {"max_new_tokens": 7}),
    (
        {"min_tokens": 6, "repetition_penalty": 1.4},
        {"min_new_tokens": 6, "repetition_penalty": 1.4},
    ),
    ({"no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 2}),
)

# What cannot be answered: a path after the model's name is put in, a body, and the status.
_REFUSED: tuple[tuple[str, Any, int], ...] = (
    ("/v1/completions", {"model": "nobody", "prompt": "a"}, 404),
    ("/v1/completions", {"model": "{model}", "prompt": ""}, 200),
    ("/v1/completions", {"model": "{model}", "prompt": "a", "temperature": "hot"}, 400),
    ("/v1/completions", {"model": "{model}", "prompt": "a " * 3000}, 400),
    ("/v1/completions", b'{"model": "{model}", "prompt": "a", "temperature": NaN}', 400),
    ("/v1/completions", b"{" * 50_000, 400),
    ("/v1/chat/completions", {}, 404),
    ("/v2/models/{model}/infer", {"inputs": []}, 400),
    ("/v2/models/{model}/infer", b"\x00\xff", 400),
    ("/v2/models/{model}/generate", {"text_input": "a", "num_beams": 10**6}, 400),
    ("/models/{model}", {"inputs": "a", "parameters": {"colour": 1}}, 422),
    ("/models/nobody", {"inputs": "a"}, 404),
)


class Soak:
    """Clients of one server, and what they saw.

    Attributes:
        counts: requests, by what they were.
        wrong: what should not have been.
    """

    def __init__(self, server: Server, preset: str, seed: int) -> None:
        self._server, self._seed = server, seed
        self._lm = OnnxBartSeq2SeqLM.from_preset(preset, offline=True, threads=1)
        self._name = preset.rstrip("/").split("/")[-1]
        words = _WORDS.read_text(encoding="utf-8").split()
        draw = random.Random(seed)
        self._prompts = [tuple(draw.sample(words, count)) for count in (1, 1, 2, 3, 4) * 30]
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._expected = cache(self._generate)

    def run(self, seconds: float, clients: int) -> None:
        """Ask for so long, with so many at once."""
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._client, args=(number, end)) for number in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self, number: int, end: float) -> None:
        draw = random.Random(self._seed * 1000 + number)
        with httpx2.Client(base_url=self._server.url, timeout=120) as client:
            while time.monotonic() < end:
                kind = draw.choices(("answered", "left", "refused"), (8, 1, 1))[0]
                try:
                    getattr(self, f"_{kind}")(client, draw)
                except Exception as error:  # whatever it is, it is reported
                    self._note(f"failed: {kind}", f"{type(error).__name__}: {error}")

    def _answered(self, client: httpx2.Client, draw: random.Random) -> None:
        prompts, kind = draw.choice(self._prompts), draw.randrange(len(KINDS))
        fields = KINDS[kind][0]
        single = len(prompts) == 1 and fields.get("n", 1) == 1
        wire = draw.choice([wire for wire in WIRES if single or not wire.single])
        try:
            found = wire.ask(client, self._name, list(prompts), fields)
        except WrongStatusError as error:
            if error.status == 429:
                self._note("answered 429")
                time.sleep(draw.random())
                return
            raise
        expected = self._expected(prompts, kind)
        told = f"{wire.name} {fields} {prompts}: {found}, and generate gives {expected}"
        self._note(f"answered: {wire.name}", None if found == expected else told)

    def _left(self, client: httpx2.Client, draw: random.Random) -> None:
        body = {"model": self._name, "prompt": draw.choice(self._prompts), "num_beams": 4}
        streams = draw.random() < 0.5
        try:
            with httpx2.Client(base_url=self._server.url, timeout=draw.uniform(0.002, 0.05)) as own:
                own.post("/v1/completions", json={**body, "stream": streams})
        except httpx2.TimeoutException:
            pass
        self._note("left, streamed" if streams else "left")

    def _refused(self, client: httpx2.Client, draw: random.Random) -> None:
        path, body, status = draw.choice(_REFUSED)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        raw = raw.replace(b"{model}", self._name.encode())
        answer = client.post(path.format(model=self._name), content=raw)
        told = f"{path} {raw[:80]!r}: {answer.status_code} for {status}, {answer.text[:200]}"
        fits = answer.status_code in (status, 429)
        self._note(f"refused: {status}", None if fits else told)

    def _note(self, what: str, wrong: str | None = None) -> None:
        with self._lock:
            self.counts[what] += 1
            if wrong is not None:
                self.wrong.append(wrong)

    def _generate(self, prompts: tuple[str, ...], kind: int) -> list[str]:
        found: list[Any] = self._lm.generate(list(prompts), speculate=False, **KINDS[kind][1])
        return [text for each in found for text in ([each] if isinstance(each, str) else each)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Keep a server busy, and see that it stays right.")
    parser.add_argument("--preset", default="bart_tiny_en_g2p", help="a preset, or a bundle's path")
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--warm-up", type=float, default=None, help="seconds; a tenth, if left out")
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> int:
    """Run the soak; 0 when nothing was wrong."""
    options = _options()
    warm_up = options.seconds / 10 if options.warm_up is None else options.warm_up
    server = Server(options.preset)
    idle = server.figures()
    soak = Soak(server, options.preset, options.seed)
    # More of them than later, so that the server's pools are as large as they will be.
    soak.run(warm_up, 2 * options.clients)
    warm = settled(server, idle)
    seen: list[dict[str, int]] = [warm]
    over = threading.Event()
    watching = threading.Thread(target=watch, args=(server, seen, over, options.seconds / 60))
    watching.start()
    soak.run(options.seconds, options.clients)
    over.set()
    watching.join()
    after, gauges = settled(server, warm), busy_gauges(server)
    faults = [f"{line} when nobody asked" for line in gauges]
    faults += [f"the exit status is {status}" for status in [server.end()] if status]
    faults += [line for line in server.log if ERROR in line]
    faults += _grown(warm, [*seen, after])
    report = {
        "seconds": options.seconds,
        "requests": sum(soak.counts.values()),
        "counts": dict(sorted(soak.counts.items())),
        "wrong": len(soak.wrong),
        "examples": soak.wrong[:10],
        "faults": faults,
        "MiB": [round(each["bytes"] / MIB, 1) for each in (warm, after)],
        "most MiB": round(max(each["bytes"] for each in seen) / MIB, 1),
        "threads": [warm["threads"], after["threads"]],
        "descriptors": [warm["descriptors"], after["descriptors"]],
    }
    print(json.dumps(report, ensure_ascii=False))
    return int(bool(soak.wrong or faults))


def _grown(warm: Mapping[str, int], later: list[dict[str, int]]) -> list[str]:
    """What there is more of than when it was warm: memory at any time, all else at the end."""
    grown = max(each["bytes"] for each in later) - warm["bytes"]
    told = [f"grew by {grown / MIB:.1f} MiB"] if grown > _MOST_GROWTH else []
    return told + [
        f"{name}: {warm[name]} before and {later[-1][name]} after"
        for name, more in (("threads", _POOL), ("descriptors", 0))
        if later[-1][name] > warm[name] + more
    ]


if __name__ == "__main__":
    sys.exit(main())
