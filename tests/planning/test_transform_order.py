"""The order of the parts of the method is that of the stages, and the documents show it."""

from pathlib import Path

from taqmlx.planning.configuration import load_schema
from taqmlx.planning.stages import PARAMETERS
from taqmlx.planning.transform_order import ORDER


def test_parts_follow_the_order_of_their_stages():
    places = [list(PARAMETERS).index(part.stage) for part in ORDER]
    assert places == sorted(places)


def test_a_part_is_asked_for_by_a_key():
    assert {part.key for part in ORDER} <= load_schema()["properties"].keys()


def test_the_documents_show_the_order():
    text = Path("docs/how_it_works.md").read_text(encoding="utf-8")
    rows = [f"| {part.name} | `{part.stage}` | `{part.key}` | {part.makes} |" for part in ORDER]
    assert "\n".join(rows) in text
