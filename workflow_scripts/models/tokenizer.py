"""Words to token ids, for the embedded model's text encoder."""

import re

import numpy as np

PAD, BOS, UNKNOWN = 0, 1, 2  # the words follow, and the end token comes last: the text model finds it by argmax
WORD = re.compile(r"\w+")


class Tokenizer:
    """A fixed vocabulary of lower-case words; anything else is the unknown token."""

    def __init__(self, words: list[str], max_length: int):
        self.ids = {word: number for number, word in enumerate(words, start=UNKNOWN + 1)}
        self.eos = UNKNOWN + 1 + len(words)
        self.max_length = max_length

    def __len__(self) -> int:
        return self.eos + 1

    def encode(self, texts: list[str]) -> np.ndarray:
        """Token ids, (texts, max_length) int32: start, words, end, padding. Words beyond the length are dropped."""
        tokens = np.full((len(texts), self.max_length), PAD, np.int32)
        for row, text in zip(tokens, texts, strict=True):
            words = WORD.findall(text.lower())[: self.max_length - 2]
            ids = [BOS, *(self.ids.get(word, UNKNOWN) for word in words), self.eos]
            row[: len(ids)] = ids
        return tokens
