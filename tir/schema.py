"""What all configuration models share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, SerializationInfo, SerializerFunctionWrapHandler, model_serializer
from pydantic_core import CoreSchema

_NAME, _RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.]*$", r"^[a-z]\w*$"
NAMES = {_NAME: "letters, digits, `_` and `.`", _RUN_NAME: "letters, digits and `_`, a small letter first"}  # in words
# Names stand in file names and in model ids, whose parts a hyphen divides.
Name = Annotated[str, Field(pattern=_NAME)]
RunName = Annotated[str, Field(pattern=_RUN_NAME)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def operational(default: Any, **constraints: Any) -> Any:
    """A field that changes how long a stage waits or how much it does at once, never what comes out of it."""
    return Field(default, json_schema_extra={"operational": True}, **constraints)


def _make_strict(schema: Any) -> None:
    """Let whole numbers and truth values anywhere in a schema, also in lists and mappings, take nothing but their own kind."""
    if isinstance(schema, dict):
        if schema.get("type") in ("int", "bool"):
            schema["strict"] = True
        for part in schema.values():
            _make_strict(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _make_strict(part)


class Model(BaseModel):
    """Unknown keys are errors; values are never silently converted between kinds: "3" is no number, and true no number of
    epochs. Only a float may be text, since YAML reads 7e-6 as such.

    `model_dump(context={"operational": False})` leaves the operational fields out, True gives them alone, each in its place.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True, protected_namespaces=())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _make_strict(schema)
        return schema

    @model_serializer(mode="wrap")
    def _parts(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        values = handler(self)
        wanted = (info.context or {}).get("operational")
        if wanted is None:
            return values
        marked = {name for name, field in type(self).model_fields.items()
                  if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("operational")}
        if not wanted:
            return {name: value for name, value in values.items() if name not in marked}
        return {name: value for name, value in values.items() if name in marked or isinstance(getattr(self, name), Model) and value}
