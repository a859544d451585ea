"""Hugging Face's task API: two tasks at one URL, whole and as a stream of tokens."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed: no fastapi")
from serving import NAME, events_of

MODEL = f"/models/{NAME}"
WORDS = ["onnx", "summarization", "banana"]


def ask(client, inputs, path=MODEL, **parameters):
    return client.post(path, json={"inputs": inputs, "parameters": parameters})


def stream(client, text, **parameters):
    body = {"inputs": text, "parameters": parameters, "stream": True}
    return [json.loads(event) for event in events_of(client.post(MODEL, json=body))]


ASKED = [
    ({}, {"do_sample": False}),
    ({"do_sample": False, "max_new_tokens": 7}, {"max_new_tokens": 7}),
    (
        {"temperature": 1.3, "seed": 4, "top_k": 5},
        {"do_sample": True, "temperature": 1.3, "seed": 4, "top_k": 5, "top_p": 1.0},
    ),
    ({"repetition_penalty": 1.4}, {"repetition_penalty": 1.4}),
    ({"generate_parameters": {"num_beams": 3}}, {"num_beams": 3}),
    ({"watermark": False, "best_of": 1, "return_full_text": False}, {"do_sample": False}),
]


@pytest.mark.parametrize(("parameters", "options"), ASKED)
def test_answers_are_those_of_generate(client, served_lm, parameters, options):
    expected = served_lm.generate(WORDS, speculate=False, **options)
    assert ask(client, WORDS, **parameters).json() == [
        {"generated_text": text, "summary_text": text} for text in expected
    ]
    found = ask(client, WORDS, f"{MODEL}/summarization", **parameters).json()
    assert found == [{"summary_text": text} for text in expected]
    events = stream(client, WORDS[0], **parameters)
    assert "".join(event["token"]["text"] for event in events) == expected[0]
    assert [event["generated_text"] for event in events] == [None] * (len(events) - 1) + expected[
        :1
    ]


def test_several_sequences_follow_each_other(client, served_lm):
    expected = served_lm.generate(WORDS, num_beams=3, num_return_sequences=2)
    found = ask(client, WORDS, num_beams=3, num_return_sequences=2).json()
    assert [each["generated_text"] for each in found] == [text for two in expected for text in two]


@pytest.mark.filterwarnings("ignore::bart_onnx.errors.InputTruncatedWarning")
@pytest.mark.parametrize("truncation", ["longest_first", "only_first"])
def test_long_texts_are_cut_where_that_is_asked(client, served_lm, truncation):
    expected = served_lm.generate("x" * 80, long_input="truncate", do_sample=False)
    found = ask(client, "x" * 80, truncation=truncation).json()
    assert found[0]["summary_text"] == expected
    refused = ask(client, "x" * 80, truncation="do_not_truncate")
    assert refused.status_code == 422
    assert refused.json()["error_type"] == "validation"


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({}, "eos_token"),
        ({"num_beams": 3}, "eos_token"),
        ({"max_new_tokens": 4}, "length"),
        ({"stop": ["ə"]}, "stop_sequence"),
    ],
)
def test_details(client, served_lm, parameters, reason):
    options = {} if reason == "stop_sequence" else parameters
    (result,) = served_lm.generate(
        ["summarization"], speculate=False, do_sample=False, return_dict=True, **options
    )
    (found,) = ask(client, "summarization", details=True, **parameters).json()
    told = found["details"]
    assert told["finish_reason"] == reason
    assert told["generated_tokens"] == len(told["tokens"])
    assert (told["prefill"], told["seed"]) == ([], None)
    first = told["tokens"][0]
    assert first == {
        "id": 0,
        "text": "<s>",
        "logprob": float(result.log_probs[0]),
        "special": True,
    }
    if reason != "stop_sequence":
        assert [each["logprob"] for each in told["tokens"]] == result.log_probs.tolist()
        assert "".join(t["text"] for t in told["tokens"] if not t["special"]) == result.text
    events = stream(client, "summarization", details=True, **parameters)
    assert [event["index"] for event in events] == list(range(1, len(told["tokens"]) + 1))
    for name in ("id", "logprob", "special"):
        assert [event["token"][name] for event in events] == [each[name] for each in told["tokens"]]
    assert events[-1]["details"] == {
        name: told[name] for name in ("finish_reason", "generated_tokens", "seed")
    }
    assert events[-1]["generated_text"] == found["generated_text"]
    assert {event["details"] is None for event in events[:-1]} == {True}


def test_a_drawn_answer_tells_its_seed(client):
    (found,) = ask(client, "x", details=True, temperature=1.0, seed=7).json()
    assert found["details"]["seed"] == 7


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 422, "inputs"),
        ({"inputs": 3}, 422, "inputs"),
        ({"inputs": []}, 422, "holds nothing"),
        ({"inputs": "x", "stream": 1}, 422, "stream"),
        ({"inputs": ["x", "y"], "stream": True}, 422, "of one text"),
        ({"inputs": "x", "stream": True, "parameters": {"n": 2}}, 422, "of one sequence"),
        ({"inputs": "x", "parameters": {"truncation": "only_second"}}, 422, "truncation"),
        ({"inputs": "x", "parameters": {"watermark": True}}, 422, "watermark is not supported"),
        ({"inputs": "x", "parameters": {"truncate": 3}}, 422, "truncate is not supported"),
        ({"inputs": "x", "parameters": {"return_full_text": True}}, 422, "return_full_text"),
        (
            {"inputs": "x", "parameters": {"seed": 1, "generate_parameters": {"seed": 1}}},
            422,
            "two places",
        ),
        (
            {"inputs": "x", "parameters": {"long_input": "error", "truncation": "only_first"}},
            422,
            "two places",
        ),
        ({"inputs": "x", "parameters": {"temperature": -1}}, 422, "temperature"),
        ({"inputs": "x", "parameters": {"grammar": {}}}, 422, "grammar"),
        ({"inputs": "x", "options": {}}, 422, "no such field"),
    ],
)
def test_what_cannot_be_answered_is_said(client, body, status, says):
    answer = client.post(MODEL, json=body)
    assert answer.status_code == status, answer.text
    assert answer.json()["error_type"] == "validation"
    assert says in answer.json()["error"]


def test_null_is_nothing(client, served_lm):
    body = {"inputs": "onnx", "parameters": None, "stream": None}
    expected = served_lm.generate("onnx", do_sample=False)
    assert client.post(MODEL, json=body).json()[0]["generated_text"] == expected
    parameters = {"details": None, "truncation": None, "max_new_tokens": None, "watermark": None}
    answer = client.post(MODEL, json={**body, "parameters": parameters})
    assert answer.json()[0]["generated_text"] == expected


def test_summaries_are_whole(client):
    for body in ({"stream": True}, {"parameters": {"details": True}}):
        answer = client.post(f"{MODEL}/summarization", json={"inputs": "x", **body})
        assert answer.status_code == 422
        assert "no stream and no details" in answer.json()["error"]


def test_models_that_are_not_there(client):
    for path in ("/models/other", "/models/other/summarization", "/models/other/elsewhere"):
        answer = client.post(path, json={"inputs": "x"})
        assert answer.status_code == 404
        assert set(answer.json()) == {"error", "error_type"}
