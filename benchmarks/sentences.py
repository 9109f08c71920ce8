"""Sentences that Debian's wordnet-base and fortunes bring along: definitions of WordNet, and fortune cookies.

What is evaluated on are definitions of nouns and adjectives; what calibrates are definitions of verbs and cookies, so
that the two differ in kind as well.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

WORDNET = Path("/usr/share/wordnet")
FORTUNES = Path("/usr/share/games/fortunes")
EVALUATED = ("noun", "adj")
CALIBRATING = ("verb",)
COOKIES = ("science", "wisdom")
SHORTEST = 25
"""Letters; what is shorter is hardly a sentence."""


def definition(line: str) -> str:
    """Give the definition of one line of a data file of WordNet (wndb(5WN)), without its examples.

    >>> definition('00001740 29 v 01 sigh 0 000 | heave or utter a sigh; breathe deeply; "She sighed sadly"  ')
    'heave or utter a sigh; breathe deeply'
    """
    return line.partition(" | ")[2].partition('; "')[0].strip()


def cookies(text: str) -> list[str]:
    """Split a file of fortune cookies at its lines of "%", and join the lines of each cookie.

    >>> cookies("to be or\\n\\tnot\\n%\\nthat is the question\\n%\\n")
    ['to be or not', 'that is the question']
    """
    return [" ".join(part.split()) for part in text.split("\n%\n") if part.strip()]


def drawn(sentences: Iterable[str], count: int, seed: int = 0) -> list[str]:
    """Draw different sentences of at least SHORTEST letters; the same for the same sentences and seed.

    Raises ValueError where there are fewer.
    """
    distinct = sorted({sentence for sentence in sentences if len(sentence) >= SHORTEST})
    if len(distinct) < count:
        raise ValueError(f"{count} sentences are asked for and there are {len(distinct)}; ask for fewer")
    return [distinct[i] for i in np.random.default_rng(seed).permutation(len(distinct))[:count]]


def wordnet(parts: Iterable[str]) -> list[str]:
    """Definitions of parts of speech. Raises FileNotFoundError that names the package."""
    return [
        definition(line)
        for part in parts
        for line in _read(WORDNET / f"data.{part}", "wordnet-base").splitlines()
        if not line.startswith("  ")  # the licence
    ]


def _read(path: Path, package: str) -> str:
    if not path.exists():
        raise FileNotFoundError(f"there is no {path}; apt-get install {package} brings it")
    return path.read_text("utf-8")


def evaluation(count: int = 5000) -> list[str]:
    """Definitions of nouns and adjectives, in random order."""
    return drawn(set(wordnet(EVALUATED)) - set(wordnet(CALIBRATING)), count)


def calibration(count: int = 512) -> list[str]:
    """Definitions of verbs and fortune cookies, half of each (the larger half of verbs), in turns."""
    verbs = drawn(wordnet(CALIBRATING), count - count // 2)
    others = drawn([each for name in COOKIES for each in cookies(_read(FORTUNES / name, "fortunes"))], count // 2)
    return [*(each for pair in zip(verbs, others, strict=False) for each in pair), *verbs[len(others) :]]
