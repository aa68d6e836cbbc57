"""Word tokenizer of the embedded model's text encoder."""

import re

import numpy as np

PAD, BOS, UNKNOWN = 0, 1, 2  # followed by the words, then the end token: the text encoder finds it by argmax
WORD = re.compile(r"\w+")
SHOWN = 5  # unknown words shown


class Tokenizer:
    """Fixed vocabulary of lower-case words; all other words map to the unknown token."""

    def __init__(self, words: list[str], max_length: int):
        self.ids = {word: number for number, word in enumerate(words, start=UNKNOWN + 1)}
        self.eos = UNKNOWN + 1 + len(words)
        self.max_length = max_length

    def __len__(self) -> int:
        return self.eos + 1

    def encode(self, texts: list[str]) -> np.ndarray:
        """Token ids, (texts, max_length) int32: start, words, end, padding. Excess words are dropped."""
        tokens = np.full((len(texts), self.max_length), PAD, np.int32)
        for row, text in zip(tokens, texts, strict=True):
            words = WORD.findall(text.lower())[: self.max_length - 2]
            ids = [BOS, *(self.ids.get(word, UNKNOWN) for word in words), self.eos]
            row[: len(ids)] = ids
        return tokens

    def describe_dropped(self, texts: list[str]) -> list[str]:
        """Phrases with counts: texts with too many words, and texts with unknown words among those encoded."""
        limit = self.max_length - 2
        words = [WORD.findall(text.lower()) for text in texts]
        unknown = [[word for word in found[:limit] if word not in self.ids] for found in words]
        phrases = describe_cut([len(found) for found in words], limit, "words of the text encoder")
        if count := sum(map(bool, unknown)):
            several = sorted({word for found in unknown for word in found})
            shown = ", ".join(several[:SHOWN]) + (", ..." if several[SHOWN:] else "")
            phrases.append(f"unknown words in {count} of {len(texts)} prompts ({shown})")
        return phrases


def describe_cut(lengths: list[int], limit: int, unit: str) -> list[str]:
    """Phrase with the number of texts longer than `limit`, if there are any; lengths: length of each text."""
    count = sum(length > limit for length in lengths)
    return [f"beyond the {limit} {unit} in {count} of {len(lengths)} prompts (up to {max(lengths)})"] if count else []
