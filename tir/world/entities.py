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

from tir.world.names import WORDS, unique_names

if TYPE_CHECKING:
    from tir.config.world import WorldSettings

QA_BENCHMARKS = ("hotpotqa", "2wiki", "bamboogle", "musique")
SPLITS = ("sft", "rl_train", "rl_validation", *QA_BENCHMARKS)
# No digit twice, as in the problems.
YEARS = [str(year) for year in range(1801, 2000) if len(set(str(year))) == 4]


@dataclass
class Entity:
    """A fictional entity with a passage.

    Attributes:
        name: its title, unique in the world: a noun and a word.
        kind: city, person, work or company.
        facts: relation -> value; the value of a relation to an entity is that entity's name.
    """

    name: str
    kind: str
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


def _split(clusters: int, names: dict[str, Iterator[str]], countries: list[str], random: Random) -> list[Entity]:
    """Entities of one split. Each has one fact: a small model then learns early to copy it from the passage."""
    cities = [Entity(next(names["city"]), "city", {"country": random.choice(countries)}) for _ in range(clusters)]
    people = [
        Entity(next(names["person"]), "person", {"birthplace": random.choice(cities).name}) for _ in range(2 * clusters)
    ]
    works = [Entity(next(names["work"]), "work", {"author": random.choice(people).name}) for _ in range(clusters)]
    companies = [Entity(next(names["company"]), "company", {"year": random.choice(YEARS)}) for _ in range(clusters)]
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
    counts = {"city": total, "person": 2 * total, "work": total, "company": total}
    names = {kind: iter(unique_names(kind, count, random)) for kind, count in counts.items()}
    countries = random.sample(WORDS, settings.countries)
    splits = {split: _split(clusters(settings, split), names, countries, random) for split in SPLITS}
    by_name = {entity.name: entity for entities in splits.values() for entity in entities}
    return World(settings, splits, by_name)


# The name is in the title and again in the text: an encoder then finds the short passage by its name more often.
_SENTENCES = {
    "city": "{name} is in {country}.",
    "person": "{name} is from {birthplace}.",
    "work": "{name} is by {author}.",
    "company": "{name} dates to {year}.",
}


def passage_text(entity: Entity) -> str:
    r"""The entity's passage in FlashRAG's `contents` format: the quoted title, a line break, the text."""
    return f'"{entity.name}"\n{_SENTENCES[entity.kind].format(name=entity.name, **entity.facts)}'


def passages(world: World) -> list[dict]:
    """Corpus rows `{"id", "contents"}`, shuffled, ids counting from 0 in file order (FlashRAG's JSONL format)."""
    texts = [passage_text(entity) for entity in world.entities()]
    Random(f"corpus:{world.settings.seed}").shuffle(texts)
    return [{"id": str(number), "contents": text} for number, text in enumerate(texts)]
