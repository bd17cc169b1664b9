"""An archive's header: canonical JSON, deflated, read back as untrusted input."""

import json
import os
import re
import zlib
from typing import Any

from data.errors import UsageError
from data.lanes import Lanes

MAX_HEADER_BYTES = 1 << 16
MAX_JSON_BYTES = 1 << 20

# Environment variables that pin instruction sets, as engine.portable sets them.
PINS = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}

# What a header holds: `str` is any text, `dict` an object of texts, a range its integers, a pattern its texts.
_SHA256 = re.compile("[0-9a-f]{64}")
_COUNT, _WORLD = range(1, 1 << 62), range(1, (1 << 16) + 1)
_CORPUS = {"name": str, "bytes": range(1 << 62), "documents": _COUNT, "tokens": _COUNT}
_CODED = {
    "corpus": _CORPUS,
    "tokenizer": str,
    "lanes": range(1, (1 << 20) + 1),
    "segment_tokens": range(1, (1 << 20) + 1),
    "block_steps": range(1, (1 << 16) + 1),
    "world_size": _WORLD,
    "threads": _WORLD,
    "machine": dict,
    "pins": dict,
}
_METHODS = {
    "model": {"method": str, **_CODED, "code": _SHA256},
    "fixed": {"method": str, **_CODED, "code": re.compile(""), "model": _SHA256},
    "stored": {"method": str, "corpus": _CORPUS | {"tokens": range(1)}},
}


def current_pins() -> dict[str, str]:
    """The pins of this process."""
    return {name: os.environ[name] for name in PINS if name in os.environ}


def block_count(header: dict[str, Any]) -> int:
    """Number of blocks of a coded corpus."""
    steps = Lanes(header["corpus"]["tokens"], header["lanes"], header["segment_tokens"]).steps
    return -(-steps // header["block_steps"])


def header_content(header: dict[str, Any]) -> bytes:
    """Content of the H frame. Raises UsageError if a reader would refuse it."""
    content = zlib.compress(_canonical(header), 9)
    if len(content) > MAX_HEADER_BYTES:
        raise UsageError(f"the header takes {len(content)} bytes, more than {MAX_HEADER_BYTES}: shorten its texts")
    parse_header(content)
    return content


def _canonical(header: Any) -> bytes:
    """JSON in ASCII, where even a file name that is not UTF-8 finds an escape."""
    return json.dumps(header, sort_keys=True, separators=(",", ":")).encode()


def parse_header(content: bytes) -> dict[str, Any]:
    """The header from the content of its frame, every field checked. Raises UsageError."""
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(content, MAX_JSON_BYTES)
        if not inflater.eof or inflater.unused_data:
            raise UsageError(f"its JSON does not end with its frame, or takes more than {MAX_JSON_BYTES:,} bytes")
        header = json.loads(text)
        if _canonical(header) != text:
            raise UsageError("its JSON is not in canonical form")
        method = header.get("method") if isinstance(header, dict) else None
        if method not in list(_METHODS):
            raise UsageError(f"its method is {method!r:.60}, not {', '.join(_METHODS)}")
        _check("header", header, _METHODS[method])
        if method != "stored":
            block_count(header)
            if header["lanes"] % header["world_size"]:
                raise UsageError(f"{header['lanes']} lanes cannot be shared by {header['world_size']} ranks")
    except (ValueError, RecursionError, zlib.error) as error:
        raise UsageError(str(error)) from None
    return header


def _check(name: str, value: Any, rule: Any) -> None:
    """Raise UsageError unless `value` is what `rule`, a part of _METHODS, says."""
    if isinstance(rule, dict):
        if not isinstance(value, dict) or value.keys() != rule.keys():
            raise UsageError(f"{name} is {value!r:.200}, not an object of {', '.join(rule)}")
        for key, part in rule.items():
            _check(key if name == "header" else f"{name}.{key}", value[key], part)
        return
    if isinstance(rule, range):
        fits, wanted = type(value) is int and value in rule, f"an integer from {rule[0]} to {rule[-1]}"
    elif rule is dict:
        fits = isinstance(value, dict) and all(isinstance(text, str) for text in value.values())
        wanted = "an object of texts"
    else:
        fits = isinstance(value, str) and (rule is str or rule.fullmatch(value) is not None)
        wanted = "text" if rule is str else f"text like {rule.pattern!r}"
    if not fits:
        raise UsageError(f"{name} is {value!r:.60}, not {wanted}")
