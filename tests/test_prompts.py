"""The prompts of a file: what counts as one, and what is refused."""

import pytest

from workflow_scripts.prompts import read_prompts


def test_prompts_are_the_nonblank_lines_of_a_utf8_file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes('\ufeffa "quoted" line\r\n\n  été\t漢字 \nsame\nsame\n'.encode())
    assert read_prompts(path) == ['a "quoted" line', "été\t漢字", "same", "same"]


@pytest.mark.parametrize(
    ("content", "words"), [(b" \n\n", "has no prompt"), (b"\xff\xfe\x00", "not UTF-8"), (None, "cannot read")]
)
def test_a_prompt_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "prompts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_prompts(path)
    assert "\n" not in str(caught.value)


def test_prompts_come_from_the_prompt_or_caption_column_of_a_csv_file(tmp_path):
    path = tmp_path / "captions.CSV"
    path.write_text('\ufeffid,Caption\n1,"a red, ""round"" circle"\n2,\n3,"two\nlines"\n', encoding="utf-8")
    assert read_prompts(path) == ['a red, "round" circle', "two lines"]
    path.write_text("caption,prompt\nno,yes\n")
    assert read_prompts(path) == ["yes"]


@pytest.mark.parametrize(
    ("content", "words"), [("a red circle\nanother\n", "no column prompt or caption"), ("prompt\n", "has no prompt")]
)
def test_a_csv_file_without_prompts_is_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "prompts.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_prompts(path)
    assert "\n" not in str(caught.value)
