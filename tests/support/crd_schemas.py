"""What an API server makes of an object of a CustomResourceDefinition: in memory, by its schema.

It prunes, fills in defaults and validates as Kubernetes documents it. Rules in CEL are checked by
their counterparts in Python, which `RULES` holds; those about an older version are not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jsonschema  # type: ignore[import-untyped]
from hypothesis import strategies as st

Schema = Mapping[str, Any]

RULES: dict[str, Callable[[Any], bool]] = {
    "!self.endsWith('_dlq')": lambda it: not it.endswith("_dlq"),
    "self.backoffBaseMs <= self.backoffMaxMs": lambda it: it["backoffBaseMs"] <= it["backoffMaxMs"],
    "self.backoff != 'list' || size(self.delaysMs) > 0": lambda it: (
        it["backoff"] != "list" or bool(it["delaysMs"])
    ),
    (
        "self.all(each, !(each.name in ['MESHHOOK_DATABASE_URL', 'MESHHOOK_POOLED', "
        "'MESHHOOK_METRICS_PORT']))"
    ): lambda it: (
        not {each["name"] for each in it}
        & {"MESHHOOK_DATABASE_URL", "MESHHOOK_POOLED", "MESHHOOK_METRICS_PORT"}
    ),
    "!has(self.periodSeconds) || has(self.replicas) || has(self.percent)": lambda it: (
        "periodSeconds" not in it or "replicas" in it or "percent" in it
    ),
    "self.minReplicas <= self.maxReplicas": lambda it: it["minReplicas"] <= it["maxReplicas"],
    "!has(self.fallback) || self.fallback.replicas <= self.maxReplicas": lambda it: (
        "fallback" not in it or it["fallback"]["replicas"] <= it["maxReplicas"]
    ),
    "!has(self.tickSeconds) || self.tickSeconds <= self.targetAgeSeconds": lambda it: (
        "tickSeconds" not in it or it["tickSeconds"] <= it["targetAgeSeconds"]
    ),
    "has(self.handler) != has(self.app)": lambda it: ("handler" in it) != ("app" in it),
    (
        "self.enabled || !(has(self.path) || has(self.ordered) || has(self.onDeadLetter) || "
        "has(self.maxRunning) || has(self.maxRunningPerKey) || has(self.maxStarts) || "
        "has(self.maxStartsPerKey) || has(self.startsPeriodSeconds) || has(self.breaker) || "
        "has(self.overrides))"
    ): lambda it: it["enabled"] or set(it) == {"enabled"},
    (
        "!has(self.pauseSeconds) || !has(self.maxPauseSeconds) || "
        "self.pauseSeconds <= self.maxPauseSeconds"
    ): lambda it: it.get("pauseSeconds", 0) <= it.get("maxPauseSeconds", 86_400),
    "has(self.weight) || has(self.maxRunning) || has(self.maxStarts)": lambda it: bool(
        {"weight", "maxRunning", "maxStarts"} & set(it)
    ),
    "self.enabled || !(has(self.targetSeconds) || has(self.urgentSlots))": lambda it: (
        it["enabled"] or set(it) == {"enabled"}
    ),
    "self.urgent <= self.high": lambda it: it["urgent"] <= it["high"],
    "self.high <= self.normal": lambda it: it["high"] <= it["normal"],
    "self.normal <= self.low": lambda it: it["normal"] <= it["low"],
    "!(has(self.keys) && self.keys.enabled && has(self.priorities) && self.priorities.enabled)": (
        lambda it: not all(it.get(name, {}).get("enabled") for name in ("keys", "priorities"))
    ),
    "has(self.worker) != has(self.deploymentRef)": lambda it: (
        ("worker" in it) != ("deploymentRef" in it)
    ),
}


def stored(schema: Schema, value: Any) -> Any:
    """Return a value without what its schema does not know, and with the defaults filled in."""
    if isinstance(value, list) and "items" in schema:
        return [stored(schema["items"], each) for each in value]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return value
    if isinstance(more := schema.get("additionalProperties"), Mapping):
        return {name: stored(more, each) for name, each in value.items() if each is not None}
    properties = schema.get("properties", {})
    # A null where none may be counts as absent.
    found = {name: value[name] for name in properties if value.get(name) is not None}
    for name, part in properties.items():
        if name not in found and "default" in part:
            found[name] = part["default"]
    return {name: stored(properties[name], each) for name, each in found.items()}


def refusals(schema: Schema, value: Any) -> list[str]:
    """Return why an API server refuses a value that is pruned and has its defaults."""
    found = [
        f"{error.json_path}: {error.message[:200]}"
        for error in _Validator(schema).iter_errors(value)
    ]
    # As in an API server, rules see only what has the right types.
    return found or [*_broken(schema, value)]


def rules_of(schema: Schema) -> Iterator[str]:
    """Return every rule in a schema that is not about an older version."""
    for each in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in each["rule"]:
            yield each["rule"]
    for part in schema.get("properties", {}).values():
        yield from rules_of(part)
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), Mapping):
            yield from rules_of(schema[name])


def _broken(schema: Schema, value: Any) -> Iterator[str]:
    for each in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in each["rule"] and not RULES[each["rule"]](value):
            yield each["message"]
    if isinstance(value, list):
        for each in value:
            yield from _broken(schema.get("items", {}), each)
    elif isinstance(value, dict):
        for name, each in value.items():
            if (part := schema.get("properties", {}).get(name)) is not None:
                yield from _broken(part, each)


def _go_pattern(_: Any, pattern: str, value: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    """Match as Go does: `$` is the very end, and a space is one of ASCII."""
    if isinstance(value, str) and not re.search(pattern.replace("$", r"\Z"), value, re.ASCII):
        yield jsonschema.ValidationError(f"does not match {pattern}")


def _go_format(_: Any, name: str, value: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "int64" and is_number and not -(2**63) <= value < 2**63:
        yield jsonschema.ValidationError("is not of 64 bits")


def _keys(_: Any, keys: list[str], value: Any, __: Any) -> Iterator[jsonschema.ValidationError]:
    found = [tuple(repr(each.get(key)) for key in keys) for each in value if isinstance(each, dict)]
    if len(set(found)) < len(found):
        yield jsonschema.ValidationError("has a key twice")


_Validator = jsonschema.validators.extend(
    jsonschema.Draft202012Validator,
    {"pattern": _go_pattern, "format": _go_format, "x-kubernetes-list-map-keys": _keys},
)


def values(schema: Schema, texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Return the values that a schema takes, but for its rules; free texts are of `texts`."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "x-kubernetes-int-or-string" in schema:
        return st.integers(-(2**63), 2**63 - 1) | _texts(schema, texts)
    return _BY_TYPE[schema["type"]](schema, texts)


def _texts(schema: Schema, texts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    low, high = schema.get("minLength", 0), schema.get("maxLength", 1_000_000)
    if "pattern" in schema:
        pattern = re.compile(schema["pattern"].replace("$", r"\Z"), re.ASCII)
        texts = st.from_regex(pattern)
    return texts.filter(lambda text: low <= len(text) <= high)


def _numbers(schema: Schema, _: Any) -> st.SearchStrategy[Any]:
    low, high = schema.get("minimum", -(2**63)), schema.get("maximum", 2**63 - 1)
    ends = st.sampled_from([low, high])
    if schema["type"] == "integer":
        return ends | st.integers(low, high)
    return ends | st.floats(low, high)


def _lists(schema: Schema, texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    keys = schema.get("x-kubernetes-list-map-keys")
    by = (lambda each: tuple(each[key] for key in keys)) if keys else None
    return st.lists(values(schema["items"], texts), max_size=2, unique_by=by)


def _objects(schema: Schema, texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return st.dictionaries(texts, st.none() | texts | st.integers(), max_size=2)
    if isinstance(more := schema.get("additionalProperties"), Mapping):
        return st.dictionaries(texts, values(more, texts), max_size=2)
    required = set(schema.get("required", ()))
    parts = {name: values(part, texts) for name, part in schema["properties"].items()}
    return st.fixed_dictionaries(
        {name: part for name, part in parts.items() if name in required},
        optional={name: part for name, part in parts.items() if name not in required},
    )


_BY_TYPE: dict[str, Callable[[Schema, st.SearchStrategy[str]], st.SearchStrategy[Any]]] = {
    "string": _texts,
    "integer": _numbers,
    "number": _numbers,
    "boolean": lambda *_: st.booleans(),
    "array": _lists,
    "object": _objects,
}
