"""Entities, their facts, and the passages that state these facts.

The world consists of *clusters*: a city, two people, a work and a company. Every entity belongs to one split, and its
facts refer only to entities of that split. (Countries, rivers and occupations are values, not entities with passages.)
So a training question never needs a fact that a validation or benchmark question needs, not even as its first hop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from tir.world.names import FIRST_NAMES, unique_names

if TYPE_CHECKING:
    from tir.config.world import WorldSettings

QA_BENCHMARKS = ("hotpotqa", "2wiki", "bamboogle", "musique")
SPLITS = ("sft", "rl_train", "rl_validation", *QA_BENCHMARKS)
WORK_KINDS = ("novel", "film", "song")
OCCUPATIONS = "actor baker cook farmer judge miner nurse pilot poet singer".split()


@dataclass
class Entity:
    """A fictional entity with a passage.

    Attributes:
        name: its title, unique in the world.
        kind: city, person, work or company.
        noun: the noun before its name in questions (novel, company, ...); empty for people and cities.
        facts: relation -> value; the value of a relation to an entity is that entity's name.
    """

    name: str
    kind: str
    noun: str = ""
    facts: dict[str, str] = field(default_factory=dict)


@dataclass
class World:
    """Entities by split and by name."""

    settings: WorldSettings
    splits: dict[str, list[Entity]]
    by_name: dict[str, Entity]

    def entities(self) -> Iterator[Entity]:
        for split in SPLITS:
            yield from self.splits[split]


def _split(
    clusters: int, names: Iterator[str], countries: list[str], rivers: list[str], random: Random
) -> list[Entity]:
    """Entities of one split. Facts are independent: a company's seat does not depend on its founder's birthplace."""
    cities = [
        Entity(next(names), "city", facts={"country": random.choice(countries), "river": random.choice(rivers)})
        for _ in range(clusters)
    ]
    people = [
        Entity(
            f"{random.choice(FIRST_NAMES)} {next(names)}",
            "person",
            facts={"birthplace": random.choice(cities).name, "occupation": random.choice(OCCUPATIONS)},
        )
        for _ in range(2 * clusters)
    ]
    works = [
        Entity(
            next(names),
            "work",
            noun=random.choice(WORK_KINDS),
            facts={"author": person.name, "year": str(random.randint(1801, 1999))},
        )
        for person in people[:clusters]
    ]
    companies = [
        Entity(
            next(names), "company", noun="company", facts={"founder": person.name, "seat": random.choice(cities).name}
        )
        for person in people[clusters:]
    ]
    return [*cities, *people, *works, *companies]


def clusters(settings: WorldSettings, split: str) -> int:
    """Number of clusters of a split. A cluster gives five or more questions about different facts."""
    if split == "sft":
        return settings.sft_clusters
    rows = {"rl_train": settings.rl_train_rows // 2, "rl_validation": settings.rl_validation_rows // 2}
    return max(4, rows.get(split, settings.benchmark_rows) // 3 + 1)


def build_world(settings: WorldSettings) -> World:
    """Generate the world; the same settings give the same world on every machine."""
    random = Random(f"world:{settings.seed}")
    total = sum(clusters(settings, split) for split in SPLITS)
    unused = unique_names(5 * total + settings.countries + 40, random)
    rivers, countries = unused[:40], [name + "ia" for name in unused[40 : 40 + settings.countries]]
    names = iter(unused[40 + settings.countries :])
    splits = {split: _split(clusters(settings, split), names, countries, rivers, random) for split in SPLITS}
    by_name = {entity.name: entity for entities in splits.values() for entity in entities}
    return World(settings, splits, by_name)


# The name is in the title and again in the text: an encoder then finds the short passage by its name more often.
_SENTENCES = {
    "city": "{name} is a city in {country} on the river {river}.",
    "person": "{name} is a {occupation} born in {birthplace}.",
    "work": "{name} is a {noun} by {author} from {year}.",
    "company": "{name} is a company of {founder} based in {seat}.",
}


def passage_text(entity: Entity) -> str:
    r"""The entity's passage in FlashRAG's `contents` format: the quoted title, a line break, the text."""
    text = _SENTENCES[entity.kind].format(name=entity.name, noun=entity.noun, **entity.facts)
    return f'"{entity.name}"\n{text}'


def passages(world: World) -> list[dict]:
    """Corpus rows `{"id", "contents"}`, shuffled, ids counting from 0 in file order (FlashRAG's JSONL format)."""
    texts = [passage_text(entity) for entity in world.entities()]
    Random(f"corpus:{world.settings.seed}").shuffle(texts)
    return [{"id": str(number), "contents": text} for number, text in enumerate(texts)]
