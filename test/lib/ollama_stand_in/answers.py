"""What a model would say: always the same for the same prompt.

A text is the beginning of the prompt's last line, which is where the row is
when instructions come first.  With a schema the answer fits it, and a value
out of an enumeration is the one the prompt speaks of most, so that labels in
a demonstration look like labels.  Embeddings are made of the text's words:
texts that share words are near each other.
"""

import array
import hashlib
import json
import math
import re
import zlib

TOKEN = re.compile(r"\s*\S{1,6}|\s+")
WORD = re.compile(r"\w+")
MARKER = re.compile(r"\[\[(fault|answer):")
BRACKET = re.compile(r"[\[\]]")
MAX_DEPTH = 60


def tokens(text):
    """A text cut into tokens."""
    return TOKEN.findall(text)


def number_of(text):
    """A number that belongs to a text."""
    return int.from_bytes(hashlib.blake2b(
        text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def marker_end(prompt, start):
    """Where the marker's text that starts there ends.

    It may hold brackets, as JSON does, if they pair up."""
    depth = 2
    for bracket in BRACKET.finditer(prompt, start):
        depth += 1 if bracket[0] == "[" else -1
        if depth == 0 and prompt[bracket.start() - 1] == "]":
            return bracket.start() - 1
    return prompt.find("]]", start)


def markers(prompt):
    """(kind, text, start, end) of what is meant for the stand-in."""
    found = []
    at = 0
    while match := MARKER.search(prompt, at):
        at = match.end()
        end = marker_end(prompt, at)
        if end >= 0:
            found.append((match[1], prompt[at:end], match.start(), end + 2))
            at = end + 2
    return found


def without_markers(prompt):
    """A prompt without what is meant for the stand-in."""
    if "[[" in prompt:
        for _, _, start, end in reversed(markers(prompt)):
            prompt = prompt[:start] + prompt[end:]
    return prompt


def answer_in(prompt):
    """The answer that the prompt itself asks for, or None."""
    if "[[answer:" in prompt:
        for kind, text, _, _ in markers(prompt):
            if kind == "answer":
                return text
    return None


class Answerer:
    """Answers one prompt."""

    def __init__(self, prompt):
        self.prompt = without_markers(prompt).strip()
        self.number = None
        self.salt = 0
        self.root = None

    def text(self):
        """A free answer."""
        line = self.prompt.rpartition("\n")[2]
        return " ".join(line.split()[:12]) or "ok"

    def json(self, schema):
        """An answer that fits a schema, or just some JSON for "json"."""
        if schema == "json":
            value = {"answer": self.text()}
        else:
            self.root = schema
            value = self.value(schema, 0)
        return json.dumps(value, ensure_ascii=False)

    def next_number(self):
        """The next number that belongs to the prompt."""
        if self.number is None:
            self.number = number_of(self.prompt)
        self.salt += 1
        return zlib.crc32(self.salt.to_bytes(4, "big"),
                          self.number & 0xffffffff)

    def value(self, schema, depth):
        """A value that fits a schema."""
        if depth > MAX_DEPTH or not isinstance(schema, dict):
            return None
        schema = self.resolve(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self.choose(schema["enum"])
        kind = schema.get("type")
        if isinstance(kind, list):
            kind = next((k for k in kind if k != "null"), "null")
        if kind is None:
            kind = "object" if "properties" in schema else "string"
        make = getattr(self, "make_" + str(kind), None)
        return make(schema, depth) if make else None

    def resolve(self, schema):
        """A schema without references and alternatives."""
        for _ in range(MAX_DEPTH):
            if "$ref" in schema:
                target = self.root
                for part in schema["$ref"].lstrip("#/").split("/"):
                    target = target.get(part, {})
                schema = target
            elif "allOf" in schema:
                merged = {k: v for k, v in schema.items() if k != "allOf"}
                for part in schema["allOf"]:
                    merged.update(part)
                schema = merged
            elif "anyOf" in schema or "oneOf" in schema:
                choices = schema.get("anyOf") or schema.get("oneOf")
                schema = next((c for c in choices if c.get("type") != "null"),
                              choices[0])
            else:
                break
        return schema

    def choose(self, values):
        """One of some values: what the prompt's last line speaks of most,
        or all of the prompt, or any."""
        number = self.next_number()
        line = self.prompt.rpartition("\n")[2].lower()

        def mentions(value):
            stem = str(value).lower()
            return line.count(stem[:max(4, len(stem) - 3)])

        best = max(map(mentions, values), default=0)
        if best:
            values = [v for v in values if mentions(v) == best]
        return values[number % len(values)] if values else None

    def make_object(self, schema, depth):
        """An object with all of its properties."""
        properties = schema.get("properties") or {}
        made = {name: self.value(part, depth + 1)
                for name, part in properties.items()}
        for name in schema.get("required") or ():
            if name not in made:
                made[name] = self.text()
        return made

    def make_array(self, schema, depth):
        """An array."""
        low = schema.get("minItems", 1)
        count = min(low + self.next_number() % 3,
                    schema.get("maxItems", low + 2))
        items = self.resolve(schema.get("items") or {})
        if schema.get("uniqueItems") and "enum" in items:
            first = self.value(items, depth + 1)
            rest = [value for value in items["enum"] if value != first]
            return ([first] + rest)[:count]
        made = [self.value(items, depth + 1) for _ in range(count)]
        if schema.get("uniqueItems"):
            made = [f"{v} {i}" if isinstance(v, str) else v
                    for i, v in enumerate(made)]
        return made

    def make_string(self, schema, depth):
        """A string."""
        del depth
        number = self.next_number()
        shapes = {
            "date": f"2024-{number % 12 + 1:02}-{number % 28 + 1:02}",
            "time": f"{number % 24:02}:{number % 60:02}:00Z",
            "date-time": f"2024-01-{number % 28 + 1:02}T12:00:00Z",
            "uuid": f"{number:08x}-0000-4000-8000-{number:012x}",
            "email": f"user{number % 1000}@example.com",
        }
        text = shapes.get(schema.get("format")) or self.text()
        text = text[:schema.get("maxLength", len(text))]
        return text.ljust(schema.get("minLength", 0), ".")

    def bounds(self, schema, low, high, step):
        """The least and the greatest number that a schema allows."""
        if "exclusiveMinimum" in schema:
            low = schema["exclusiveMinimum"] + step
        low = schema.get("minimum", low)
        if "exclusiveMaximum" in schema:
            high = schema["exclusiveMaximum"] - step
        else:
            high = schema.get("maximum", max(high, low))
        return min(low, high), high

    def make_integer(self, schema, depth):
        """A whole number."""
        del depth
        low, high = self.bounds(schema, 1, 100, 1)
        step = schema.get("multipleOf", 1)
        first = math.ceil(low / step)
        count = max(math.floor(high / step) - first + 1, 1)
        return (first + self.next_number() % count) * step

    def make_number(self, schema, depth):
        """A number, from 0 to 1 unless the schema has other limits."""
        del depth
        low, high = self.bounds(schema, 0, 1, 0.01)
        part = self.next_number() % 101 / 100
        return round(low + (high - low) * part, 2)

    def make_boolean(self, schema, depth):
        """True or false."""
        del schema, depth
        return self.next_number() % 2 == 1

    def make_null(self, schema, depth):
        """Null."""
        del schema, depth


def unit(vector):
    """A vector of length 1."""
    norm = math.sqrt(sum(x * x for x in vector)) or 1.0
    return [round(x / norm, 7) for x in vector]


def embedding(text, dims):
    """The vector of a text."""
    text = without_markers(text)
    data = text.encode("utf-8", "surrogatepass")
    noise = array.array("h", hashlib.shake_256(data).digest(2 * dims))
    vector = [x / 1000000 for x in noise]
    for word in WORD.findall(text.lower()):
        number = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        vector[number % dims] += 1 if number & 0x80000000 else -1
        number //= dims
        vector[number % dims] += 0.5 if number & 0x10000 else -0.5
    return unit(vector)
