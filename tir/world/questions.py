"""One-hop and two-hop questions about the world's entities."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from tir.world.entities import Entity, World


@dataclass(frozen=True)
class Hop:
    """One look-up of a fact about an entity.

    Attributes:
        entity: name of the entity, which is also the search query that finds its passage.
        relation: name of the fact.
        value: the fact.
    """

    entity: str
    relation: str
    value: str


@dataclass(frozen=True)
class Question:
    """A question with the look-ups that answer it.

    Attributes:
        text: the question.
        hops: the look-ups in order; the value of the last one is the answer.
        aliases: other accepted spellings of the answer.
    """

    text: str
    hops: tuple[Hop, ...]
    aliases: tuple[str, ...]

    @property
    def answer(self) -> str:
        return self.hops[-1].value

    @property
    def facts(self) -> tuple[tuple[str, str], ...]:
        """The (entity, relation) pairs the question depends on."""
        return tuple((hop.entity, hop.relation) for hop in self.hops)


# relation -> question templates; {e} is the entity's name.
_ONE_HOP = {
    "country": ("What country is {e} in?", "In what country is {e}?"),
    "birthplace": ("Where was {e} born?", "In what place was {e} born?"),
    "author": ("Who made {e}?", "Who is the author of {e}?"),
    "year": ("What year is {e} from?", "In what year was {e} founded?"),
}
_TWO_HOP = {
    ("author", "birthplace"): ("Where was the author of {e} born?",),
    ("birthplace", "country"): ("In what country was {e} born?",),
}


def _mention(entity: Entity) -> str:
    return entity.name if entity.kind == "person" else f"the {entity.name}"


def _hop(entity: Entity, relation: str) -> Hop:
    return Hop(entity.name, relation, entity.facts[relation])


def aliases_of(value: str, relation: str) -> tuple[str, ...]:
    """Other accepted spellings of an answer, depending on its relation."""
    if relation == "country":
        return (f"Republic of {value}", f"{value} Republic")
    if relation in ("birthplace", "author"):
        return (value.split()[-1],)
    return ()


def all_questions(world: World, split: str, hops: int, random: Random) -> list[Question]:
    """All questions of one split with `hops` look-ups, shuffled: one per fact, with a random template."""
    questions = list(_one_hop(world, split, random) if hops == 1 else _two_hop(world, split, random))
    random.shuffle(questions)
    return questions


def _one_hop(world: World, split: str, random: Random) -> Iterator[Question]:
    for entity in world.splits[split]:
        for relation, value in entity.facts.items():
            text = random.choice(_ONE_HOP[relation]).format(e=_mention(entity))
            yield Question(text, (_hop(entity, relation),), aliases_of(value, relation))


def _two_hop(world: World, split: str, random: Random) -> Iterator[Question]:
    for entity in world.splits[split]:
        for (first, second), wordings in _TWO_HOP.items():
            bridge = world.by_name.get(entity.facts.get(first, ""))
            if bridge is not None:
                text = random.choice(wordings).format(e=_mention(entity))
                yield Question(
                    text, (_hop(entity, first), _hop(bridge, second)), aliases_of(bridge.facts[second], second)
                )
