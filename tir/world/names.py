"""Names of fictional things, spelled from a fixed inventory of syllables.

A model of two million parameters can only learn to *copy* a name it never saw if unseen names split into the same
pieces as seen ones. So every name is a chain of syllables of one inventory, and there are thousands of names: with a
few hundred the model learns them by heart instead.
"""

from __future__ import annotations

import re
from random import Random

from tir.errors import ConfigError

# Codas (l n r x) differ from the onsets that follow a vowel (b g j k v z), so that no merge reaches over a boundary.
FIRST = ("Bal Bor Dal Dor Fal For Gal Gor Hal Hor Jal Jor Kal Kor Lan Lor Mal Mor Nal Nor "
         "Pal Por Ral Rux Sal Sor Tal Tor Val Vor Wal Zan").split()
MIDDLE = "ba bo bu da fa fo fu ga go gu ja jo ju ka ko ku la lo lu ma mo mu pa po pu ta to tu va vo vu za".split()
LAST = ("bel ber bex bil bir bix jel jer jex jil jir jix gel ger gex gil gir gix kel kex kil kir kix vel vex vil vix "
        "zel zer zex zil zir").split()
GIVEN = ("Ada Ben Eva Gus Ida Leo Mia Ned Pia Rex Tom Uma Zoe").split()


_SPELLED = re.compile(rf"\b({'|'.join(FIRST)})({'|'.join(MIDDLE)})({'|'.join(LAST)})(ia)?\b")


def syllables_apart(text: str) -> str:
    """`text` with every generated name broken into its syllables, one a line.

    A tokenizer trained on this learns the syllables and nothing across them, so every name splits at its syllables.
    """
    return _SPELLED.sub(lambda match: "\n".join(part for part in match.groups() if part), text)


def unique_names(count: int, random: Random) -> list[str]:
    """`count` distinct names of three syllables, in random order.

    Raises `ConfigError` if the inventory holds fewer.
    """
    total = len(FIRST) * len(MIDDLE) * len(LAST)
    if count > total:
        raise ConfigError("the world needs more names than its syllables spell", where="world",
                          why=f"{count} names, {total} spellings", remedy="lower world.sft_clusters or the row counts")
    names = []
    for number in random.sample(range(total), count):
        number, last = divmod(number, len(LAST))
        first, middle = divmod(number, len(MIDDLE))
        names.append(FIRST[first] + MIDDLE[middle] + LAST[last])
    return names
