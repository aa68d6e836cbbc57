"""Prompt files: supported formats, the prompts in them, and rejections by line."""

import csv
import json

import pytest

from taqmlx.planning.prompts import read_prompts


@pytest.fixture
def read(tmp_path):
    """read(name, text): the prompts of a file of that name."""

    def call(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_prompts(path)

    return call


@pytest.fixture
def refuse(read):
    """reject(name, text): the one line that rejects it."""

    def call(name, text):
        with pytest.raises(ValueError, match=r"^prompts: [^\n]+$") as caught:
            read(name, text)
        return str(caught.value)

    return call


def test_prompts_are_the_nonblank_lines_of_a_utf8_file(read):
    text = '\ufeffa "quoted" line\r\n\n  été\t漢字 \nsame\nsame\n'
    assert read("prompts.txt", text) == ['a "quoted" line', "été\t漢字", "same", "same"]


@pytest.mark.parametrize(("content", "words"), [(b" \n\n", "has no prompt"), (b"\xff\xfe\x00", "not UTF-8")])
def test_a_prompt_file_that_cannot_be_used_is_rejected_in_one_line(refuse, content, words):
    assert words in refuse("prompts.txt", content)


class TestPlaces:
    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ValueError, match=r"cannot read .*x\.txt \(No such file or directory\); name a file"):
            read_prompts(tmp_path / "x.txt")

    def test_a_broken_link_is_distinguished_from_a_missing_file(self, tmp_path):
        (tmp_path / "x.txt").symlink_to("/mnt/disk/x.txt")
        with pytest.raises(ValueError, match=r"x\.txt is a link to /mnt/disk/x\.txt, which cannot be reached"):
            read_prompts(tmp_path / "x.txt")

    def test_a_folder_is_rejected(self, tmp_path):
        with pytest.raises(ValueError, match="it is not a regular file"):
            read_prompts(tmp_path)

    def test_a_path_through_a_file_is_named(self, tmp_path):
        (tmp_path / "x").touch()
        with pytest.raises(ValueError, match=r"\(.*/x is not a folder\)"):
            read_prompts(tmp_path / "x" / "y.txt")


class TestTables:
    def test_prompts_are_in_the_prompt_or_caption_column(self, read):
        text = '\ufeffid,Caption\n1,"a red, ""round"" circle"\n2,\n3,"two\nlines"\n'
        assert read("captions.CSV", text) == ['a red, "round" circle', "two lines"]
        assert read("x.csv", "caption,prompt\nno,yes\n") == ["yes"]

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    def test_the_delimiter_is_that_of_the_first_row(self, read, delimiter):
        rows = [["id", "Prompt"], ["1", "a red circle"], ["2", "a, b; c\td"]]
        text = "".join(delimiter.join(f'"{cell}"' if len(cell) > 6 else cell for cell in row) + "\n" for row in rows)
        assert read("x.csv", text) == ["a red circle", "a, b; c d"]

    def test_the_parti_prompts_table_is_accepted(self, read):
        text = (
            "Prompt\tCategory\tChallenge\tNote\n"
            "bond\tAbstract\tBasic\tBiology-inspired concepts with multiple meanings\n"
            "peace\tAbstract\tBasic\t\n"
            'a sign that says "Deep Learning".\tArts\tComplex\t\n'
            '"G I G G L E" painted in thick letters\tIllustrations\tWriting & Symbols\t\n'
        )
        assert read("PartiPrompts.tsv", text) == [
            "bond",
            "peace",
            'a sign that says "Deep Learning".',
            '"G I G G L E" painted in thick letters',
        ]

    def test_quotes_enclose_a_cell_with_a_tab(self, read):
        assert read("x.tsv", 'prompt\tnote\n"a red\tcircle"\tx\n') == ["a red circle"]

    def test_ambiguous_quotes_are_rejected(self, refuse):
        line = refuse("x.tsv", 'prompt\tnote\nhello\tx\n"hello"\tx\n')
        assert line.endswith("line 3: quotes around a cell may belong to it or not; save the table as CSV")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            (
                "prompt\na red circle, left of a blue square\n",
                "line 2 has 2 cells and the first row 1; put a cell with",
            ),
            (
                "id,prompt\n1,ok\n2,a red circle, left\n",
                "line 3 has 3 cells and the first row 2; put a cell with a com",
            ),
            ("id,prompt\n1,ok\na red circle\n", "line 3 has 1 cell and the first row 2; add the missing ones"),
            ('id,prompt\n1,ok\n2,"a red circle\n3,b\n4,c\n', "line 3 begins a row that does not end"),
            ('id,prompt\n1,ok\n2,"a red circle\n3,b\n4,c"\n', "line 3: a quote opens a cell that continues to line 5"),
            ('prompt\n"a red circle\nb"\n', "line 2: a quote opens a cell that continues to line 3"),
            ('prompt\n"Hello" said the cat\n', "line 2 begins a row that does not end"),
            ("prompt,Prompt \na,b\n", "the first row has 2 columns prompt; rename all but one"),
            ("a red circle\nanother\n", "the first row has no column prompt or caption; rename one to prompt"),
            ("prompt\n", "has no prompt"),
            ("", "has no row with a column prompt or caption"),
        ],
    )
    def test_a_malformed_row_is_rejected_by_its_line(self, refuse, text, words):
        assert words in refuse("prompts.csv", text)

    def test_a_row_of_a_megabyte_is_rejected_by_its_line(self, refuse):
        assert "line 2 begins a row that does not end" in refuse("x.csv", "prompt\n" + "x" * 1_000_000 + "\n")

    def test_no_prompt_of_a_table_is_lost(self, read, tmp_path):
        prompts = ['a, "b"', "c;d", "'e'", '"', "f"]
        with (tmp_path / "y.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["prompt", "note"], *([prompt, "x"] for prompt in prompts)])
        assert read("x.csv", (tmp_path / "y.csv").read_bytes()) == prompts


class TestJson:
    @pytest.mark.parametrize("key", ["prompt", "Prompt", "caption", "text"])
    def test_lists_of_strings_and_of_objects_are_accepted(self, read, key):
        objects = [{"id": 1, key: "a red, round circle"}, {key: "two\nlines"}]
        assert read("x.json", json.dumps(["a", "", " b "])) == ["a", "b"]
        assert read("x.json", json.dumps(objects)) == ["a red, round circle", "two lines"]

    @pytest.mark.parametrize("name", ["x.jsonl", "x.ndjson", "x.json"])
    def test_json_lines_are_accepted_under_both_suffixes(self, read, name):
        assert read(name, '{"tag": "one", "prompt": "a"}\n\n{"prompt": "b"}\n') == ["a", "b"]

    def test_the_key_prompt_has_priority(self, read):
        assert read("x.json", '[{"text": "no", "prompt": "yes"}]') == ["yes"]

    @pytest.mark.parametrize(
        ("name", "text", "words"),
        [
            ("x.json", "[", "it is not JSON ("),
            ("x.json", "a red circle\n", "it is not JSON ("),
            ("x.json", '["a", 3]', "item 2 is neither a text"),
            ("x.json", '["a", null]', "item 2 is neither a text"),
            ("x.json", '[{"prompt": ["a", "b"]}]', "item 1 is neither a text"),
            ("x.json", '["a", {"id": 1}]', "item 2 has no key prompt or caption"),
            ("x.json", '[{"prompt": "a", "Prompt": "b"}]', "item 1 has 2 keys prompt"),
            ("x.json", '[{"prompt": "a", "prompt": "b"}]', "it has a duplicate key"),
            ("x.jsonl", '"a"\n{"prompt": "b"\n', "line 2 is not JSON"),
            ("x.jsonl", '"a"\n[]\n', "line 2 is neither a text"),
            ("x.json", "[]", "has no prompt"),
        ],
    )
    def test_an_item_without_a_prompt_is_rejected_by_its_position(self, refuse, name, text, words):
        assert words in refuse(name, text)


class TestOtherNames:
    @pytest.mark.parametrize(
        ("text", "suffix"),
        [
            ("Prompt\tCategory\na\tb\n", ".tsv"),
            ("id,prompt\n1,a\n", ".csv"),
            ("prompt\na\n", ".tsv"),
            ('["a",\n "b"]\n', ".json"),
            ('{"prompt": "a"}\n{"prompt": "b"}\n', ".jsonl"),
        ],
    )
    def test_tables_and_json_with_a_text_suffix_are_rejected_with_the_correct_suffix(self, refuse, text, suffix):
        assert f"rename it to prompts{suffix}" in refuse("prompts.txt", text)

    @pytest.mark.parametrize("text", ["[a] red circle\n", "{a} red circle\n", "neon sign, text, dark\n", "42\n"])
    def test_prompts_that_look_like_another_format_are_accepted(self, read, text):
        assert read("prompts.txt", text) == [text.strip()]

    @pytest.mark.parametrize("name", ["x.yaml", "x.md", "x.parquet", "x.XLSX"])
    def test_unsupported_formats_are_rejected_by_name(self, refuse, name):
        assert "has an unsupported format; save it as one prompt per line (.txt)" in refuse(name, "- a red circle\n")
