"""The project's checks: `nox` runs the tests on every supported Python found, `nox -s NAME` the others.

Arguments after `--` go to pytest, to ruff, or to the benchmarks: `nox -s tests-3.12 -- -k retry -x`.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_external_run = True
nox.options.sessions = ["tests"]

PROJECT = nox.project.load_toml("pyproject.toml")
SUPPORTED = ("3.11", "3.12", "3.13")
OLDEST = SUPPORTED[0]


def use_pyenv() -> None:
    """Have pyenv's `python3.12` and so on start: by itself it starts only the versions selected."""
    pyenv = shutil.which("pyenv")
    if pyenv is None or "PYENV_VERSION" in os.environ:
        return
    listed = subprocess.run(
        [pyenv, "versions", "--bare", "--skip-aliases"], capture_output=True, text=True, check=False
    )
    newest: dict[str, tuple[int, str]] = {}
    for version in listed.stdout.split():
        if match := re.fullmatch(r"(3\.\d+)\.(\d+)", version):
            minor, patch = match[1], int(match[2])
            newest[minor] = max(newest.get(minor, (-1, "")), (patch, version))
    chosen = [newest[minor][1] for minor in SUPPORTED if minor in newest]
    if chosen:
        os.environ["PYENV_VERSION"] = ":".join(chosen)


def is_here(version: str) -> bool:
    """Whether `python3.12` starts, for 3.12; a pyenv shim may be there and not start."""
    program = shutil.which(f"python{version}")
    return program is not None and subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0


use_pyenv()
CURRENT = f"{sys.version_info[0]}.{sys.version_info[1]}"
PYTHONS = [version for version in SUPPORTED if version == CURRENT or is_here(version)] or [CURRENT]

built: list[Path] = []


def wheel(session: nox.Session) -> str:
    """The wheel of this project, built once for all sessions."""
    if not built:
        folder = Path(session.cache_dir, "wheel")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)  # pip would name the wheel itself like a folder that isn't there
        session.run("pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}", ".", silent=True)
        built.extend(folder.glob("*.whl"))
    return str(built[0])


def group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(PROJECT, name))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """All tests, on the built wheel."""
    session.install(f"{wheel(session)}[cli,otel,trio]", *group("test"))
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and its formatting."""
    session.install(*group("lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")


@nox.session
def typing(session: nox.Session) -> None:
    """mypy --strict and pyright strict on the package, and the type tests under both."""
    session.install(f"{wheel(session)}[cli,otel,testing,trio]", *group("typing"), "opentelemetry-sdk")
    if shutil.which("node") is None:
        session.install("pyright[nodejs]")
    session.run("mypy", "--strict", "flowkit", "_flowkit_pytest.py")
    session.run("pyright", "--warnings")
    session.run("python", "tests/typing/check.py")


@nox.session(python=OLDEST if OLDEST in PYTHONS else CURRENT)
def lowest(session: nox.Session) -> None:
    """All tests with the oldest dependencies that pyproject.toml allows."""
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = {*PROJECT["project"]["dependencies"], *(one for extra in extras.values() for one in extra)}
    constraints = Path(session.create_tmp(), "lowest.txt")
    bounds = sorted(one.replace(">=", "==") for one in wanted if ">=" in one)
    constraints.write_text("\n".join(bounds), encoding="utf-8")
    session.install(f"{wheel(session)}[{','.join(extras)}]", *group("test"), f"--constraint={constraints}")
    session.run("pip", "list")
    session.run("pytest", *session.posargs)


@nox.session
def bare(session: nox.Session) -> None:
    """Without extras: the tests that need neither trio nor Hypothesis, on asyncio (see tests/conftest.py)."""
    session.install(wheel(session), *(one for one in group("test") if re.match(r"pytest[<>=]", one)))
    for extra in ("click", "hypothesis", "opentelemetry", "rich", "trio"):
        session.run("python", "-c", f"import {extra}", success_codes=[1], silent=True)
    session.run("pytest", *session.posargs)


@nox.session
def crash(session: nox.Session) -> None:
    """Runs crash at every point there is, in every form, and real processes are killed (some minutes)."""
    session.install(f"{wheel(session)}[cli,otel,trio]", *group("test"))
    session.run("pytest", "-m", "crash", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks, quickly; `nox -s bench -- --peers` in full, beside other engines, which it installs."""
    session.install(f"{wheel(session)}[testing]", *(group("peers") if "--peers" in session.posargs else ()))
    session.run("python", "-m", "benchmarks", *(session.posargs or ["--quick"]))
