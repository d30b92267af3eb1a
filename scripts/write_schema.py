"""Write config/schema.json, the JSON Schema for editors and for the configuration reference."""

import json
from pathlib import Path

from tir.common.cli import run
from tir.config.json_schema import editor_schema

PATH = Path("config/schema.json")


def main() -> None:
    PATH.write_text(json.dumps(editor_schema(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run(main)
