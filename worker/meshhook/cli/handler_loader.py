"""Finding the handler that `--handler module:function` names."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from meshhook.errors import InvalidHandlerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_SHOWN_NAMES = 8


def load_handler(name: str) -> object:
    """Import what `name` names; the current directory is searched first.

    Args:
        name: `module:attribute`; either side may be dotted.

    Raises:
        InvalidHandlerError: naming what was not found and what is there.
    """
    module_name, colon, attribute = name.partition(":")
    if module_name.endswith(".py") or "/" in module_name:
        path = module_name.removesuffix(".py").removeprefix("./").replace("/", ".")
        raise InvalidHandlerError(
            f"handler {name!r}: that is a file; name its module: {path}:{attribute or 'function'}"
        )
    parts = module_name.split(".") + attribute.split(".")
    if not colon or not all(part.isidentifier() for part in parts):
        raise InvalidHandlerError(
            f"handler {name!r}: must be module:function, for example webhook_delivery:deliver"
        )
    found: object = _import(name, module_name)
    place = f"module {module_name!r}"
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InvalidHandlerError(
                f"handler {name!r}: {place} has no {part!r}{_hint(part, _functions(found))}"
            )
        found = getattr(found, part)
        place = f"{part!r} of {place}"
    if not callable(found):
        raise InvalidHandlerError(
            f"handler {name!r}: {attribute} is of type {type(found).__name__}, "
            "not a function of one job"
        )
    return found


def _import(name: str, module_name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise InvalidHandlerError(
                f"handler {name!r}: there is no module {missing!r} in the current directory or "
                f"among the installed packages{_hint(missing, _modules_beside(missing))}"
            ) from None
        raise _not_imported(name, module_name, error) from error
    except (Exception, SystemExit) as error:
        raise _not_imported(name, module_name, error) from error


def _not_imported(name: str, module_name: str, error: BaseException) -> InvalidHandlerError:
    place = ""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename]
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({Path(error.filename).name}, line {error.lineno})"
    elif len(own) > 1:  # the first is this module
        place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})"
    what = error.msg if isinstance(error, SyntaxError) else error
    return InvalidHandlerError(
        f"handler {name!r}: importing {module_name} failed with "
        f"{type(error).__name__}: {what}{place}"
    )


def _modules_beside(missing: str) -> list[str]:
    """Return the modules that stand where a missing one was looked for."""
    parent, dot, _ = missing.rpartition(".")
    if not dot:
        return sorted(module.name for module in pkgutil.iter_modules([str(Path.cwd())]))
    paths = getattr(sys.modules.get(parent), "__path__", [])
    return sorted(f"{parent}.{module.name}" for module in pkgutil.iter_modules(paths))


def _functions(owner: object) -> list[str]:
    """Return what `owner` itself has that could be a handler."""
    module = getattr(owner, "__name__", None)
    return sorted(
        name
        for name, value in getattr(owner, "__dict__", {}).items()
        if not name.startswith("_")
        and callable(value)
        and not isinstance(value, type)
        and getattr(value, "__module__", module) == module
    )


def _hint(name: str, there: Sequence[str]) -> str:
    close = get_close_matches(name, there, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not there:
        return ""
    more = f" and {len(there) - _SHOWN_NAMES} more" if len(there) > _SHOWN_NAMES else ""
    return f"; there is: {', '.join(there[:_SHOWN_NAMES])}{more}"
