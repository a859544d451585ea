"""scripts/rouge.py: check values of real texts, its signature, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
EXAMPLES = SCRIPTS.parent / "examples" / "documents.jsonl"


@pytest.fixture
def rouge(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return __import__("rouge")


def write_lines(path: Path, lines: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--reference", "references", "--references", "best"], (31.04, 12.14, 24.47, 24.76)),
        (["--reference", "references"], (25.50, 9.13, 19.70, 19.98)),
        ([], (25.50, 9.13, 19.70, 19.98)),
    ],
)
def test_check_values(
    rouge: ModuleType,
    shared_data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: tuple[float, ...],
) -> None:
    """Those of rouge-score 0.1.2 for the first sentence of each abstract."""
    dataset = shared_data / "text" / "scitldr_a_test.jsonl"
    rows = [json.loads(line) for line in dataset.read_text(encoding="utf-8").splitlines()]
    leads = [{"text": row["article"].split(". ")[0]} for row in rows]
    predictions = write_lines(tmp_path / "leads.jsonl", leads)
    given = [str(dataset), "--predictions", str(predictions), "--sentences", "lines", *arguments]
    rouge.main(given)
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert tuple(round(score, 2) for score in scores.values()) == expected


@pytest.mark.filterwarnings("ignore::bart_onnx.errors.InputTruncatedWarning")
def test_a_model_and_its_kept_summaries_score_the_same(
    rouge: ModuleType, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "summaries.jsonl"
    options = ["--limit", "3", "--option", "max_length=12", "--option", "num_beams=2"]
    rouge.main([str(EXAMPLES), "--preset", str(tiny_bundle), "--output", str(kept), *options])
    table, signature, scores = capsys.readouterr().out.splitlines()
    assert table.startswith("rouge1 ")
    seal = (tiny_bundle / "manifest.sha256").read_text()[:16]
    assert f"bundle: {seal} fp32" in signature
    assert '"long_input": "truncate", "max_length": 12, "num_beams": 2' in signature
    assert "stemmer: Porter | sentences: bart_onnx.sentences " in signature
    assert "references: first | rows: 3 of " in signature
    rouge.main([str(EXAMPLES), "--predictions", str(kept), "--limit", "3"])
    again = capsys.readouterr().out.splitlines()
    assert again[2] == scores
    assert again[1].split(" | ")[:5] == signature.split(" | ")[:5]


def test_sentences_and_references(rouge: ModuleType) -> None:
    text, turned = "The cat sat. It slept well.", "It slept well. The cat sat."
    rows = [rouge.Row(text, ("no match", turned))]
    split, lines = (rouge.Rules("best", sentences) for sentences in ("split", "lines"))
    assert rouge.on_lines(text, split) == "The cat sat.\nIt slept well."
    assert rouge.on_lines("One.\nTwo three.", lines) == "One.\nTwo three."
    assert rouge.rouge([text], rows, split)["rougeLsum"] == pytest.approx(100)
    assert rouge.rouge([text], rows, lines)["rougeLsum"] == pytest.approx(50)
    assert rouge.rouge([text], rows, rouge.Rules())["rouge1"] == 0


@pytest.mark.parametrize(
    ("rows", "predictions", "says"),
    [
        ([], [], "has no rows"),
        ([{"article": "a"}], ["b"], r"data\.jsonl:1 has no text"),
        ([{"article": "a", "summary": []}], ["b"], r"data\.jsonl:1 has no text"),
        ([{"article": "a", "summary": [1]}], ["b"], r"data\.jsonl:1 has no text"),
        (["a"], ["b"], r"data\.jsonl:1 holds no JSON object"),
        ([{"article": "a", "summary": "b"}] * 2, ["b"], "must have 2 lines"),
    ],
)
def test_refusals(
    rouge: ModuleType, tmp_path: Path, rows: list[Any], predictions: list[str], says: str
) -> None:
    dataset = write_lines(tmp_path / "data.jsonl", rows)
    given = write_lines(tmp_path / "given.jsonl", [{"text": text} for text in predictions])
    with pytest.raises(SystemExit, match=says):
        rouge.main([str(dataset), "--predictions", str(given)])


def test_the_examples_are_whole(rouge: ModuleType) -> None:
    rows = rouge.read_rows(EXAMPLES, "article", "summary", None)
    assert len(rows) == 8
    assert all(len(row.references[0]) < len(row.document) / 2 for row in rows)
