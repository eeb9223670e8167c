"""Times and sizes as people write them."""

import functools
import re

SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0,
           "m": 60.0, "h": 3600.0}
BYTES = {"": 1, "b": 1, "k": 1 << 10, "kb": 1 << 10, "m": 1 << 20,
         "mb": 1 << 20}

PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)")


@functools.lru_cache
def go_duration(text):
    """Seconds of a duration as Go writes it ("1h30m"); raises ValueError."""
    sign = -1 if text.startswith("-") else 1
    rest = text.lstrip("+-")
    if rest == "0":
        return 0.0
    parts = PART.findall(rest)
    if not parts or "".join(n + unit for n, unit in parts) != rest:
        if re.fullmatch(r"\d+\.?\d*", rest):
            raise ValueError(f'time: missing unit in duration "{text}"')
        raise ValueError(f'time: invalid duration "{text}"')
    return sign * sum(float(n) * SECONDS[unit] for n, unit in parts)


def seconds(value):
    """Seconds of a number, or of a text like 100ms, 2s, 1m30s or 0.5."""
    try:
        return float(value)
    except ValueError:
        return go_duration(value)


def size(value):
    """Bytes of a number, or of a text like 64MB."""
    match = re.fullmatch(r"(\d+) ?([kmb]*)", str(value).lower())
    if not match or match[2] not in BYTES:
        raise ValueError(f'invalid size "{value}"')
    return int(match[1]) * BYTES[match[2]]
