"""Unmodified clients ask a server in a process of its own, with their default arguments.

openai is in test_server_process.py. KServe's client needs an environment of its own, which
scripts/check_clients makes.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bart_onnx import OnnxBartSeq2SeqLM

pytest.importorskip("uvicorn", reason="the serve extra is not installed: no uvicorn")
import httpx2
from server_process import running
from serving import NAME

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ROOT / ".venv-clients"
WORDS = ["onnx", "summarization", "banana"]


@pytest.fixture(scope="module")
def server():
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def expected():
    lm = OnnxBartSeq2SeqLM.from_preset(NAME, offline=True, threads=1)
    return dict(zip(WORDS, lm.generate(WORDS, do_sample=False), strict=True))


@pytest.fixture
def hub(server):
    module = pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    with module.InferenceClient(model=f"{server.url}/models/{NAME}") as client:
        yield client


def interpreter_of(client):
    """What has that client; the test is skipped where nothing has."""
    if client == "tritonclient":
        pytest.importorskip("tritonclient", reason="tritonclient is not installed")
        return sys.executable
    if not (CLIENTS / "installed").is_file():
        pytest.skip(".venv-clients is not there; scripts/check_clients makes it")
    return CLIENTS / "bin" / "python"


@pytest.mark.parametrize(
    ("name", "checks"), [("tritonclient", 8), ("kserve", 3)], ids=["tritonclient", "kserve"]
)
def test_clients_of_the_open_inference_protocol(server, expected, name, checks):
    done = subprocess.run(
        [interpreter_of(name), ROOT / "scripts" / "client_checks.py", name, server.url, NAME],
        input="".join(f"{text}\t{answer}\n" for text, answer in expected.items()),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    lines = done.stdout.splitlines()
    assert len(lines) == checks
    assert all(line.startswith(f"{name} ") for line in lines)


def test_the_client_of_hugging_face_summarizes(hub, expected):
    assert [hub.summarization(text).summary_text for text in WORDS] == list(expected.values())
    found = hub.summarization(
        "onnx", truncation="longest_first", generate_parameters={"num_beams": 1}
    )
    assert found.summary_text == expected["onnx"]


def test_the_client_of_hugging_face_generates(hub, expected):
    assert [hub.text_generation(text) for text in WORDS] == list(expected.values())
    for text in WORDS:
        pieces = list(hub.text_generation(text, stream=True))
        assert "".join(pieces) == expected[text]
        assert len(pieces) > 4


def test_the_client_of_hugging_face_reads_details(hub, expected):
    told = hub.text_generation("onnx", details=True, max_new_tokens=20)
    assert told.generated_text == expected["onnx"]
    assert (told.details.finish_reason, told.details.generated_tokens) == ("eos_token", 7)
    assert [token.special for token in told.details.tokens] == [True, *[False] * 5, True]
    *tokens, last = hub.text_generation("onnx", details=True, stream=True, stop=["k"])
    assert last.details.finish_reason == "stop_sequence"
    assert last.generated_text == expected["onnx"].split("k")[0]
    assert "".join(each.token.text for each in (*tokens, last)) == last.generated_text


def test_the_client_of_hugging_face_raises_what_was_wrong(hub):
    from huggingface_hub.errors import HfHubHTTPError, ValidationError

    with pytest.raises(ValidationError, match="truncate is not supported"):
        hub.text_generation("onnx", truncate=3)
    with pytest.raises(ValidationError, match="tokens"):
        hub.text_generation("x" * 80)
    with pytest.raises(HfHubHTTPError, match="There is no parameter 'nope'"):
        hub.summarization("onnx", generate_parameters={"nope": 1})


def test_the_client_of_hugging_face_knows_an_overload(expected):
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")
    from huggingface_hub import InferenceClient
    from huggingface_hub.errors import OverloadedError

    def ask(text):
        with InferenceClient(model=f"{server.url}/models/{NAME}") as client:
            try:
                return client.text_generation(text) == expected[text]
            except OverloadedError as error:
                return "Ask again in" in str(error)

    with running("--waiting", "1", "--rows", "1") as server, ThreadPoolExecutor(16) as pool:
        told = list(pool.map(ask, WORDS * 16))
        answers = server.ask("onnx")
        figures = httpx2.get(f"{server.url}/metrics").text
    assert all(told)
    assert answers.status_code == 200
    refused = re.search(rf'route="/models/{NAME}",status="429"}} (\d+)', figures)
    assert refused is not None
    assert 0 < int(refused[1]) < len(told)


def curl(*arguments):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = subprocess.run(
        ["curl", "--silent", "--show-error", "--fail-with-body", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def test_the_client_curl(server, expected):
    status, _ = curl(f"{server.url}/v2/health/ready")
    assert status == 0
    body = json.dumps({"model": NAME, "prompt": "onnx"})
    status, found = curl(f"{server.url}/v1/completions", "--json", body)
    assert (status, json.loads(found)["choices"][0]["text"]) == (0, expected["onnx"])
    stream = f"{server.url}/v2/models/{NAME}/generate_stream"
    status, found = curl("-N", stream, "-d", '{"text_input": "onnx"}')
    events = [json.loads(line[6:])["text_output"] for line in found.split("\n\n") if line]
    assert (status, "".join(events)) == (0, expected["onnx"])
    status, found = curl(f"{server.url}/models/{NAME}", "-d", "{")
    assert status == 22
    assert json.loads(found)["error_type"] == "validation"
