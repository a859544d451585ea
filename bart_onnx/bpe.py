"""Byte-level BPE as BART was trained with: checked vocabularies and the engine that applies them.

It knows no file and no batch. Text is cut at the added tokens, then by GPT-2's regular expression,
then merged by rank within each cut (Radford et al. 2019, section 2.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from bart_onnx.errors import InputError, InputTypeError
from bart_onnx.text_inputs import describe

START_TOKEN = "<s>"
END_TOKEN = "</s>"
PAD_TOKEN = "<pad>"
SPECIAL_TOKENS = (START_TOKEN, END_TOKEN, PAD_TOKEN)

_LARGEST_ID = 2**31 - 1


@dataclass(frozen=True)
class AddedToken:
    """A token that is cut out of the text before BPE sees it.

    Attributes:
        content: the token's text.
        special: whether generated text is rid of it.
        lstrip: whether it takes the whitespace before it.
        rstrip: whether it takes the whitespace after it.
        single_word: whether it is left alone inside a word.
    """

    content: str
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.content, str) or not self.content:
            raise InputTypeError(
                f"An added token must be a text that is not empty, found {describe(self.content)}."
            )
        for name in ("special", "lstrip", "rstrip", "single_word"):
            if not isinstance(getattr(self, name), bool):
                raise InputTypeError(
                    f"{name} of added token {self.content!r:.80} must be true or false, "
                    f"found {describe(getattr(self, name))}."
                )


def checked_vocabulary(vocabulary: object) -> dict[str, int]:
    """A copy of a token -> id mapping that can be used.

    Raises:
        InputTypeError: no mapping, or a token that is no str, or an id that is no int.
        InputError: an id is negative, too large for int32 or given twice, or a special token
            is missing.
    """
    if not isinstance(vocabulary, Mapping):
        raise InputTypeError(
            "Vocabulary must be a file path or a mapping of token to id, "
            f"found {describe(vocabulary)}."
        )
    owners: dict[int, str] = {}
    for token, token_id in vocabulary.items():
        if not isinstance(token, str) or type(token_id) is not int:
            raise InputTypeError(
                f"Vocabulary must map str to int, found {token!r:.80}: {describe(token_id)}."
            )
        if not 0 <= token_id <= _LARGEST_ID:
            raise InputError(
                f"The id of token {token!r:.80} is {token_id!s:.40}; ids are 0 to {_LARGEST_ID}."
            )
        if token_id in owners:
            raise InputError(
                f"Tokens {owners[token_id]!r:.80} and {token!r:.80} share the id {token_id}; "
                "give each its own."
            )
        owners[token_id] = token
    for token in SPECIAL_TOKENS:
        if token not in vocabulary:
            raise InputError(
                f"Cannot find special token `{token!r}` in the provided vocabulary of "
                f"{len(owners)} tokens for `BartTokenizer`. Add it."
            )
    return dict(vocabulary)


def checked_merges(merges: object) -> list[str]:
    """A copy of the merge rules, each as `"a b"`.

    Raises:
        InputTypeError: no iterable of str.
    """
    if isinstance(merges, str | bytes | Mapping) or not isinstance(merges, Iterable):
        raise InputTypeError(
            f"Merges must be a file path or a list of merge rules, found {describe(merges)}."
        )
    rules = list(merges)
    for index, rule in enumerate(rules):
        if not isinstance(rule, str):
            raise InputTypeError(
                f"Merge rule {index} must be a str such as 'a b', found {describe(rule)}."
            )
    return rules


def merge_pairs(merges: Sequence[str], vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """The two sides of every merge rule, best rank first; `#version` lines have none.

    Raises:
        InputError: a rule has not two parts, or names a token that the vocabulary lacks.
    """
    pairs = []
    for index, rule in enumerate(merges):
        if rule.startswith("#version"):
            continue
        parts = rule.split(" ")
        if len(parts) != 2 or not all(parts):
            raise InputError(
                f"Merge rule {index} must be two tokens with one blank between, found "
                f"{rule!r:.200}."
            )
        left, right = parts
        if left not in vocabulary or right not in vocabulary:
            raise InputError(
                f"Merge rule '{rule:.200}' contains token '{left:.80}' or '{right:.80}' that is "
                "not in the vocabulary. Pass the vocabulary and merges of one tokenizer."
            )
        if left + right not in vocabulary:
            raise InputError(
                f"Merge rule '{rule:.200}' makes token '{left + right:.200}' that is not in the "
                "vocabulary. Pass the vocabulary and merges of one tokenizer."
            )
        pairs.append((left, right))
    return pairs


class BytePairEncoding:
    """A checked vocabulary with the engine that applies it.

    Args:
        vocabulary: token -> id.
        merges: rules `"a b"`, best rank first.
        cuts: tokens that text is cut at.
        unknown_token: the token for a byte that the vocabulary lacks; None drops the byte.
        add_prefix_space: whether a piece between cuts that does not begin with a blank gets one.

    Raises:
        InputTypeError: vocabulary or merges of the wrong type.
        InputError: a special, cut or unknown token, or a part of a merge, is not in the vocabulary.
    """

    def __init__(
        self,
        vocabulary: object,
        merges: object,
        cuts: Sequence[AddedToken],
        *,
        unknown_token: str | None = None,
        add_prefix_space: bool = False,
    ) -> None:
        self.vocabulary = checked_vocabulary(vocabulary)
        self.merges = checked_merges(merges)
        self.tokens_by_id = {token_id: token for token, token_id in self.vocabulary.items()}
        for content in [*(cut.content for cut in cuts), unknown_token]:
            if content is not None and content not in self.vocabulary:
                raise InputError(
                    f"Token {content!r:.80} is set apart by the tokenizer's options, but is not "
                    f"among the {len(self.vocabulary)} tokens of the vocabulary. "
                    "Add it there or leave it out."
                )
        pairs = merge_pairs(self.merges, self.vocabulary)
        model = models.BPE(vocab=self.vocabulary, merges=pairs, unk_token=unknown_token)
        self._engine = tokenizers.Tokenizer(model)
        self._engine.pre_tokenizer = pre_tokenizers.ByteLevel(
            add_prefix_space=add_prefix_space, use_regex=True
        )
        self._engine.decoder = decoders.ByteLevel()
        self._engine.add_special_tokens([_for_engine(cut) for cut in cuts if cut.special])
        self._engine.add_tokens([_for_engine(cut) for cut in cuts if not cut.special])

    def token(self, token_id: int) -> str:
        """The token of an id. Raises InputError where none has it."""
        token = None if isinstance(token_id, bool) else self.tokens_by_id.get(token_id)
        if token is None:
            raise InputError(f"Id {token_id!r} is out of vocabulary range.")
        return token

    def token_id(self, token: str) -> int:
        """The id of a token. Raises InputError where the vocabulary lacks it."""
        if not isinstance(token, str) or token not in self.vocabulary:
            raise InputError(f"Token {token!r} is not in the vocabulary.")
        return self.vocabulary[token]

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text.

        Raises:
            InputError: a text holds a surrogate, which UTF-8 cannot hold.
        """
        if not any(texts):  # as most prompts are
            return [[] for _ in texts]
        return [each.ids for each in self._encoded(self._engine.encode_batch_fast, texts)]

    def offsets(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Start and end of the characters of each text that each of its ids stands for.

        A character of several ids is the span of each; a blank before a word is part of its first.
        Errors: `encode`'s.
        """
        return [each.offsets for each in self._encoded(self._engine.encode_batch, texts)]

    def decode(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """Text of each row of ids; ids without a token are skipped, stray bytes become U+FFFD.

        Raises:
            InputError: a negative id.
        """
        for index, row in enumerate(rows):
            if row and min(row) < 0:
                raise InputError(f"Row {index} holds the negative id {min(row)}; ids begin at 0.")
        known = [[token_id for token_id in row if token_id in self.tokens_by_id] for row in rows]
        return self._engine.decode_batch(known, skip_special_tokens=False)

    def _encoded(
        self, encode_batch: Callable[..., list[tokenizers.Encoding]], texts: Sequence[str]
    ) -> list[tokenizers.Encoding]:
        try:
            return encode_batch(list(texts), add_special_tokens=False)
        except TypeError:
            # The engine does not say which text it cannot read.
            for index, text in enumerate(texts):
                _check_unicode(text, index)
            raise


def _check_unicode(text: str, index: int) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"Text {index} holds a surrogate, which UTF-8 cannot hold: {error}. "
            "Decode the text with errors='replace'."
        ) from None


def _for_engine(token: AddedToken) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(
        token.content,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=False,
        special=token.special,
    )
