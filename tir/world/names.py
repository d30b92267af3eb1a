"""Names of fictional entities: a noun and a word, such as `village Bor` or `Dr Kim`.

A model of a million parameters can copy a name that it has not seen if every part is one token and follows a frequent
token: here the noun. (With names of two or three syllables, each after another rare one, it still made errors after
twice the training.) Nouns and words make thousands of names. The model would memorise a few hundred instead of learning
to copy.
"""

from __future__ import annotations

from random import Random

from tir.common.errors import ConfigError

WORDS = [initial + vowel + final for initial in "BDFGHJKLMNPRSTVWZ" for vowel in "aeiou" for final in "lmnr"]
FIRST_NAMES = ("Ada Ben Eva Gus Ida Leo Mia Ned Pia Rex Tom Uma Zoe").split()
NOUNS = {
    "city": ("city", "island", "port", "town", "village"),
    "person": ("Dame", "Dr", "Lady", "Lord", "Mr", "Ms", "Prof", "Sir"),
    "work": ("film", "novel", "play", "poem", "song"),
    "company": ("bank", "company", "farm", "inn", "shop"),
}


def unique_names(kind: str, count: int, random: Random) -> list[str]:
    """`count` distinct names of a kind of entity, a key of `NOUNS`, in random order.

    Raises `ConfigError` if nouns and words give fewer names.
    """
    names = [f"{noun} {word}" for noun in NOUNS[kind] for word in WORDS]
    if count > len(names):
        raise ConfigError(
            "the world needs more names than its words give",
            where="world",
            why=f"it needs {count} names for the kind {kind}; nouns and words give {len(names)}",
            remedy="lower world.sft_clusters or the row counts",
        )
    return random.sample(names, count)
