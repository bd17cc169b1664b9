"""Reading small JSON files that are not trusted: bounded and checked."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from data.errors import UsageError


def read_json(path: Path, shape: TypeAdapter[Any], limit_bytes: int) -> Any:
    """Read a JSON file as what `shape` describes.

    Raises UsageError, one line naming file and field, when it is larger than `limit_bytes` or of another shape.
    """
    with path.open("rb") as stream:
        content = stream.read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise UsageError(f"{path} is larger than {limit_bytes:,} bytes, the most such a file can be: it is damaged")
    try:
        return shape.validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = "".join(f"{part}." for part in first["loc"]).removesuffix(".[key].").removesuffix(".")
        message = first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{path}: {place}: {message}" if place else f"{path}: {message}") from None
