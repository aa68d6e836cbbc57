"""A byte-pair vocabulary for CLIP and a sentencepiece vocabulary for T5, built from a few words."""

import io
import string

import sentencepiece

SENTENCE = "a red blue green circle square triangle on of the left right small large photo tabby cat sitting table"
WORDS = SENTENCE.split()
START, END = "<|startoftext|>", "<|endoftext|>"


def make_byte_pairs():
    """`vocab.json` as a dictionary, and the lines of `merges.txt`; every word above is one token."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    tokens, merges = [*letters, *(f"{letter}</w>" for letter in letters)], []
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        for end in range(1, len(parts)):
            pair = "".join(parts[:end]), parts[end]
            if pair not in merges:
                merges.append(pair)
                tokens.append("".join(pair))
    tokens = [*dict.fromkeys(tokens), START, END]  # the end token last: CLIP finds it by its number
    return {token: number for number, token in enumerate(tokens)}, ["#version: 0.2", *map(" ".join, merges)]


def make_sentence_pieces():
    """The bytes of `spiece.model`, with T5's special tokens where T5 has them."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))]),
        model_writer=model,
        vocab_size=80,
        model_type="unigram",
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return model.getvalue()
