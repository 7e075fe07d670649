"""Finding what `--handler module:function` and `--app module:app` name."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from meshhook.cli.applications import Application
from meshhook.errors import InvalidHandlerError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

_SHOWN_NAMES = 8
_is_importing = ContextVar("meshhook_is_importing", default=False)


def check_not_importing() -> None:
    """Check that no module is being imported here: a program in it would run as part of the import.

    Raises:
        InvalidHandlerError: if one is.
    """
    if _is_importing.get():
        raise InvalidHandlerError(
            "app.run() was called while its module was imported; call it under "
            'if __name__ == "__main__":'
        )


def load_handler(name: str) -> object:
    """Import the handler that `name` names; the current directory is searched first.

    Args:
        name: `module:attribute`; either side may be dotted.

    Raises:
        InvalidHandlerError: naming what was not found and what is there.
    """
    what = f"handler {name!r}"
    found = _load(what, name, _Wanted("function", "webhook_delivery:deliver", _is_function))
    if isinstance(found, Application):
        raise InvalidHandlerError(f"{what}: that is an app; run its handlers with --app {name}")
    if not callable(found):
        raise InvalidHandlerError(
            f"{what}: {name.partition(':')[2]} is of type {type(found).__name__}, "
            "not a function of one job"
        )
    return found


def load_application(name: str) -> Application:
    """Import the `meshhook.App` that `name` names; the current directory is searched first.

    Args:
        name: `module:attribute`; either side may be dotted.

    Raises:
        InvalidHandlerError: naming what was not found and what is there.
    """
    what = f"app {name!r}"
    found = _load(what, name, _Wanted("app", "shop.jobs:app", _is_application))
    if isinstance(found, Application):
        return found
    attribute = name.partition(":")[2]
    raise InvalidHandlerError(
        f"{what}: {attribute} is of type {type(found).__name__}, not a meshhook.App"
    )


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is to be imported."""

    attribute: str
    """What to call the part after the colon."""
    example: str
    is_one: Callable[[str, object], bool]
    """Whether a value, defined in the module of that name, may have been meant."""


def _load(what: str, name: str, wanted: _Wanted) -> object:
    module_name, colon, attribute = name.partition(":")
    if module_name.endswith(".py") or "/" in module_name:
        path = module_name.removesuffix(".py").removeprefix("./").replace("/", ".")
        raise InvalidHandlerError(
            f"{what}: that is a file; name its module: {path}:{attribute or wanted.attribute}"
        )
    parts = module_name.split(".") + attribute.split(".")
    if not colon or not all(part.isidentifier() for part in parts):
        raise InvalidHandlerError(
            f"{what}: must be module:{wanted.attribute}, for example {wanted.example}"
        )
    found: object = _import(what, module_name)
    place = f"module {module_name!r}"
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise InvalidHandlerError(
                f"{what}: {place} has no {part!r}{_hint(part, _names_in(found, wanted))}"
            )
        found = getattr(found, part)
        place = f"{part!r} of {place}"
    return found


def _import(what: str, module_name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    token = _is_importing.set(True)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise InvalidHandlerError(
                f"{what}: there is no module {missing!r} in the current directory or "
                f"among the installed packages{_hint(missing, _modules_beside(missing))}"
            ) from None
        raise _not_imported(what, module_name, error) from error
    except (Exception, SystemExit) as error:
        raise _not_imported(what, module_name, error) from error
    finally:
        _is_importing.reset(token)


def _not_imported(what: str, module_name: str, error: BaseException) -> InvalidHandlerError:
    place = ""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename]
    if isinstance(error, SyntaxError) and error.filename:
        place = f" ({Path(error.filename).name}, line {error.lineno})"
    elif len(own) > 1:  # the first is this module
        place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})"
    reason = error.msg if isinstance(error, SyntaxError) else error
    return InvalidHandlerError(
        f"{what}: importing {module_name} failed with {type(error).__name__}: {reason}{place}"
    )


def _modules_beside(missing: str) -> list[str]:
    """Return the modules in the place where a missing one was looked for."""
    parent, dot, _ = missing.rpartition(".")
    if not dot:
        return sorted(module.name for module in pkgutil.iter_modules([str(Path.cwd())]))
    paths = getattr(sys.modules.get(parent), "__path__", [])
    return sorted(f"{parent}.{module.name}" for module in pkgutil.iter_modules(paths))


def _names_in(owner: object, wanted: _Wanted) -> list[str]:
    """Return the names defined in `owner` that may have been meant."""
    module = str(getattr(owner, "__name__", ""))
    return sorted(
        name
        for name, value in getattr(owner, "__dict__", {}).items()
        if not name.startswith("_") and wanted.is_one(module, value)
    )


def _is_function(module: str, value: object) -> bool:
    is_own = getattr(value, "__module__", module) == module
    return callable(value) and not isinstance(value, type) and is_own


def _is_application(_: str, value: object) -> bool:
    return isinstance(value, Application) and not isinstance(value, type)


def _hint(name: str, there: Sequence[str]) -> str:
    close = get_close_matches(name, there, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    if not there:
        return ""
    more = f" and {len(there) - _SHOWN_NAMES} more" if len(there) > _SHOWN_NAMES else ""
    return f"; there is: {', '.join(there[:_SHOWN_NAMES])}{more}"
