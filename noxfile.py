"""Every check and chore, the same for a person and for CI: `pip install nox && nox`."""

from pathlib import Path

import nox

nox.needs_version = ">=2025.5"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"

GROUPS = nox.project.load_toml("pyproject.toml")
PARSER = "tests/test_engine_parser.py"
FAST = "not engine and not network and not gpu"


def install(session: nox.Session, group: str) -> None:
    session.install("-e.[smoke]", *nox.project.dependency_groups(GROUPS, group))


@nox.session
def lint(session: nox.Session) -> None:
    install(session, "lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run what needs no engine, no network and no GPU: seconds."""
    install(session, "test")
    session.run("pytest", "-m", FAST, "--cov", *session.posargs)


@nox.session
def integration(session: nox.Session) -> None:
    """Run the rest: real images, real registries; what this machine lacks is skipped by name.

    The comparison with an engine's own parser installs 3 GB: it belongs to `catalogue`.
    """
    install(session, "test")
    session.run("pytest", "-m", f"not ({FAST})", f"--ignore={PARSER}", *session.posargs)


@nox.session(default=False)
def faults(session: nox.Session) -> None:
    """Kill, and fail, a small build at every system call that changes a file: minutes."""
    install(session, "test")
    session.run("python", "-m", "tests.faults", *session.posargs)


@nox.session(default=False, tags=["update"])
def relock(session: nox.Session) -> None:
    """Move every pin to what its stack allows today; stacks without a lock stay without."""
    session.install("-e.")
    locks = sorted(Path("lockfiles").glob("pylock.*.toml"))
    stacks = [f"stacks/{path.name.split('.')[1]}.yaml" for path in locks]
    session.run("builder", "lock", "--upgrade", *stacks)


@nox.session(default=False, tags=["update"])
def catalogue(session: nox.Session) -> None:
    """Compare the catalogue with the index and its wheels; `-- write` writes what is known.

    `-- read vllm==0.20.2` compares it with the GPU code inside: hundreds of megabytes a wheel.
    """
    install(session, "test")
    if "read" in session.posargs:
        names = [each for each in session.posargs if each != "read"]
        session.run("python", "-m", "builder.sources.catalogue_code", *names)
        return
    check = () if "write" in session.posargs else ("--check",)
    session.run("python", "-m", "builder.sources.catalogue_refresh", *check)
    session.run("pytest", "-m", "network", PARSER)


@nox.session(default=False, tags=["update"])
def reference(session: nox.Session) -> None:
    """Write the list of rules in docs/rules."""
    session.install("-e.")
    session.run("python", "-m", "docs.rules_index")


@nox.session(default=False, tags=["update"])
def schema(session: nox.Session) -> None:
    """Write the JSON schema that editors use for stack files."""
    session.install("-e.")
    session.run("python", "-m", "builder.stack.schema")
