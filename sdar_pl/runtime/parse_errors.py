"""jsonargparse's errors on one line: the key in full, what is wrong, what would be right.

jsonargparse reports an error inside a part as a text that is indented once for every part around it:

    Parser key "data.environment":
      Problem with given class_path 'sdar_pl.environments.household.Household':
        Parser key "size":
          Expected a typing.Literal['tiny', 'small', 'full']. Got value: 5
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import Any

LONGEST_VALUE = 80  # characters of a wrong value that are shown
_STEP = re.compile(
    r"""Parser key "(?P<key>[^"]+)"|Problem with given class_path '(?P<class>[^']+)'|"""
    r"""Option '(?P<unknown>[^']+)' is not accepted"""
)
_NOISE = re.compile(r"^(Expected a path but|Subclass types expect|a class path \(str\)|a dict with|Errors:|Subtypes:|"
                    r"Does not validate against any|Given value type)")  # fmt: skip
_TYPES = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a text", "NoneType": "null"}


def explain(message: str, keys: Sequence[str] = ()) -> str:
    """``message`` on one line that begins with the key. ``keys`` are all that the parser knows, for suggestions."""
    if match := re.search(r"does not accept option '([^']+)'", message):
        return f"{match[1]}: no such key{suggestion(match[1], keys)}"
    if match := re.search(r"unrecognized arguments: ?(--([^\s=]+)|.*)", message):
        known = suggestion(match[2], keys, "--") if match[2] else "; options begin with --"
        return f"{match[1] or repr('')}: no such option{known}"
    if match := re.match(r".*arguments are required: (.+)", message):
        names = re.sub(r"\b(fit|validate|test|predict)\.", "", match[1])
        return f"{names}: missing; give them in a file, such as --config configs/quickstart.yaml"
    if match := re.search(r'Key "([^"]+)" not found in namespace', message):
        return f"{match[1]}: missing; what encloses it must hold keys"
    return _nested(message)


def suggestion(word: str, known: Iterable[str], prefix: str = "", few: bool = False) -> str:
    """``; did you mean …?`` with the known word that is closest. Without one: all known words if they are ``few``."""
    words = sorted({one for one in known if not one.endswith("help")})
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.7)
    if not close:
        return f"; must be one of {', '.join(words)}" if few and words else ""
    return f"; did you mean {prefix}{close[0]}?"


def _nested(message: str) -> str:
    """A text as in the module's docstring: go down, part by part, then word the problem of the innermost one."""
    lines = [(len(line) - len(line.lstrip(" ")), line.strip(" -")) for line in message.splitlines() if line.strip(" -")]
    path: list[str] = []
    around = ""  # class of the innermost part
    while found := next(((n, match) for n, (_, text) in enumerate(lines) if (match := _STEP.search(text))), None):
        number, step = found
        indent, text = lines[number]
        if step["unknown"]:
            around = around or "".join(re.findall(r"class_path='([\w.]+)'", text)[:1])
            key = ".".join([*path, step["unknown"]])
            return f"{key}: no such key{suggestion(step['unknown'].split('.')[0], _arguments(around), few=True)}"
        path += [step["key"]] if step["key"] else []
        if step["class"] and any(text.startswith("Given value: [") for _, text in lines):  # an element of a list
            path.append(step["class"].rpartition(".")[2])
        around = step["class"] or ""
        rest = text[step.end() :].strip(" :")
        inside = takewhile(lambda line: line[0] > indent, lines[number + 1 :])  # noqa: B023 – used at once
        lines = [*([(indent + 1, rest)] if rest else []), *inside]
    if missing := re.match(r"the following arguments are required: (.+)", " ".join(text for _, text in lines)):
        keys = [".".join([*path, name]) for name in missing[1].split(", ")]
        return f"{', '.join(keys)}: missing; {around} needs it"
    problem = _problem([text for _, text in lines], around) or "must hold keys"
    return f"{'.'.join(path)}: {problem}" if path else problem


def _problem(lines: Sequence[str], around: str) -> str:
    text = " ".join(lines)
    values = [
        match[1] for line in lines if (match := re.search(r"(?:Got|Given) value: (.*?)(?:\. Got value:|$)", line))
    ]
    got = f"; got {_short(values[0])}" if values else ""
    if match := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", text):
        return f"{match[1]} has no {match[2]}{suggestion(match[2], dir(importlib.import_module(match[1])))}"
    if match := re.search(r"No module named '[\w.]+'", text):
        return f"{match[0]}; a class path is package.module.Class" + (f" ({around})" if around else "")
    if match := re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", text):
        return f"{match[1]} is not a subclass of {match[2]}"
    if match := re.search(r"but (?:(\S+) )?is abstract", text):
        return f"{match[1] or values[0]} is abstract; name one of its subclasses"
    types = dict.fromkeys(re.findall(r"Expected an? (?:<class '([\w.]+)'>|list)", text))
    named = [match[1] for line in lines if (match := re.search(r"Expected a dot import path string: ?(\S*)$", line))]
    if named and not {*types} & {"int", "float"}:
        close = suggestion(named[0], _own()) or "; name one as package.module.Class"
        return f"there is no class {named[0] or repr('')}{close}"
    if re.search(r"has no attribute 'keys'|is not iterable|unhashable type|expects a function or a callable", text):
        return "must hold class_path, the name of a class, and init_args, its arguments"
    if match := re.search(r"Not a valid subclass of (\w+)", text):
        return f"must name a subclass of {match[1]} (class_path){got}"
    if match := re.search(r"typing\.Literal\[(.+?)\]", text):
        return f"must be one of {match[1].replace(chr(39), '')}{' or null' if 'NoneType' in text else ''}{got}"
    if types:
        words = [_TYPES.get(name, f"a {name.split('.')[-1]}") if name else "a list" for name in types]
        return f"must be {' or '.join(words)}{got}"
    return _short(" ".join(line for line in lines if not _NOISE.match(line)), 300)


def _short(text: str, length: int = LONGEST_VALUE) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


def _imported(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def _arguments(path: str) -> list[str]:
    """The constructor's arguments of the class at ``path``."""
    part = _imported(path) if path else None
    return list(inspect.signature(part).parameters) if inspect.isclass(part) else []


def _own() -> set[str]:
    """Names of all classes of this package that have been imported."""
    modules = [module for name, module in sys.modules.items() if name.startswith("sdar_pl.")]
    return {name for module in modules for name, value in vars(module).items() if inspect.isclass(value)}
