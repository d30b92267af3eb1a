"""Names of fictional things, spelled from a fixed inventory of syllables.

A model of two million parameters can only learn to *copy* a name it never saw if unseen names split into the same
pieces as seen ones. So every name is a chain of syllables of one inventory, and there are thousands of names: with a
few hundred the model learns them by heart instead.
"""

from __future__ import annotations

import re
from random import Random

from tir.errors import ConfigError

FIRST = ("Bal Bor Cal Cor Dal Dor Fen Gal Gor Hal Hor Jan Kal Kor Lan Lor Mal Mor Nal Nor "
         "Pal Por Ral Ror Sal Sor Tal Tor Val Vor Wel Zan").split()
MIDDLE = "ba be bi bo da de di do ka ke ki ko la le li lo ma me mi mo na ne ni no ta te ti to va ve vi vo".split()
LAST = ("dar den dis dur kan ken kis kur lan len lis lur man men mis mur nan nen nis nur "
        "ran ren ris rus tan ten tis tur van ven vis vur").split()
GIVEN = ("Ada Ben Cleo Dan Eva Finn Gus Hugo Ida Jack Kate Leo Mia Ned Olga Pia Rex Sara Tom Uma Vera Will Yara Zoe").split()


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
