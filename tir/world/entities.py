"""Entities, their relations, and the passages that state them.

The world is made of *clusters*: a city, two people, a work and a company. Every entity belongs to one split and refers
only to entities of its split (countries, rivers and occupations are values, not entities with passages), so a fact that
training asks about, directly or as the first hop of two, is never asked by validation or by a benchmark.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from tir.world.names import GIVEN, unique_names

QA_BENCHMARKS = ("hotpotqa", "2wiki", "bamboogle", "musique")
SPLITS = ("sft", "rl_train", "rl_validation", *QA_BENCHMARKS)
WORK_KINDS = ("novel", "film", "song")
OCCUPATIONS = "actor baker cook farmer judge miner nurse pilot poet singer".split()


@dataclass(frozen=True)
class WorldSettings:
    """Size of the world.

    Attributes:
        seed: seed of everything in the world.
        sft_clusters: clusters (five entities each) that supervised trajectories ask about.
        rl_train_rows: rows of the RL training file, half math and half QA.
        rl_validation_rows: rows of the RL validation file, half math and half QA.
        benchmark_rows: rows of each of the eight benchmarks.
        countries: distinct countries.
    """

    seed: int = 0
    sft_clusters: int = 500
    rl_train_rows: int = 512
    rl_validation_rows: int = 64
    benchmark_rows: int = 40
    countries: int = 60

    def clusters(self, split: str) -> int:
        """Clusters of a split: enough for its questions to be about distinct facts (a cluster answers five or more)."""
        rows = {"rl_train": self.rl_train_rows // 2, "rl_validation": self.rl_validation_rows // 2}
        return self.sft_clusters if split == "sft" else max(4, rows.get(split, self.benchmark_rows) // 3 + 1)


@dataclass
class Entity:
    """A thing with a passage.

    Attributes:
        name: its title, unique in the world.
        kind: city, person, work or company.
        noun: the word a question calls it by (novel, company, ...); empty for people and cities.
        facts: relation name -> value, a string; for relations to entities the other entity's name.
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


def _split(clusters: int, names: Iterator[str], countries: list[str], rivers: list[str], random: Random) -> list[Entity]:
    """Entities of one split. Relations are drawn across it: a company's seat says nothing of its founder's birthplace."""
    cities = [Entity(next(names), "city", facts={"country": random.choice(countries), "river": random.choice(rivers)})
              for _ in range(clusters)]
    people = [Entity(f"{random.choice(GIVEN)} {next(names)}", "person",
                     facts={"birthplace": random.choice(cities).name, "occupation": random.choice(OCCUPATIONS)})
              for _ in range(2 * clusters)]
    works = [Entity(next(names), "work", noun=random.choice(WORK_KINDS),
                    facts={"author": person.name, "year": str(random.randint(1801, 1999))}) for person in people[:clusters]]
    companies = [Entity(next(names), "company", noun="company",
                        facts={"founder": person.name, "seat": random.choice(cities).name}) for person in people[clusters:]]
    return [*cities, *people, *works, *companies]


def build_world(settings: WorldSettings) -> World:
    """The world of a seed; the same settings give the same world on every machine."""
    random = Random(f"world:{settings.seed}")
    total = sum(settings.clusters(split) for split in SPLITS)
    spelled = unique_names(5 * total + settings.countries + 40, random)
    rivers, countries = spelled[:40], [name + "ia" for name in spelled[40 : 40 + settings.countries]]
    names = iter(spelled[40 + settings.countries :])
    splits = {split: _split(settings.clusters(split), names, countries, rivers, random) for split in SPLITS}
    by_name = {entity.name: entity for entities in splits.values() for entity in entities}
    return World(settings, splits, by_name)


# The text names its subject again: an encoder finds a short passage by its name far more surely when it stands twice.
_SENTENCES = {
    "city": "{name} is a city in {country} on the river {river}.",
    "person": "{name} is a {occupation} born in {birthplace}.",
    "work": "{name} is a {noun} by {author} from {year}.",
    "company": "{name} is a company of {founder} based in {seat}.",
}


def passage_text(entity: Entity) -> str:
    r"""The entity's passage, FlashRAG's `contents`: the quoted title, a line break, the text."""
    text = _SENTENCES[entity.kind].format(name=entity.name, noun=entity.noun, **entity.facts)
    return f'"{entity.name}"\n{text}'


def passages(world: World) -> list[dict]:
    """Corpus rows `{"id", "contents"}`, shuffled, ids counting from 0 in file order (FlashRAG's JSONL format)."""
    texts = [passage_text(entity) for entity in world.entities()]
    Random(f"corpus:{world.settings.seed}").shuffle(texts)
    return [{"id": str(number), "contents": text} for number, text in enumerate(texts)]
