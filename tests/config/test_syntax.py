"""A config that cannot be read, or not as it is meant: file and line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harpy_core.config.syntax import check_syntax
from harpy_core.errors import InputError


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("cases:\n  a: b: c\n", 2, "is not YAML: mapping values are not allowed here"),
        ("cases:\n\ta:\n", 2, "indent by spaces, not by tabs"),
        ("cases:\n  a: [1, 2\n  b: 3\n", 3, "is not YAML: expected ',' or ']'"),
        ("cases:\n  a: 'it\n", 3, "is not YAML: found unexpected end of stream"),
        ("- a\n", 1, "the config is a mapping"),
        ("", 1, "the config is a mapping"),
        ("cases:\n  a: {}\n  b: {}\n  a: {}\n", 4, "a: is there already, in line 2"),
        ("cases: {a: {c: [{d: 1,\n d: 1}]}}\n", 2, "d: is there already, in line 1"),
    ],
)
def test_what_cannot_be_read_is_told_with_file_and_line(
    tmp_path: Path, text: str, line: int, told: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        check_syntax([file])
    message = str(caught.value)
    assert message.startswith(f"{file}:{line}: ")
    assert told in message
    assert "\n" not in message


def test_what_can_be_read_is_left_alone(tmp_path: Path) -> None:
    texts = [
        "cases:\n  a: {x: 1}\n  b: {x: 1}\n",
        json.dumps({"cases": {"a": 1}}, indent="\t"),
        "__use_yte__: true\n?if True:\n  a: 1\n?if False:\n  a: 2\n?if True:\n  b: 1\n",
    ]
    files = [tmp_path / f"{number}.yaml" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    check_syntax([*files, tmp_path / "nowhere.yaml"])
