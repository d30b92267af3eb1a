"""Names of fictional entities, composed of syllables of a fixed list.

A model of two million parameters can copy a name that it has not seen only if the name splits into known tokens. So
every name consists of three syllables of this list. There are thousands of names, because the model would memorise a
few hundred instead of learning to copy.
"""

from __future__ import annotations

import re
from random import Random

from tir.common.errors import ConfigError

# The final consonants (l n r x) differ from the initial consonants of LAST (b g j k v z), so that the merges of the
# tokenizer do not cross a syllable boundary.
FIRST = (
    "Bal Bor Dal Dor Fal For Gal Gor Hal Hor Jal Jor Kal Kor Lan Lor Mal Mor Nal Nor "
    "Pal Por Ral Rux Sal Sor Tal Tor Val Vor Wal Zan"
).split()
MIDDLE = "ba bo bu da fa fo fu ga go gu ja jo ju ka ko ku la lo lu ma mo mu pa po pu ta to tu va vo vu za".split()
LAST = (
    "bel ber bex bil bir bix jel jer jex jil jir jix gel ger gex gil gir gix kel kex kil kir kix vel vex vil vix "
    "zel zer zex zil zir"
).split()
FIRST_NAMES = ("Ada Ben Eva Gus Ida Leo Mia Ned Pia Rex Tom Uma Zoe").split()


_NAME = re.compile(rf"\b({'|'.join(FIRST)})({'|'.join(MIDDLE)})({'|'.join(LAST)})(ia)?\b")


def split_syllables(text: str) -> str:
    """`text` with a line break between the syllables of every generated name.

    A tokenizer trained on this text learns no token that crosses a syllable boundary.
    """
    return _NAME.sub(lambda match: "\n".join(part for part in match.groups() if part), text)


def unique_names(count: int, random: Random) -> list[str]:
    """`count` distinct names of three syllables, in random order.

    Raises `ConfigError` if the syllables give fewer names.
    """
    total = len(FIRST) * len(MIDDLE) * len(LAST)
    if count > total:
        raise ConfigError(
            "the world needs more names than its syllables give",
            where="world",
            why=f"it needs {count} names; the syllables give {total}",
            remedy="lower world.sft_clusters or the row counts",
        )
    names = []
    for number in random.sample(range(total), count):
        number, last = divmod(number, len(LAST))
        first, middle = divmod(number, len(MIDDLE))
        names.append(FIRST[first] + MIDDLE[middle] + LAST[last])
    return names
