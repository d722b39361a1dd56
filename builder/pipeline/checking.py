"""Stack file, its lock if there is one, and the catalogue → verdicts.  No network."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from builder import console, rules
from builder import lock as locks
from builder import stack as stacks
from builder.catalogue.cards import card
from builder.errors import StackError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from builder.catalogue.cards import ModelCard
    from builder.lock import Facts, Lock
    from builder.rules import ModelFacts, Move, Severity, Subject, Verdict
    from builder.stack import Stack


@dataclass(frozen=True)
class Checked:
    """A stack and the verdict on each of its cells."""

    path: Path
    stack: Stack
    line: Callable[[str], int]
    """Where a field such as `target.gpu` stands."""
    verdicts: tuple[Verdict, ...]
    nearest: Move | None = None
    """Of a stack with a cell that is refused: the smallest change after which none is."""
    lock: Lock | None = None
    """What its file holds; None where there is none."""
    drift: tuple[str, ...] = ()
    """How that lock differs from the stack."""

    @property
    def is_refused(self) -> bool:
        """Whether a cell is refused."""
        return any(verdict.word == "refused" for verdict in self.verdicts)


def check(stack_path: Path, gpus: Sequence[str] = ()) -> Checked:
    """Judge the cells of a stack, by its lock where that is current; all if none is named.

    Raises:
        StackError: the file itself is wrong.
    """
    stack, line = stacks.load_with_lines(stack_path)
    lock, drift = _lock(stack_path, stack)
    found = subjects(stack_path, stack, lock, drift)
    chosen = tuple(each for each in found if not gpus or each.stack.target.gpu in gpus)
    return replace(_judged(stack_path, stack, line, chosen), lock=lock, drift=drift)


def check_lock(asked: Checked, lock: Lock) -> Checked:
    """Judge a stack again, by a lock that was made of it just now."""
    cells = subjects(asked.path, asked.stack, lock, ())
    return _judged(asked.path, asked.stack, asked.line, cells)


def _judged(
    path: Path, stack: Stack, line: Callable[[str], int], cells: tuple[Subject, ...]
) -> Checked:
    verdicts = tuple(map(rules.judge, cells))
    made = Checked(path, stack, line, verdicts)
    if not made.is_refused:
        return made
    alone = verdicts[0].nearest if len(verdicts) == 1 else rules.nearest_for_all(verdicts)
    return replace(made, nearest=alone)


def refuse(checked: Checked) -> None:
    """Go no further with a stack that a rule refuses.

    Raises:
        StackError: with everything that is refused.
    """
    refused = _lines(checked, "error")
    if refused:
        message = "\n  ".join([f"{checked.path}: refused by the rules", *refused])
        raise StackError(message, _hint(checked))


def warn(checked: Checked) -> None:
    """Say the warnings, each once."""
    for line in _lines(checked, "warning"):
        console.warn(line)


def _lines(checked: Checked, severity: Severity) -> list[str]:
    found = [
        f"{checked.path}:{checked.line(each.place)}: {each.place}: {each.text} ({each.rule})"
        for verdict in checked.verdicts
        for each in verdict.findings
        if each.severity == severity
    ]
    return list(dict.fromkeys(found))


def _hint(checked: Checked) -> str:
    more = f"builder check {checked.path} says more"
    return f"{rules.described(checked.nearest)} works; {more}" if checked.nearest else more


def subjects(
    stack_path: Path, stack: Stack, lock: Lock | None, drift: tuple[str, ...]
) -> tuple[Subject, ...]:
    """Return each cell of a stack with all that is known of it here."""
    model = _model(stack_path, stack, lock)
    return tuple(
        rules.Subject(
            stack=rules.changed(stack, (rules.Change("target.gpu", gpu),)),
            model=model,
            lock=_narrowed(lock, gpu) if lock and not drift else None,
            drift=drift,
        )
        for gpu in stack.target.gpus
    )


def _narrowed(lock: Lock, gpu: str) -> Lock:
    return lock.cell(gpu) if lock.cells else lock


def _lock(stack_path: Path, stack: Stack) -> tuple[Lock | None, tuple[str, ...]]:
    from builder.sources import own

    path = locks.path_for(stack_path, stack.name)
    if not path.exists():
        return None, ()
    lock = locks.read(path)
    found = locks.drift(lock, stacks.canonical(stack), own.pins())
    return lock, tuple(str(difference) for difference in found)


def _model(stack_path: Path, stack: Stack, lock: Lock | None) -> ModelFacts | None:
    """Ask the lock, as long as the stack asks for its model still; else the folder, or a card."""
    asked = stack.model
    if lock is not None and lock.stack.get("model") == stacks.canonical(stack)["model"]:
        locked = lock.models[0]
        name = locked.repo or str(asked.path)
        facts, known = locked.facts, card(locked.repo) if locked.repo else None
        return _facts(name, facts, known)
    if asked.repo is not None:
        return rules.of_repo(asked.repo)
    return _folder(stack_path.parent / str(asked.path), str(asked.path))


def _folder(folder: Path, name: str) -> ModelFacts | None:
    from builder.sources import model_facts

    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as fault:
        message = f"{path}: cannot be read: {fault}"
        raise StackError(message, "a model folder has the config.json of its repository") from fault
    if not isinstance(config, dict):
        message = f"{path}: expected an object, got {type(config).__name__}"
        raise StackError(message, "a model folder has the config.json of its repository")
    return _facts(name, model_facts.facts(config, ()), None)


def _facts(name: str, facts: Facts, known: ModelCard | None) -> ModelFacts | None:
    """A config without what the forecast needs is as good as none: a rule says so."""
    try:
        return rules.of_config(name, facts.config, facts.tensor_bytes or None, known)
    except StackError:
        return None
