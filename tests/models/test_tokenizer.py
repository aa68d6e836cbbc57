"""Any sentence becomes a row of tokens that the text model accepts."""

import numpy as np
import pytest

from taqmlx.models.embedded import TEXT_ENCODER, load_tokenizer
from taqmlx.models.tokenizer import BOS, PAD, UNKNOWN, Tokenizer
from taqmlx.training.captions import list_words

WORDS = ["a", "circle", "red"]


def encode(text: str) -> list[int]:
    return Tokenizer(WORDS, 8).encode([text])[0].tolist()


def test_words_are_between_the_start_and_end_tokens():
    assert encode("a red circle") == [BOS, 3, 5, 4, 6, PAD, PAD, PAD]


def test_case_and_punctuation_do_not_matter():
    assert encode("A RED, circle!") == encode("a red circle")


def test_unknown_words_keep_their_position():
    assert encode("a zebra circle") == [BOS, 3, UNKNOWN, 4, 6, PAD, PAD, PAD]


def test_an_empty_sentence_has_only_the_start_and_end_tokens():
    assert encode("") == [BOS, 6] + 6 * [PAD]


def test_a_long_sentence_is_truncated_before_the_end_token():
    assert encode("red " * 50) == [BOS] + 6 * [5] + [6]


def test_dropped_text_is_counted_by_prompt():
    tokenizer = Tokenizer(WORDS, 8)
    assert tokenizer.describe_dropped(["a red circle", "RED, circle!", ""]) == []
    assert tokenizer.describe_dropped(["red " * 720, "a zebra and a zebra", "a red circle"]) == [
        "beyond the 6 words of the text encoder in 1 of 3 prompts (up to 720)",
        "unknown words in 1 of 3 prompts (and, zebra)",
    ]


def test_a_truncated_word_is_not_counted_as_unknown():
    (phrase,) = Tokenizer(WORDS, 8).describe_dropped(["red " * 6 + "zebra"])
    assert phrase == "beyond the 6 words of the text encoder in 1 of 1 prompts (up to 7)"


def test_only_some_of_many_unknown_words_are_listed():
    (phrase,) = Tokenizer(WORDS, 20).describe_dropped(["f e d c b g h"])
    assert phrase == "unknown words in 1 of 1 prompts (b, c, d, e, f, ...)"


@pytest.mark.parametrize("text", ["", "ein roter Kreis über Grün", "红色的圆", "\x00\n\t", "a" * 10_000, "red " * 1000])
def test_the_end_token_has_the_highest_id_of_every_row(text):
    tokenizer = load_tokenizer()
    row = tokenizer.encode([text])[0]
    assert row.shape == (TEXT_ENCODER["max_length"],)
    assert row.max() == tokenizer.eos == len(tokenizer) - 1
    assert (row[np.argmax(row) + 1 :] == PAD).all()


def test_the_vocabulary_covers_the_captions():
    assert set(list_words()) == set(load_tokenizer().ids)
