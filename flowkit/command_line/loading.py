"""``module:Flow`` to a workflow: `load`.

``package.module:Flow``, ``path/to/flow.py:Flow``, or without ``:Flow`` where there is just one workflow to take. The
name may be of a `Workflow` class that takes no arguments, of an instance, or of a function that returns either.

The current directory comes first on ``sys.path``, as with ``python -m``. A file is imported under the name that it
would have if it were imported: one in a package as ``package.module``, from the folder above the outermost package; any
other by its own name, with its folder on ``sys.path``, as if Python had been started with it. So what is stored by
``flowkit run shop/orders.py:Order`` bears the same names as what is stored by ``flowkit run shop.orders:Order``.
"""

import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from flowkit.command_line.exits import Refused, line_of
from flowkit.errors import WorkflowError, did_you_mean, shown
from flowkit.workflow import Workflow, plan_of

__all__ = ["load", "load_with_maker"]

LISTED = 20
"""Names shown of what a module has."""


def load(named: str, *, folder: Path | None = None) -> Workflow:
    """The workflow that is named, an instance. Its wiring isn't checked.

    Args:
        named: ``module:Flow`` or ``path/to/flow.py:Flow``.
        folder: where it is looked for, too, after the current directory.

    Raises:
        Refused: there is no such module or name, it is no workflow, or the author's code raises an error.
    """
    return load_with_maker(named, folder=folder)[0]


def load_with_maker(named: str, *, folder: Path | None = None) -> tuple[Workflow, Workflow | Callable[[], Workflow]]:
    """As `load`; and what makes more like it, or the same instance where that is what was named."""
    where, name = _parts(named)
    _find_modules_in(_here(), *([] if folder is None else [str(folder)]))
    if where.endswith(".py") or os.sep in where or "/" in where:
        module = _import_file(named, where, folder)
    else:
        module = _import_module(named, where)
    if not name:
        name = _only(module, where)
    named = f"{where}:{name}"
    found = _named(module, named, name)
    workflow = _made(found, named)
    try:
        plan_of(workflow)
    except WorkflowError as error:
        raise Refused(str(error)) from error
    return workflow, found if isinstance(found, Workflow) else lambda: _made(found, named)


def _parts(named: str) -> tuple[str, str]:
    """Where it is, and its name, which may be left out."""
    where, colon, name = named.rpartition(":")
    if not colon or name.endswith(".py") or "/" in name or os.sep in name:  # C:\flow.py
        where, name = named, ""
    elif not name:
        raise Refused(f"{named!r} has no name after its colon: write {where}:Flow, or {where} if it has one workflow")
    if name.endswith(")") and "(" in name:
        raise Refused(
            f"{named!r} calls what it names: leave the parentheses out, a function is called without arguments"
        )
    if name and not all(part.isidentifier() for part in name.split(".")):
        raise Refused(f"{named!r} has {name!r} as the workflow's name, which is no name: write module:Flow")
    if not where:
        raise Refused(f"{named!r} names no module: write module{named if named else ':Flow'}")
    return where, name


def _here() -> str:
    try:
        return os.getcwd()
    except OSError:
        raise Refused("the current directory isn't there any more: go to one that is") from None


def _find_modules_in(*folders: str) -> None:
    for folder in reversed(folders):
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)


# ------------------------------------------------------------------------------------------------------------ modules


def _import_module(named: str, where: str) -> ModuleType:
    file, dot, name = where.rpartition(".")
    if dot and file.endswith(".py"):
        raise Refused(f"there is no module {where!r}: write {file}:{name}")
    if not all(part.isidentifier() for part in where.split(".")):
        if Path(where).is_dir():
            raise Refused(f"{where} is a folder: name a file in it, {Path(where, 'flow.py')}:Flow")
        raise Refused(f"{named!r} has {where!r} as the module, which is no name: write module:Flow, or flow.py:Flow")
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if where == missing or where.startswith(f"{missing}."):
            raise Refused(_no_module(missing, where)) from None
        raise _raised(where, error) from error
    except (Exception, SystemExit) as error:
        raise _raised(where, error) from error


def _no_module(missing: str, where: str) -> str:
    above, _, last = missing.rpartition(".")
    here = _here()
    places = [here] if not above else list(getattr(sys.modules.get(above), "__path__", ()))
    known = [one.name for one in pkgutil.iter_modules(places)]
    if above and hasattr(sys.modules.get(above), last):
        return f"there is no module {missing!r}: write {above}:{last}"
    if above and not places:
        return f"there is no module {missing!r}: {above} is a module without parts; write {above}:Flow"
    guess = did_you_mean(last, known)
    if guess is not None and above:
        guess = guess.replace("'", f"'{above}.", 1)
    file = Path(*where.split(".")).with_suffix(".py")
    if guess is None and file.exists():
        guess = f"write {file}:Flow"
    has = f"{above} has {_listed(known)}" if above else f"looked in {here} and what is installed"
    return f"there is no module {missing!r}: {guess or has}"


def _import_file(named: str, where: str, folder: Path | None) -> ModuleType:
    path = Path(where)
    if folder is not None and not path.exists():
        path = folder / path
    if path.is_dir():
        raise Refused(f"{where} is a folder: name a file in it, {path / 'flow.py'}:Flow")
    if not path.is_file():
        near = path.parent if path.parent.is_dir() else None
        guess = did_you_mean(path.name, [one.name for one in near.glob("*.py")]) if near is not None else None
        if guess is not None and path.parent != Path():
            guess = guess.replace("'", f"'{path.parent}{os.sep}", 1)
        file = Path(f"{path.parent}.py")
        if near is None and file.is_file():
            guess = f"write {file}:{path.name}"
        absent = f"there is no folder {path.parent}" if near is None else f"looked in {near.resolve()}"
        raise Refused(f"there is no file {where}: {guess or absent}")
    if path.suffix != ".py":
        raise Refused(f"{where} is no Python file: write flow.py:Flow")
    path = path.resolve()
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").is_file() and root.name.isidentifier():
        parts.insert(0, root.name)
        root = root.parent
    if len(parts) > 1:
        if parts[-1] == "__init__":
            del parts[-1]
        _find_modules_in(_here(), str(root))
        module = _import_module(named, ".".join(parts))
        _check_is(module, path, where)
        return module
    return _run_file(path, where)


def _run_file(path: Path, where: str) -> ModuleType:
    """Import a file that is in no package."""
    name = path.stem
    if (known := sys.modules.get(name)) is not None:
        _check_is(known, path, where)
        return known
    _find_modules_in(str(path.parent), _here())
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Refused(f"{where} can't be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, Exception | SystemExit):
            raise _raised(where, error) from error
        raise
    return module


def _check_is(module: ModuleType, path: Path, where: str) -> None:
    file = getattr(module, "__file__", None)
    if file is None or Path(file).resolve() != path:
        raise Refused(
            f"{where} would be the module {module.__name__}, but that is {file or 'a part of Python'}: rename your file"
        )


def _raised(where: str, error: BaseException) -> Refused:
    """The author's module can't be imported."""
    if isinstance(error, SyntaxError):
        line = f": {error.text.strip()}" if error.text else ""
        message = f"{where} can't be imported: {error.msg}{line} ({error.filename}:{error.lineno})"
    elif isinstance(error, WorkflowError):
        message = str(error)  # of a class that can't work; it names the place
    elif isinstance(error, SystemExit):
        cure = 'keep what shall only run as a program under `if __name__ == "__main__":`'
        message = f"{where} ends the program when it is imported ({line_of(error)}): {cure}"
    else:
        message = f"{where} can't be imported, it raises {line_of(error)}"
    return Refused(message, cause=error)


# ---------------------------------------------------------------------------------------------------------- workflows


def _workflows_in(module: ModuleType) -> dict[str, Any]:
    """What a module has to offer: its instances, the classes that none of them is of, and functions that say that they
    return a workflow. What it has imported isn't counted."""
    instances: dict[str, Any] = {}
    classes: dict[str, Any] = {}
    makers: dict[str, Any] = {}
    for name, value in vars(module).items():
        if isinstance(value, Workflow):
            if not any(value is other for other in instances.values()):
                instances[name] = value
        elif isinstance(value, type):
            if issubclass(value, Workflow) and value.__module__ == module.__name__ and _has_steps(value):
                classes[name] = value
        elif inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_"):
            returned = inspect.get_annotations(value).get("return")
            if isinstance(returned, str):
                returned = vars(module).get(returned)
            if isinstance(returned, type) and issubclass(returned, Workflow) and not _needed(value):
                makers[name] = value
    made: set[Any] = {type(one) for one in instances.values()}
    return {**instances, **{name: one for name, one in classes.items() if one not in made}, **makers}


def _has_steps(cls: type[Workflow]) -> bool:
    try:
        return bool(plan_of(cls.__new__(cls)).steps)
    except Exception:  # noqa: BLE001 - one that can't work is a workflow nevertheless
        return True


def _only(module: ModuleType, where: str) -> str:
    """The name of the one workflow."""
    found = _workflows_in(module)
    if len(found) == 1:
        return next(iter(found))
    if not found:
        raise Refused(f"{where} has no workflow: it has {_listed(_public(module))}")
    raise Refused(f"{where} has {len(found)} workflows: write {_or(f'{where}:{name}' for name in found)}")


def _named(module: ModuleType, named: str, name: str) -> Any:
    where = named.rpartition(":")[0]
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            workflows = list(_workflows_in(module))
            inside = found is module
            known = _public(module) if inside else [one for one in dir(found) if not one.startswith("_")]
            guess = did_you_mean(part, workflows) or did_you_mean(part, known)
            has = f"it has {_listed(known)}"
            if inside:
                has = (
                    f"its workflows are {_listed(workflows)}"
                    if workflows
                    else f"it has no workflow, only {_listed(known)}"
                )
            raise Refused(f"{where if inside else shown(found)} has no {part!r}: {guess or has}") from None
        except Exception as error:
            raise Refused(f"{named} can't be read, it raises {line_of(error)}", cause=error) from error
    if not _may_be_workflow(found):
        workflows = list(_workflows_in(module))
        cure = f"the workflows of {where} are {_listed(workflows)}" if workflows else f"{where} has no workflow"
        raise Refused(f"{named} is {_described(found)}, no workflow: {cure}")
    return found


def _may_be_workflow(found: Any) -> bool:
    if isinstance(found, type):
        return issubclass(found, Workflow)
    return isinstance(found, Workflow) or inspect.isroutine(found) or hasattr(found, "__wrapped__")


def _made(found: Any, named: str) -> Workflow:
    """An instance, of an instance, a class or a function."""
    if isinstance(found, Workflow):
        return found
    if found is Workflow:
        raise Refused(f"{named} is flowkit's own class Workflow, which has no steps: name one of yours")
    is_class = isinstance(found, type)
    if needs := _needed(found):
        name = found.__name__
        listed = ", ".join(needs)
        if not is_class:
            raise Refused(
                f"{named} is a function that takes {listed}: name one that takes nothing, and returns a workflow"
            )
        module = named.rpartition(":")[0]
        raise Refused(
            f"{named} can't be made without arguments, it takes {listed}: name an instance, or a function that returns "
            f"one, such as `def flow(): return {name}({', '.join(f'{one}=…' for one in needs)})`; then write "
            f"{module}:flow"
        )
    if inspect.iscoroutinefunction(found):
        raise Refused(f"{named} is an async function: name a plain one, which returns a workflow")
    try:
        made = found()
    except WorkflowError as error:
        raise Refused(str(error), cause=error) from error
    except Exception as error:
        raise Refused(f"{named}() raises {line_of(error)}", cause=error) from error
    if isinstance(made, type) and issubclass(made, Workflow) and not is_class:
        return _made(made, named)
    if not isinstance(made, Workflow):
        raise Refused(f"{named}() returns {_described(made)}, no workflow")
    return made


def _needed(found: Any) -> list[str]:
    """The parameters without which it can't be called."""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in optional]


# ------------------------------------------------------------------------------------------------------------- words


def _described(value: Any) -> str:
    from flowkit.events import Event

    if isinstance(value, ModuleType):
        return f"the module {value.__name__}"
    if isinstance(value, type):
        return f"the {'event' if issubclass(value, Event) else 'class'} {value.__name__}"
    if inspect.iscoroutine(value):
        value.close()
        return "a coroutine"
    return shown(value) if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"


def _public(module: ModuleType) -> list[str]:
    every = [name for name in vars(module) if not name.startswith("_")]
    own = [name for name in every if getattr(vars(module)[name], "__module__", module.__name__) == module.__name__]
    return [name for name in own if not isinstance(vars(module)[name], ModuleType)]


def _listed(names: "list[str]") -> str:
    if not names:
        return "nothing"
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _or(names: Iterator[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}"
