"""Which hub URIs are taken, which are refused, and what a bare name suggests."""

from __future__ import annotations

import pytest

from bart_onnx import hub
from bart_onnx.errors import PresetError


@pytest.mark.parametrize(
    ("uri", "repository", "revision"),
    [
        ("hf://facebook/bart-large-cnn", "facebook/bart-large-cnn", None),
        ("hf://a/b@main", "a/b", "main"),
        ("hf://a_b/c.d@refs/pr/1", "a_b/c.d", "refs/pr/1"),
        ("hf://a/b@v1.0", "a/b", "v1.0"),
    ],
)
def test_uri(uri: str, repository: str, revision: str | None) -> None:
    assert hub.parse_uri(uri) == hub.HubUri(repository, revision)
    assert str(hub.parse_uri(uri)) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "hf://",
        "hf://name",
        "hf://a/b/c",
        "hf://a/b@",
        "hf://a/b@../../x",
        "hf://a/b@/x",
        "hf://a/b@x/",
        "hf://../b",
        "hf://a/..",
        "hf://a/b--c",
        "hf://a/b.git",
        "hf://a/b?x=1",
        "hf://a/b@x@y",
        "hf://a/b\n",
        "hf://a/b@main ",
        "hf://ä/b",
        "HF://a/b",
        "a/b",
    ],
)
def test_malformed_uri_is_refused_with_the_form(uri: str) -> None:
    with pytest.raises(PresetError, match=r"expected hf://org/name or hf://org/name@revision"):
        hub.parse_uri(uri)


def test_what_is_meant_as_a_uri() -> None:
    assert not hub.is_hub_uri(3)
    assert not hub.is_hub_uri("org/name")
    assert hub.is_hub_uri("hf://")


def test_bare_name_suggests_the_uri() -> None:
    assert hub.suggest_uri("facebook/bart-base") == "hf://facebook/bart-base"
    for other in ("bart_base_en", "./x/y", "a/b/c", "/a", "a/../b", "hf://a/b", "a b/c"):
        assert hub.suggest_uri(other) is None
