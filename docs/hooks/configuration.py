"""Fills the configuration page: one table per section of config.yaml, from config/schema.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).resolve().parents[2] / "config/schema.json"
MARKER = "<!-- every key -->"
_SIGNS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def on_page_markdown(markdown: str, *, page, **_) -> str:
    """Replace the marker of the configuration page by the tables (called by MkDocs)."""
    if page.file.src_uri != "configuration.md":
        return markdown
    if MARKER not in markdown:
        raise ValueError(f"docs/configuration.md has no line {MARKER}, where the tables go")
    return markdown.replace(MARKER, reference(json.loads(SCHEMA.read_text(encoding="utf-8"))))


@dataclass
class Section:
    """One model of the configuration: its JSON Schema and every path of a key that holds it."""

    name: str
    schema: dict[str, Any]
    paths: list[str]

    @property
    def title(self) -> str:
        """Its path, or the name of its model if it stands at several places, none of them at the top of the file."""
        top = [path for path in self.paths if "." not in path]
        return top[0] if top else self.paths[0] if len(self.paths) == 1 else self.name


def reference(schema: dict[str, Any]) -> str:
    """Markdown with one heading and one table per section, in the order of the schema."""
    sections = _sections(schema)
    parts = [_table(schema["properties"], sections)]
    for section in sections.values():
        level = "###" if "." in section.paths[0].removesuffix(".NAME") else "##"
        others = [path for path in section.paths if path != section.title]
        where = "Also stands at" if section.title in section.paths else "Stands at"
        parts += [
            f"{level} {section.title} {{#{section.title}}}",
            section.schema.get("description", "").replace("\n", " "),
            f"{where} {', '.join(f'`{path}`' for path in others)}." if others else "",
            _table(section.schema["properties"], sections),
        ]
    return "\n\n".join(filter(None, parts))


def _sections(schema: dict[str, Any]) -> dict[str, Section]:
    """Sections by the name of their definition, each after the section that first names it."""
    found: dict[str, Section] = {}

    def below(path: str, properties: dict[str, Any]) -> None:
        for key, each in properties.items():
            for name, suffix in _sections_in(each):
                inside = f"{path}.{key}{suffix}".lstrip(".")
                if name in found:
                    found[name].paths.append(inside)
                else:
                    found[name] = Section(name, schema["$defs"][name], [inside])
                    below(inside, schema["$defs"][name]["properties"])

    below("", schema["properties"])
    return found


def _sections_in(part: dict[str, Any], suffix: str = "") -> Iterator[tuple[str, str]]:
    """Definitions that a value may be, each with what stands between the key and the section: nothing, or `.NAME`."""
    if "$ref" in part:
        yield part["$ref"].rpartition("/")[2], suffix
    for each in part.get("anyOf", []):
        yield from _sections_in(each, suffix)
    if "items" in part:
        yield from _sections_in(part["items"], suffix)
    for each in part.get("patternProperties", {}).values():
        yield from _sections_in(each, f"{suffix}.NAME")


def _table(properties: dict[str, Any], sections: dict[str, Section]) -> str:
    rows = [_row(key, each, sections) for key, each in properties.items()]
    return "\n".join(["| key | type and range | default | meaning |", "| --- | --- | --- | --- |", *rows])


def _row(key: str, part: dict[str, Any], sections: dict[str, Section]) -> str:
    inside = [sections[name] for name, _ in _sections_in(part)]
    meaning = part.get("description") or (inside[0].schema.get("description", "") if inside else "")
    if part.get("operational"):
        meaning += " (changes no result)"
    default = f"`{_plain(part['default'])}`" if part.get("default", "") != "" else ""
    if not default and not inside:
        default = "empty text" if "default" in part else "*required*"
    cells = [f"`{key}`", spelled(part, sections), default, meaning]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def spelled(part: dict[str, Any], sections: dict[str, Section]) -> str:
    """A value's type and range in words, with links to the sections that it may hold."""
    if "$ref" in part:
        title = sections[part["$ref"].rpartition("/")[2]].title
        return f"[{title}](#{title})"
    if "anyOf" in part:
        return " or ".join(spelled(each, sections) for each in part["anyOf"])
    if "enum" in part:
        return ", ".join(f"`{_plain(value)}`" for value in part["enum"])
    if "const" in part:
        return f"`{_plain(part['const'])}`"
    if part.get("type") == "array":
        return f"list of {spelled(part['items'], sections)}"
    if part.get("type") == "object":
        return _mapping(part, sections)
    kind = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "`null`"}
    return kind[part["type"]] + _range(part)


def _mapping(part: dict[str, Any], sections: dict[str, Section]) -> str:
    keys = part.get("propertyNames", {}).get("enum")
    inside = [*part.get("patternProperties", {}).values()]
    if isinstance(part.get("additionalProperties"), dict):
        inside.append(part["additionalProperties"])
    left = ", ".join(f"`{key}`" for key in keys) if keys else "name"
    right = " or ".join(spelled(each, sections) for each in inside) if inside else "anything"
    return f"mapping: {left} → {right}"


def _range(part: dict[str, Any]) -> str:
    bounds = {key: f"{part[key]:,}".removesuffix(".0") for key in _SIGNS if key in part}
    if "minimum" in bounds and "maximum" in bounds:
        return f", {bounds['minimum']} to {bounds['maximum']}"
    return "".join(f", {_SIGNS[key]}&nbsp;{bound}" for key, bound in bounds.items())


def _plain(value: Any) -> str:
    """As it would be written in YAML; text without its quotes."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_plain(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return value if isinstance(value, str) else json.dumps(value)
