"""The server under more than it can do: clients that leave, ask at once, or are there at its end.

    scripts/test -m heavy tests/bart_onnx/test_server_load.py

takes five minutes, with 1,200 clients that leave and three minutes of overload.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the serve extra is not installed: no uvicorn")
import httpx2
from server_process import running
from serving import NAME

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

# What the shipped preset takes a tenth of a second for, alone.
SLOW = {"model": NAME, "prompt": ["summarization", "banana"], "num_beams": 4, "min_tokens": 31}
LOADS = ("waiting", "running", "rows", "cache_tokens")


def loads(server):
    """What the scheduler has to do, by its gauges."""
    text = httpx2.get(f"{server.url}/metrics", timeout=60).text
    return [float(re.search(rf"bart_onnx_{name}\{{.*\}} (.*)", text)[1]) for name in LOADS]


def idle_after(server):
    """Seconds until nothing is under way or waits."""
    began = time.monotonic()
    while any(loads(server)):
        assert time.monotonic() - began < 120
    return time.monotonic() - began


def settled(server):
    """Descriptors and threads of the server's process, when they have not changed for a while."""
    counts = [held(server)[:2]]
    while len(counts) < 100 and len(set(counts[-5:])) + (len(counts) < 5) > 1:
        time.sleep(0.1)
        counts.append(held(server)[:2])
    return counts[-1]


def held(server):
    """Descriptors and threads of the server's process, and its memory in MiB."""
    process = Path(f"/proc/{server.process.pid}")
    memory = int(re.search(r"VmRSS:\s+(\d+)", (process / "status").read_text())[1]) >> 10
    return len(list((process / "fd").iterdir())), len(list((process / "task").iterdir())), memory


async def leave(server, patience, stream):
    """Ask, and be gone so many seconds later, whatever has come."""
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps({**SLOW, "stream": stream}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    reading = asyncio.ensure_future(reader.read(-1))
    await asyncio.sleep(patience)
    reading.cancel()
    writer.transport.abort()


def all_leave(server, count, seed):
    """So many clients, 40 at a time; half of them are streamed to."""
    draw, places = random.Random(seed), asyncio.Semaphore(40)

    async def one(number):
        async with places:
            await leave(server, draw.random() * 0.6, bool(number % 2))

    async def every():
        await asyncio.gather(*(one(number) for number in range(count)))

    asyncio.run(every())


@pytest.mark.parametrize("count", [100, pytest.param(1200, marks=pytest.mark.heavy)])
def test_clients_that_leave_early_leave_nothing_behind(count):
    with running() as server:
        # Threads and sockets that are opened once.
        all_leave(server, 40, 0)
        idle_after(server)
        before = settled(server)
        all_leave(server, count, 1)
        freed = idle_after(server)
        after = settled(server)
        print(f"{count} left; all rows free after {freed:.3f} s; held: {before}, {after}")
        assert after == before
        assert server.ask("onnx").status_code == 200


@pytest.mark.parametrize("seconds", [3, pytest.param(190, marks=pytest.mark.heavy)])
def test_overload_is_refused_and_memory_stays_flat(seconds):
    """64 clients ask again as soon as they are answered; there is room for 16."""
    statuses, memory, over = Counter(), [], threading.Event()

    def ask_again(number):
        with httpx2.Client(timeout=60) as client:
            while not over.is_set():
                body = {**SLOW, "prompt": "summarization", "stream": not number % 4}
                answer = client.post(f"{server.url}/v1/completions", json=body)
                statuses[answer.status_code, "Retry-After" in answer.headers] += 1

    with running("--rows", "8", "--waiting", "8") as server:
        clients = [threading.Thread(target=ask_again, args=(number,)) for number in range(64)]
        for client in clients:
            client.start()
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(seconds / 30)
            memory.append(held(server)[2])
        over.set()
        for client in clients:
            client.join()
        idle_after(server)
        assert server.end() == 0
    print(f"{dict(statuses)}; MiB {memory[0]} to {memory[-1]}, at most {max(memory)}")
    assert set(statuses) == {(200, False), (429, True)}
    third = len(memory) // 3
    assert max(memory[2 * third :]) <= max(memory[third : 2 * third]) + 10


def test_nothing_accepted_is_lost_at_the_end_of_a_busy_server():
    statuses, left_over = Counter(), []

    def ask_again(name):
        with httpx2.Client(timeout=60) as client:
            for number in itertools.count():
                own = {"X-Request-Id": f"{name}-{number}"}
                try:
                    answer = client.post(f"{server.url}/v1/completions", json=SLOW, headers=own)
                except (httpx2.NetworkError, httpx2.RemoteProtocolError):
                    left_over.append(own["X-Request-Id"])
                    return
                statuses[answer.status_code] += 1
                if answer.status_code == 503:
                    time.sleep(0.05)

    with running("--drain-delay", "0.5") as server:
        clients = [threading.Thread(target=ask_again, args=(name,)) for name in range(16)]
        for client in clients:
            client.start()
        while statuses[200] < 16:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            client.join()
        assert server.process.wait(30) == 0
    assert set(statuses) == {200, 503}
    noted = [json.loads(line) for line in server.log if line.startswith("{")]
    heard_of = [line["request_id"] for line in noted if line["message"] == "answered"]
    # All that the server heard of was answered. What was not had come to the system's queue of
    # connections, or over one that was kept, when the server let go of them.
    assert len(heard_of) == statuses.total()
    assert len(left_over) == 16
    assert not set(heard_of) & set(left_over)
    assert not [line for line in noted if line["level"] == "error"]
