"""From an experiment's YAML file to frozen settings, or to every mistake in it at once.

In: a YAML path and `key=value` overrides. Out: (`Experiment`, its name). A file may name another with `base:`; what it
says itself wins, key by key. A section of another kind (`schedule.name`, `competition.source`) replaces the base's
section whole, because the other's parameters mean nothing to it.

YAML is read by the 1.2 core rules: `1e-3` is a number and `off`, `no`, `on` are words (PyYAML's own rules make the
first a string and the others booleans). A key given twice in a file is a mistake, not a silent overwrite.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config.data import NAME_PATTERN
from pipeline.config.explain import Origins, explain, section_classes, tag_key
from pipeline.config.losses import LOSSES_OF
from pipeline.config.mistakes import Mistake, Mistakes, nearest, shown
from pipeline.config.settings import ROOT, Experiment

LONGEST = 255  # bytes of a file's name


def load(
    path: str | Path, overrides: Sequence[str] = (), changes: Mapping[str, Any] | None = None
) -> tuple[Experiment, str]:
    """(`settings`, name of the experiment = stem of the file). Raises `Mistakes` with every mistake found.

    changes: further settings by dotted key, as a search draws them; they come last, by the rules of overrides.
    """
    return builder(path, overrides)(changes or {}), Path(path).stem


def builder(path: str | Path, overrides: Sequence[str] = ()) -> Callable[[Mapping[str, Any]], Experiment]:
    """`load` of one file under many `changes`, read once. What it returns raises `Mistakes` as `load` does."""
    path = Path(path)
    if not path.is_file() and not path.is_absolute() and (ROOT / path).is_file():
        path = ROOT / path
    mistakes: list[Mistake] = []
    if not re.match(NAME_PATTERN, path.stem):
        valid = "a file name of letters, digits, - and _, because folders under mlruns/ are named after it"
        mistakes.append(Mistake(shown(path), f"the name {path.stem!r}", valid, "names"))
    data, origins = _read_chain(path, (), mistakes)
    for text in overrides:
        _override(data, origins, text, mistakes)
    data = _without_misfits(data, origins, path)

    def build(changes: Mapping[str, Any]) -> Experiment:
        changed = data
        for key, value in changes.items():
            changed = _merge(changed, nested(key, value))
        try:
            return _validated(changed, mistakes)
        except ValidationError as error:
            whence = {**origins, **dict.fromkeys(changes, "a value of tune.space")}
            raise Mistakes([*mistakes, *explain(error, whence, path)]) from None

    return build


def _validated(data: dict, mistakes: list[Mistake]) -> Experiment:
    settings = Experiment.model_validate(data)
    for key, value in settings.flat().items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and ("\0" in text or max(map(len, text.encode().split(b"/"))) > LONGEST):
                valid = f"valid: no NUL character, and at most {LONGEST} bytes between two slashes"
                mistakes = [
                    *mistakes,
                    Mistake(key, f"found {text[:40]!r}... of {len(text):,} characters", valid, "texts"),
                ]
    if mistakes:
        raise Mistakes(mistakes)
    return settings


# --- YAML ----------------------------------------------------------------------------------------------------------


MOST_LEVELS, MOST_NODES = 50, 100_000


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way to start without the rules of version 1.1

    def __init__(self, stream: Any):
        super().__init__(stream)
        self._n_open = 0
        self._sizes: dict[yaml.Node, tuple[int, int]] = {}  # (nodes, levels), each alias counted as what it names

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuses, by a `YAMLError`, what is deeper or, with its aliases written out, larger than any settings."""
        event, self._n_open = self.peek_event(), self._n_open + 1
        node = super().compose_node(parent, index) if self._n_open <= MOST_LEVELS else None
        self._n_open -= 1
        if isinstance(event, yaml.AliasEvent):
            node = node if node in self._sizes else None  # else an alias to what it is in
        elif node is not None:
            inner = node.value if isinstance(node, yaml.CollectionNode) else []
            flat = [one for entry in inner for one in (entry if isinstance(entry, tuple) else (entry,))]
            sizes = [self._sizes[one] for one in flat]
            self._sizes[node] = 1 + sum(n for n, _ in sizes), 1 + max((levels for _, levels in sizes), default=0)
        if node is None or self._sizes[node] > (MOST_NODES, 0) or self._sizes[node][1] > MOST_LEVELS:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST_LEVELS} levels or {MOST_NODES:,} values",
                                       problem_mark=event.start_mark)  # fmt: skip
        return node


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"),
    list("-+.0123456789"),
)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(node.value))  # 010 is ten, not eight


def _read_yaml(path: Path, mistakes: list[Mistake]) -> tuple[dict, Origins]:
    """The file as nested dicts, and the line of each key."""
    name = shown(path)
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        valid = f"an experiment's YAML file{nearest(path.name, there)}; in that folder: {', '.join(there) or 'none'}"
        found = "is a folder" if path.is_dir() else "there is no such file"
        mistakes.append(Mistake(name, found, valid, "files"))
        return {}, {}
    origins: Origins = {}
    loader = None
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        if node is None:
            return {}, {}
        if not isinstance(node, yaml.MappingNode):
            raise yaml.MarkedYAMLError(problem="the file must be a mapping", problem_mark=node.start_mark)
        return _mapping(loader, node, "", name, origins, mistakes), origins
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: not UTF-8 either
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or str(error)
        mistakes.append(
            Mistake(where, f"not readable as YAML ({problem})", "valid: `key: value` lines, indented by spaces", "yaml")
        )
        return {}, {}
    finally:
        if loader:
            loader.dispose()


def _mapping(
    loader: _Loader, node: yaml.MappingNode, prefix: str, name: str, origins: Origins, mistakes: list[Mistake]
) -> dict:
    out: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        dotted = f"{prefix}{key}"
        where = f"{name}:{key_node.start_mark.line + 1}"
        if key in out:
            mistakes.append(
                Mistake(
                    f"{dotted} ({where})",
                    f"given before, {origins[dotted]}",
                    "valid: each key once",
                    "keys given twice",
                )
            )
        origins[dotted] = where
        if isinstance(value_node, yaml.MappingNode):
            out[key] = _mapping(loader, value_node, f"{dotted}.", name, origins, mistakes)
        else:
            out[key] = loader.construct_object(value_node, deep=True)
    return out


def _read_chain(path: Path, seen: tuple[Path, ...], mistakes: list[Mistake]) -> tuple[dict, Origins]:
    """The file merged over its `base:`, which may have one of its own."""
    path = path.resolve()
    if path in seen:
        circle = " -> ".join(shown(p) for p in (*seen, path))
        mistakes.append(
            Mistake(shown(seen[-1]), f"base: goes in a circle ({circle})", "valid: a chain that ends", "base")
        )
        return {}, {}
    data, origins = _read_yaml(path, mistakes)
    base = data.pop("base", None)
    if base is None:
        return data, origins
    if not isinstance(base, str):
        valid = "valid: the path of a YAML file, relative to this one"
        mistakes.append(Mistake(f"base ({origins['base']})", f"found {base!r}", valid, "base"))
        return data, origins
    base_data, base_origins = _read_chain(path.parent / base, (*seen, path), mistakes)
    return _merge(base_data, data), base_origins | origins


def _without_misfits(data: dict, origins: Origins, path: Path) -> dict:
    """The settings without a base's loss, mixup and cutmix where the target takes none of that kind.

    A base knows no target, so its loss follows the target's. What the experiment's own file or an override says stays,
    and is refused by name where it does not fit.
    """
    target = str(data["competition"].get("target", "class")) if isinstance(data.get("competition"), dict) else ""
    own = f"{shown(path.resolve())}:"
    named = {name for names in LOSSES_OF.values() for name in names}

    def of_base(section: str) -> Callable[[str], bool]:
        given = any(origins.get(".".join(section.split(".")[:n])) == "SET" for n in (1, 2))
        return lambda key: not given and not origins.get(f"{section}.{key}", "SET").startswith((own, "SET"))

    train, augment = data.get("train"), data.get("augment")
    loss = train.get("loss") if isinstance(train, dict) else None
    strange = of_base("train.loss")
    if isinstance(loss, dict) and loss.get("name") in named - {*LOSSES_OF.get(target, named)} and strange("name"):
        kept = {key: value for key, value in loss.items() if not strange(key)}
        data = {**data, "train": {**data["train"], "loss": {"name": LOSSES_OF[target][0], **kept}}}
    if isinstance(augment, dict) and target in ("ordinal", "regression"):
        strange = of_base("augment")
        kept = {key: v for key, v in augment.items() if key not in ("mixup", "cutmix") or not strange(key)}
        data = {**data, "augment": kept}
    return data


def _merge(base: dict, over: dict, kinds: Sequence[type[BaseModel]] = (Experiment,)) -> dict:
    """`over` on top of `base`, key by key; `kinds` are the settings classes that may stand here."""
    if len(kinds) > 1:
        tag = tag_key(kinds[0])
        if tag in over and over[tag] != base.get(tag):
            return dict(over)
    out = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        fields = [kind.model_fields[key] for kind in kinds if key in kind.model_fields]
        out[key] = _merge(out[key], value, section_classes(fields[0].annotation) if fields else []) if both else value
    return out


def _override(data: dict, origins: Origins, text: str, mistakes: list[Mistake]) -> None:
    """Apply one `train.lr=1e-3` in place, by the rules of `_merge`."""
    key, equals, raw = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts) or len(parts) > MOST_LEVELS:
        mistakes.append(Mistake(f"SET {text!r}", "not of the form key=value", "valid: e.g. train.lr=1e-3", "overrides"))
        return
    try:
        value = yaml.load(raw, _Loader)  # noqa: S506 - a subclass of SafeLoader
    except (yaml.YAMLError, ValueError):
        mistakes.append(
            Mistake(f"SET {text!r}", f"the value {raw!r} is not YAML", "valid: e.g. train.lr=1e-3", "overrides")
        )
        return
    section: Any = data
    for depth, part in enumerate(parts[:-1], start=1):
        section = section.get(part, {})
        if not isinstance(section, dict):
            found = f"{'.'.join(parts[:depth])} is {section!r}, no section"
            mistakes.append(
                Mistake(f"SET {text!r}", found, "valid: a section's keys, or the section's own value", "overrides")
            )
            return
    merged = _merge(data, nested(key.strip(), value))
    data.clear()
    data.update(merged)
    origins[key.strip()] = "SET"


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Settings on top of others, by the rules of this module's head."""
    return _merge(dict(base), dict(over))


def nested(key: str, value: Any) -> dict[str, Any]:
    """`{"train": {"lr": 0.001}}` of `train.lr` and 0.001."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def differences(path: str | Path, overrides: Sequence[str], changes: Mapping[str, Any]) -> dict[str, Any]:
    """What a file with `base: path` must say to mean the same as overrides and changes on top of that file."""
    path = Path(path)
    path = path if path.is_file() or path.is_absolute() else ROOT / path
    full, origins = _read_chain(path, (), [])
    base = dict(_without_misfits(full, origins, path))
    for text in overrides:
        _override(full, origins, text, [])
    full = _without_misfits(full, origins, path)
    for key, value in changes.items():
        full = _merge(full, nested(key, value))
    return _difference(base, full, Experiment.model_validate(full).model_dump(mode="json"))


def _difference(base: Mapping[str, Any], full: Mapping[str, Any], resolved: Mapping[str, Any]) -> dict[str, Any]:
    """Key by key. What an override took away from a section of the same kind is said as the default that stands in."""
    if any(tag in full and tag in base and full[tag] != base[tag] for tag in ("name", "source")):
        return dict(full)  # another kind of section, which replaces the base's whole
    out = {key: resolved[key] for key in base if key not in full}
    for key, value in full.items():
        old = base.get(key)
        if key in base and value == old:
            continue
        if isinstance(value, dict) and isinstance(old, dict):
            if inner := _difference(old, value, resolved[key]):
                out[key] = inner
        else:
            out[key] = value
    return out
