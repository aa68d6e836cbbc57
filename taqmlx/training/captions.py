"""Scenes, and captions that describe them.

A scene is a row of small integers (`FIELDS`), so a pool of scenes is one array, and a caption's attributes are stored
with it instead of being parsed from the text. Slot 1 is the left or upper object, slot 2 the right or lower one.
"""

from dataclasses import dataclass

import numpy as np

SHAPES = ("circle", "square", "triangle", "cross", "ring")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "white")
SIZES = ("small", "large")
BACKGROUNDS = ("white", "black", "gray", "pink")
LAYOUTS = ("single", "horizontal", "vertical")
POSITIONS = (
    "at the top left", "at the top", "at the top right",
    "on the left", "in the center", "on the right",
    "at the bottom left", "at the bottom", "at the bottom right",
)  # fmt: skip
RELATIONS = {"horizontal": ("left of", "right of"), "vertical": ("above", "below")}
SPELLINGS = {"small": ("small", "little"), "large": ("large", "big"), "gray": ("gray", "grey")}

# Number of values of each field; also the sizes of the classifier's heads.
FIELDS = {
    "count": 2, "background": len(BACKGROUNDS), "layout": len(LAYOUTS), "position": len(POSITIONS),
    "shape_1": len(SHAPES), "colour_1": len(COLOURS), "size_1": len(SIZES),
    "shape_2": len(SHAPES), "colour_2": len(COLOURS), "size_2": len(SIZES),
}  # fmt: skip
ABSENT = -1  # value of a field that does not apply, or that a caption does not mention
OMIT = {"background": 0.2, "position": 0.3, "colour": 0.1, "size": 0.25}  # probability of omitting the attribute
HELD_OUT_PERIOD = 16  # one in this many attribute combinations is held out for scoring


@dataclass(frozen=True)
class Caption:
    """A sentence, and the scene row (`FIELDS` order) it describes; `ABSENT` for attributes it does not mention."""

    text: str
    asked: tuple[int, ...]


def is_held_out(scene: dict[str, int]) -> bool:
    """True if this combination of attributes is reserved for scoring (a fixed mixing hash of the row)."""
    code = 0
    for name, size in FIELDS.items():
        code = code * (size + 1) + scene[name] + 1
    return (code * 2654435761 % 2**32 >> 16) % HELD_OUT_PERIOD == 0


def sample_scene(rng: np.random.Generator, count: int, held_out: bool = False) -> dict[str, int]:
    """Draw a scene with `count` (1 or 2) objects, uniform over the admissible combinations of one side of the split.

    An object never has the colour of the background, and the two objects of a scene differ in shape or colour.
    """
    while True:
        scene = {name: int(rng.integers(size)) for name, size in FIELDS.items()}
        scene["count"] = count - 1
        if count == 1:
            scene |= {"layout": 0, "shape_2": ABSENT, "colour_2": ABSENT, "size_2": ABSENT}
        else:
            scene |= {"layout": int(rng.integers(1, 3)), "position": ABSENT}
        if _is_admissible(scene) and is_held_out(scene) == held_out:
            return scene


def _is_admissible(scene: dict[str, int]) -> bool:
    background = BACKGROUNDS[scene["background"]]
    visible = all(
        scene[f"colour_{slot}"] == ABSENT or COLOURS[scene[f"colour_{slot}"]] != background for slot in (1, 2)
    )
    twins = (scene["shape_1"], scene["colour_1"]) == (scene["shape_2"], scene["colour_2"])
    return visible and not twins


def write_caption(rng: np.random.Generator, scene: dict[str, int], omit: dict[str, float] = OMIT) -> Caption:
    """Write one of the captions of `scene`; `omit` is the probability of omitting each kind of attribute."""
    asked = dict(scene)
    for name in ("background", "position", "colour_1", "size_1", "colour_2", "size_2"):
        if rng.random() < omit.get(name.split("_")[0], 0.0):
            asked[name] = ABSENT
    words = [_name_object(rng, asked, 1)]
    if scene["count"] == 1:
        words = _join_objects(rng, words[0], _name_object(rng, asked, 2), LAYOUTS[scene["layout"]])
    elif asked["position"] != ABSENT:
        words.append(POSITIONS[asked["position"]])
    if asked["background"] != ABSENT:
        words.append(f"on a {_spell(rng, BACKGROUNDS[asked['background']])} background")
    return Caption(" ".join(words), tuple(asked.values()))


def _name_object(rng: np.random.Generator, asked: dict[str, int], slot: int) -> str:
    tables = (("size", SIZES), ("colour", COLOURS), ("shape", SHAPES))
    values = [(table, asked[f"{kind}_{slot}"]) for kind, table in tables]
    words = " ".join(_spell(rng, table[value]) for table, value in values if value != ABSENT)
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _join_objects(rng: np.random.Generator, first: str, second: str, layout: str) -> list[str]:
    forward, backward = RELATIONS[layout]
    lead = "to the " if layout == "horizontal" and rng.random() < 0.3 else ""
    return [first, lead + forward, second] if rng.random() < 0.5 else [second, lead + backward, first]


def _spell(rng: np.random.Generator, word: str) -> str:
    """Return the first spelling of `word` in most cases, sometimes one of the others."""
    spellings = SPELLINGS.get(word, (word,))
    return spellings[0] if rng.random() < 0.7 else spellings[int(rng.integers(len(spellings)))]


def list_words() -> list[str]:
    """Every word that can occur in a caption, sorted: the tokenizer's vocabulary."""
    tables = (SHAPES, COLOURS, SIZES, BACKGROUNDS, POSITIONS, *RELATIONS.values(), *SPELLINGS.values())
    phrases = [phrase for table in tables for phrase in table] + ["a", "an", "on a background", "to the"]
    return sorted({word for phrase in phrases for word in phrase.split()})
