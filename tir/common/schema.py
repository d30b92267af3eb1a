"""Base class and field types of all configuration models."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
)
from pydantic_core import CoreSchema, PydanticKnownError

_NAME, _RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9_.]*$", r"^[a-z]\w*$"
# Descriptions of the patterns, for errors.
NAMES = {
    _NAME: "letters, digits, `_` and `.`",
    _RUN_NAME: "letters, digits and `_`, beginning with a lower-case letter",
}
# Names are used in file names and in model ids; a hyphen separates the parts of a model id, so names contain none.
Name = Annotated[str, Field(pattern=_NAME)]
RunName = Annotated[str, Field(pattern=_RUN_NAME)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Device = Literal["cuda", "cpu"]
Task = Literal["math", "qa", "web"]


def valid_address(text: str) -> str:
    """The text, if it is `none` or an address with a host and with a valid port, if it has one; else `ValueError`."""
    try:
        parts = urlsplit(text)
        if text == "none" or (parts.hostname and parts.port != 0 and not re.search(r"\s", parts.netloc)):
            return text
        why = "there is no valid host" if parts.port != 0 else "the port is 0"
    except ValueError as error:
        why = str(error)
    raise ValueError(f"should be an address http://host:port/...: {why}")


Address = Annotated[str, Field(pattern=r"^https?://"), AfterValidator(valid_address)]


def drop_nulls(value: Any) -> Any:
    """A mapping without the entries that are null, as which an overlay removes them; other values as they are."""
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, Mapping) else value


def operational(default: Any, **constraints: Any) -> Any:
    """A field that does not affect results, such as a timeout or a concurrency limit."""
    return Field(default, json_schema_extra={"operational": True}, **constraints)


def operational_fields(kind: type[BaseModel]) -> set[str]:
    """Names of a model's own operational fields."""
    return {
        name
        for name, field in kind.model_fields.items()
        if isinstance(field.json_schema_extra, dict) and field.json_schema_extra.get("operational")
    }


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise PydanticKnownError("float_type")
    return value


_NO_BOOLEAN = {"type": "no-info", "function": _no_boolean}


def _make_strict(schema: Any) -> None:
    """Make all numbers and booleans of a pydantic core schema strict, also inside lists and mappings.

    A strict float would accept no text; so a float only refuses booleans.
    """
    if isinstance(schema, dict):
        if schema.get("type") in ("int", "bool"):
            schema["strict"] = True
        if schema.get("function") == _NO_BOOLEAN:  # a float of a section that is part of another one
            return
        if schema.get("type") == "float":
            number = schema.copy()
            schema.clear()
            schema.update(type="function-before", function=_NO_BOOLEAN, schema=number)
            return
        for value in schema.values():
            _make_strict(value)
    elif isinstance(schema, list | tuple):
        for value in schema:
            _make_strict(value)


class Model(BaseModel):
    """Base class of configuration models.

    Unknown keys are errors. Values are not converted between types: "3" is not a number, and true is not an integer.
    Only a float may be given as text, because YAML reads 7e-6 as text.

    `model_dump(context={"operational": False})` leaves out the operational fields; True keeps only these, in place.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True, protected_namespaces=())

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _make_strict(schema)
        return schema

    @model_serializer(mode="wrap")
    def _select_fields(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        values = handler(self)
        keep_operational = (info.context or {}).get("operational")
        if keep_operational is None:
            return values
        operational_names = operational_fields(type(self))
        if not keep_operational:
            return {name: value for name, value in values.items() if name not in operational_names}
        return {
            name: value
            for name, value in values.items()
            if name in operational_names or isinstance(getattr(self, name), Model) and value
        }
