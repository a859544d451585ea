"""Text as it grows: pieces are the text, characters whole, and nothing is decoded over and over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bart_onnx.streaming import Certain, Pieces, decoder
from bart_onnx.tokenizer import BartTokenizer

DATA = Path(__file__).resolve().parents[1] / "data"
BYTES = BartTokenizer.from_files(DATA / "keras_golden" / "hf_checkpoint")
DECODED = decoder(BYTES.decode_batch, BYTES.special_token_ids)
HALF_AN_E = BYTES.encode_batch(["é"])[0][0]
IDS = st.lists(
    st.sampled_from([*sorted(BYTES.vocabulary.values()), *BYTES.encode_batch(["é日😀"])[0] * 40]),
    max_size=20,
)


@settings(deadline=None)
@given(IDS, st.lists(st.integers(0, 20), max_size=5))
def test_what_is_certain_is_the_beginning_of_the_text_and_at_last_all(ids, lengths):
    known, certain = np.array(ids, np.int64), Certain(DECODED)
    whole = DECODED(known)
    for length in sorted({min(each, len(ids)) for each in lengths}):
        found = certain.text(known[:length], False)
        assert found == DECODED(known[:length]).rstrip("\ufffd")
        assert whole.startswith(found)
    assert certain.text(known, True) == whole


def test_pieces_of_several_parts_are_joined_as_the_whole_is():
    texts = ["é one ", " zwei", " 日本 "]
    ids = [np.array(BYTES.encode_batch([text])[0], np.int64) for text in texts]
    pieces, found = Pieces(DECODED, len(ids)), ""
    for part in (2, 0, 1):  # they end in another order than theirs
        for length in range(len(ids[part]) + 1):
            pieces.grow(part, ids[part][:length], length == len(ids[part]))
            piece = pieces.next_piece()
            assert "\ufffd" not in piece
            found += piece
    assert found == "é one zwei 日本"


@pytest.mark.parametrize("text", ["a 日é b" * 50, "x" * 300])
def test_no_token_is_decoded_over_and_over(text):
    def counted(ids):
        decoded.append(len(ids))
        return DECODED(ids)

    decoded, ids = [], np.array(BYTES.encode_batch([text])[0], np.int64)
    pieces = Pieces(counted)
    for length in range(1, len(ids) + 1):
        pieces.grow(0, ids[:length], length == len(ids))
        pieces.next_piece()
    assert len(ids) <= sum(decoded) <= 3 * len(ids)
