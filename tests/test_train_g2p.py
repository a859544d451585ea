"""The parts of scripts/train_g2p.py that need no dictionary: vocabulary and what is held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from bart_onnx.tokenizer import BartTokenizer

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)


@pytest.mark.usefixtures("scripts")
def test_every_character_is_one_token():
    from g2p_vocabulary import byte_vocabulary

    words = ["don't", "self-made", "St.", "ˈsˌɛlfmˌAd", "əɹᵊᵻɡ", "ˈɑŋθʔʤ"]
    vocabulary, merges = byte_vocabulary("".join(words))
    tokenizer = BartTokenizer(vocabulary, merges)
    ids = tokenizer.encode_batch(words)
    assert [len(row) for row in ids] == [len(word) for word in words]
    assert tokenizer.decode_batch(ids) == words
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    # "ə" is C9 99, and "ᵊ" and "ᵻ" share their first two bytes.
    assert len(merges) == len({*merges})


@pytest.mark.usefixtures("scripts")
def test_heldout_words_are_kept_out(tmp_path):
    from train_g2p import read_heldout, without

    path = tmp_path / "heldout.tsv"
    path.write_text("Cat\tkˈæt\nboxes\tbˈɑksᵻz\n", encoding="utf-8")
    heldout = read_heldout(path)
    assert heldout == {"cat", "boxes"}
    words = ["cat", "CAT", "cats", "Cates", "box", "boxe", "boxess", "catty", "boxer", "ca"]
    kept = [word for word, _ in without(dict.fromkeys(words, "-"), heldout)]
    assert kept == ["catty", "boxer", "ca"]


@pytest.mark.usefixtures("scripts")
def test_a_log_is_read_once(tmp_path):
    from training_curve import read_log

    log = tmp_path / "training.jsonl"
    lines = ['{"step": 100, "loss": 3}', '{"step": 100, "loss": 2}', '{"epoch": 0, "loss": 1}']
    log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    steps, epochs = read_log(log)
    assert steps == {100: {"step": 100, "loss": 2}}
    assert epochs == {1: {"epoch": 0, "loss": 1}}
