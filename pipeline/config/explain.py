"""pydantic's errors in the user's words: dotted path, file and line, what was found, what is valid, the nearest key."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from pipeline.config.mistakes import Mistake, nearest, shown
from pipeline.config.settings import Experiment

SOUGHT = 100  # mistakes for which the nearest key is looked for; ten of a kind are shown
MANY = 8  # keys: where the nearest is known, more of them only hide it
_COPIES = "removed: copies are found by how far they stand out from everything else, so there is nothing to set"
REMOVED = {"eda.near_bits": _COPIES, "eda.near_correlation": _COPIES}
Origins = dict[str, str]  # dotted path -> "experiments/digits.yaml:12"


def explain(error: ValidationError, origins: Origins, path: Path) -> list[Mistake]:
    """A `Mistake` for each thing wrong in the settings. path: the experiment's file, for what stands in none."""
    errors = error.errors(include_url=False)
    return _alternatives_joined([_explain(one, origins, path, i < SOUGHT) for i, one in enumerate(errors)])


def _explain(error: Any, origins: Origins, path: Path, with_hint: bool) -> Mistake:
    """One pydantic error in the user's words: dotted path, file and line, what was found, what is valid."""
    dotted, model = _locate(error["loc"])
    where = f"{dotted or 'the file'} ({_origin(dotted, origins) or shown(path)})"
    kind, context = error["type"], error.get("ctx", {})
    if dotted in REMOVED:
        return Mistake(where, REMOVED[dotted], "valid: delete the line", "removed settings")
    if kind == "extra_forbidden":
        valid = list(model.model_fields) if model else []
        key = dotted.rpartition(".")[2]
        hint = (nearest(key, valid) or _elsewhere(key)) if with_hint else ""
        shown_keys = valid if not hint or len(valid) <= MANY else [*valid[:MANY], f"and {len(valid) - MANY} more"]
        return Mistake(where, f"unknown key{hint}", f"valid here: {', '.join(shown_keys)}", "unknown keys")
    if kind == "missing":
        found = "missing"
        valid = "it must be given"
    elif kind == "union_tag_invalid":
        found = (
            f"found {context['tag']!r}{nearest(str(context['tag']), re.findall('[a-z_]+', context['expected_tags']))}"
        )
        dotted = f"{dotted}.{context['discriminator'].strip(chr(39))}"
        where = f"{dotted} ({_origin(dotted, origins) or shown(path)})"
        valid = f"valid: {context['expected_tags']}"
    elif kind == "union_tag_not_found":
        found = f"no {context['discriminator']}"
        valid = "it says which kind this section is"
    elif kind in ("model_type", "model_attributes_type") and (sections := _section(dotted)):
        found = f"found {error['input']!r}"
        valid = f"valid: a section with {', '.join(dict.fromkeys(key for m in sections for key in m.model_fields))}"
        if len(sections) > 1:
            tags = [tag for m in sections for tag in _tags(m)]
            like = error["input"] if error["input"] in tags else tags[0]
            key = tag_key(sections[0])
            valid = f"valid: a section like {{{key}: {like}}}, where {key} is one of {', '.join(tags)}"
    elif kind == "value_error":
        found = str(context["error"])
        valid = "change one of them"
    else:
        words = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        hint = nearest(error["input"], words) if isinstance(error["input"], str) else ""
        found = f"found {error['input']!r}{hint}"
        valid = "valid: " + error["msg"].removeprefix("Input should be ")
    return Mistake(where, found, valid, f"wrong values ({dotted})")


def _section(dotted: str) -> list[type[BaseModel]]:
    """The settings classes that may stand at a path."""
    models: list[type[BaseModel]] = [Experiment]
    for key in dotted.split("."):
        fields = [m.model_fields[key] for m in models if key in m.model_fields]
        models = [found for field in fields for found in section_classes(field.annotation)]
    return models


def _alternatives_joined(mistakes: list[Mistake]) -> list[Mistake]:
    """pydantic reports each alternative of `px: int | "model"` by itself; the user made one mistake."""
    joined: dict[tuple[str, str], list[Mistake]] = {}
    for mistake in mistakes:
        joined.setdefault((mistake.where, mistake.kind), []).append(mistake)
    return [
        replace(
            same[0],
            valid=" or ".join(dict.fromkeys([same[0].valid, *(m.valid.removeprefix("valid: ") for m in same[1:])])),
        )
        for same in joined.values()
    ]


def _origin(dotted: str, origins: Origins) -> str | None:
    inside = (place for key, place in origins.items() if key.startswith(f"{dotted}."))
    if dotted not in origins and (first := next(inside, None)):
        return first  # a section that only an override of one of its keys has made
    while dotted:
        if dotted in origins:
            return origins[dotted]
        dotted = dotted.rpartition(".")[0]
    return None


def _locate(loc: tuple[str | int, ...]) -> tuple[str, type[BaseModel] | None]:
    """(dotted path as the user writes it, the model that owns its last key).

    pydantic's location also names the branch of a union (`schedule.cosine.final`, `px.int`), which no file contains.
    """
    parts: list[str] = []
    model: type[BaseModel] | None = Experiment
    branches: dict[str, type[BaseModel]] = {}
    mapped: type[BaseModel] | None = None
    owner: type[BaseModel] | None = Experiment
    for step in loc:
        if str(step) in branches:
            model = branches[str(step)]
            branches = {}
            continue
        if isinstance(step, int):
            parts.append(str(step))
            continue
        if mapped is not None:  # the key of a mapping is the user's own word
            parts.append(step)
            model, mapped = mapped, None
            continue
        if model is None:
            break  # inside a leaf: the rest names the alternatives of its type
        owner = model
        parts.append(step)
        field = model.model_fields.get(step)
        models = section_classes(field.annotation) if field else []
        branches = {} if len(models) < 2 else {tag: m for m in models for tag in _tags(m)}
        mapped = _mapped_class(field.annotation) if field else None
        model = models[0] if len(models) == 1 else None
    return ".".join(parts), owner


def section_classes(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes that may stand at a field: one for a section, several for a choice, none for a leaf."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is dict:
        return []  # a mapping: its keys are free
    candidates = get_args(annotation) or (annotation,)
    return [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]


def _mapped_class(annotation: Any) -> type[BaseModel] | None:
    """The settings class of a mapping's values, where they are sections."""
    if get_origin(annotation) is not dict:
        return None
    value = get_args(annotation)[1]
    if get_origin(value) is tuple:  # several of them
        value = get_args(value)[0]
    return value if isinstance(value, type) and issubclass(value, BaseModel) else None


def tag_key(model: type[BaseModel]) -> str:
    """The key that says which kind of section this is."""
    return "source" if "source" in model.model_fields else "name"


def _tags(model: type[BaseModel]) -> tuple[str, ...]:
    """`adam`, `adamw` of `Adam`: the values of the key that names its kind."""
    return get_args(model.model_fields[tag_key(model)].annotation)


def _elsewhere(key: str) -> str:
    """`, did you mean 'train.epochs'?` for a key that another section has."""

    def walk(model: type[BaseModel], prefix: str) -> Iterator[str]:
        for name, field in model.model_fields.items():
            yield f"{prefix}{name}"
            for inner in section_classes(field.annotation):
                yield from walk(inner, f"{prefix}{name}.")

    paths = list(walk(Experiment, ""))
    close = nearest(key, [p.rpartition(".")[2] for p in paths])
    word = re.search(r"'(.*)'", close)
    return f", did you mean {next(p for p in paths if p.rpartition('.')[2] == word[1])!r}?" if word else ""
