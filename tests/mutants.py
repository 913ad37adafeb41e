"""Changes one operator or constant of the formulas at a time, and lists the changes that no test notices.

    python tests/mutants.py --count 200 --seed 0 --json mutants.json

This is not a test itself. The package is copied to a temporary folder and changed there, not in the working tree. Each
mutant is run against the tests of its module, with `pytest -x`, in a fork of one process that has imported torch and
other packages; tests named like the module come first. A survivor is a gap in the tests, or an equivalent change.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TESTS: dict[str, tuple[str, ...]] = {
    "methods": ("test_methods.py", "test_golden.py", "test_perturbation.py", "test_gradients.py"),
    "metrics": ("test_metrics.py", "test_metrics_cases.py", "test_metrics_counts.py", "test_metrics_steps.py"),
    "training/loss.py": ("test_learning.py", "test_train.py"),
    "training/pooling.py": ("test_pooling.py", "test_learning.py"),
}
"""What is changed, below `src/eclip`, and the tests that should notice."""
WARM = (
    "numpy",
    "scipy.stats",
    "PIL.Image",
    "torch",
    "torchvision",
    "open_clip",
    "timm",
    "transformers",
    "torchmetrics",
)
"""Imported once, before the forks; never eclip, which jaxtyping's hook must see first."""

OPERATORS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
KILLED, SURVIVED, TIMEOUT = "killed", "survived", "timeout"
BROKEN = 99  # exit status of a fork whose tests did not run, or imported another eclip than the copy


@dataclass
class Mutant:
    """One change.

    Attributes:
        file: below `src/eclip`.
        line: where, in the working tree.
        code: of that line.
        before: the part that is changed.
        after: what it becomes.
        tests: names of the files that should notice.
        place: number of the changed node, in the order of `ast.walk`.
        outcome: "killed", "survived" or "timeout".
        seconds: that the tests took.
    """

    file: str
    line: int
    code: str
    before: str
    after: str
    tests: tuple[str, ...]
    place: int
    outcome: str = ""
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"src/eclip/{self.file}:{self.line}  {self.before}  ->  {self.after}  in  {self.code}"


def changed(node: ast.AST) -> Iterator[ast.AST]:
    """The node with one change each."""

    def but(**fields: Any) -> ast.AST:
        made = copy.deepcopy(node)
        for name, value in fields.items():
            setattr(made, name, value)
        return made

    def swapped(operator: ast.AST) -> Any:
        return OPERATORS[type(operator)]()

    match node:
        case ast.BinOp(left=left, op=binary, right=right) if type(binary) in OPERATORS:
            if not any(isinstance(side, ast.JoinedStr | ast.List) for side in (left, right)):
                yield but(op=swapped(binary))
        case ast.AugAssign(op=either) | ast.BoolOp(op=either) if type(either) in OPERATORS:
            yield but(op=swapped(either))
        case ast.Compare(ops=ops):
            for place, sign in enumerate(ops):
                if type(sign) in OPERATORS:
                    yield but(ops=[*ops[:place], swapped(sign), *ops[place + 1 :]])
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield but(operand=ast.UnaryOp(ast.Not(), operand))
        case ast.UnaryOp(op=ast.USub()):
            yield but(op=ast.UAdd())
        case ast.keyword(arg="dim", value=ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=1))):
            yield but(value=ast.Constant(0))
        case ast.Constant(value=bool(value)):
            yield but(value=not value)
        case ast.Constant(value=int(value) | float(value)):
            yield but(value=value + 1)
            yield but(value=value - 1)
        case ast.Return(value=ast.expr() as value) if not isinstance(value, ast.Constant):
            if isinstance(value, ast.Compare | ast.BoolOp):
                yield but(value=ast.UnaryOp(ast.Not(), value))
            else:
                yield but(value=ast.BinOp(value, ast.Mult(), ast.Constant(2)))


def _left_alone(tree: ast.Module) -> set[int]:
    """Nodes that decide no number: types, decorators, messages of errors, what type checkers alone see."""
    roots: list[ast.AST | None] = []
    for node in ast.walk(tree):
        unseen = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if unseen or isinstance(node, ast.Raise | ast.Import | ast.ImportFrom | ast.FormattedValue):
            roots.append(node)
        elif isinstance(node, ast.Assert):
            roots.append(node.msg)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            roots += [*node.decorator_list, getattr(node, "returns", None)]
        elif isinstance(node, ast.arg | ast.AnnAssign):
            roots.append(node.annotation)
    return {id(one) for root in roots if root is not None for one in ast.walk(root)}


def mutants_of(source: Path) -> list[Mutant]:
    """All mutants of the files in `TESTS`."""
    found = []
    for target, tests in TESTS.items():
        for name in tests:
            if not (ROOT / "tests" / name).is_file():
                raise SystemExit(f"there is no tests/{name}: correct TESTS in tests/mutants.py.")
        place = source / target
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            tree, lines = ast.parse(text), ["", *text.splitlines()]
            alone = _left_alone(tree)
            for number, node in enumerate(ast.walk(tree)):
                if id(node) not in alone:
                    file, line = str(path.relative_to(source)), getattr(node, "lineno", 0)
                    where = (file, line, lines[line].strip(), ast.unparse(node))
                    found += [Mutant(*where, ast.unparse(one), tests, number) for one in changed(node)]
    return found


def code_of(source: str, mutant: Mutant) -> str:
    """The file's code with the change."""
    tree = ast.parse(source)
    node = list(ast.walk(tree))[mutant.place]
    made = next(one for one in changed(node) if ast.unparse(one) == mutant.after)
    node.__dict__.update(made.__dict__)
    return ast.unparse(ast.fix_missing_locations(tree))


class First:
    """A plugin: tests that bear the module's name come first, as one of them most likely fails."""

    def __init__(self, name: str) -> None:
        self.name = name

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Stable, so that fixtures of a module are made once for each half."""
        items.sort(key=lambda item: self.name not in item.name)


def tried(library: Path, tests: tuple[str, ...], name: str, limit: float, log: Path) -> tuple[str, float]:
    """What the tests say of the package in the folder, and the seconds they took, in a fork that dies at the limit."""
    start = time.monotonic()
    child = os.fork()
    if not child:
        os.setsid()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limit)
        code = BROKEN
        try:
            with log.open("w", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
                code = _run(library, tests, name)
        finally:
            os._exit(code)  # whatever was raised, a fork must not go on with the work of its parent
    _, status = os.waitpid(child, 0)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what the tests had started
    code = os.waitstatus_to_exitcode(status)
    if code in (4, 5, BROKEN):
        raise SystemExit(f"the tests did not run (exit status {code}), see\n{log.read_text(encoding='utf-8')[-3000:]}")
    outcome = TIMEOUT if code == -signal.SIGALRM else SURVIVED if code == 0 else KILLED
    return outcome, round(time.monotonic() - start, 1)


def _run(library: Path, tests: tuple[str, ...], name: str) -> int:
    import pytest

    sys.path.insert(0, str(library))
    os.environ["PYTHONPATH"] = str(library)
    options = ["-x", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins that are imported already
    code = int(pytest.main([*options, *(str(ROOT / "tests" / test) for test in tests)], plugins=[First(name)]))
    found = getattr(sys.modules.get("eclip"), "__file__", "") or ""
    return code if code or found.startswith(str(library)) else BROKEN


def main() -> None:
    """Sample, try, list."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=200, help="so many mutants, drawn at random (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")
    parser.add_argument(
        "--after", type=int, default=0, help="leave out the first N, to continue a run that was stopped"
    )
    parser.add_argument("--only", default="", help="only files whose path below src/eclip has this")
    parser.add_argument("--json", type=Path, help="write all mutants and their outcomes to this file")
    parser.add_argument("--list", action="store_true", help="show the mutants and try none")
    asked = parser.parse_args()
    source = ROOT / "src" / "eclip"
    every = [one for one in mutants_of(source) if asked.only in one.file]
    sample = random.Random(asked.seed).sample(every, min(asked.count, len(every)))[asked.after :]
    print(f"{len(sample)} of {len(every)} mutants, seed {asked.seed}", file=sys.stderr, flush=True)
    if asked.list:
        print(*sample, sep="\n")
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in WARM:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="eclip-mutants-") as folder:
        library, log = Path(folder) / "src", Path(folder) / "log"
        shutil.copytree(source, library / "eclip", ignore=shutil.ignore_patterns("__pycache__"))
        limits: dict[tuple[str, ...], float] = {}
        for tests in dict.fromkeys(one.tests for one in sample):
            outcome, seconds = tried(library, tests, "", 3600, log)
            print(f"unchanged: {', '.join(tests)} pass in {seconds} s", file=sys.stderr, flush=True)
            if outcome != SURVIVED:
                raise SystemExit(f"these tests fail without a change:\n{log.read_text(encoding='utf-8')[-3000:]}")
            limits[tests] = 3 * seconds + 30
        for place, one in enumerate(sample, 1):
            path = library / "eclip" / one.file
            original = path.read_text(encoding="utf-8")
            for content in (code_of(original, one), original):
                for stale in path.parent.glob(f"__pycache__/{path.stem}.*.pyc"):
                    stale.unlink()  # a size and a second alone tell Python that a file has changed
                path.write_text(content, encoding="utf-8")
                if content is not original:
                    one.outcome, one.seconds = tried(library, one.tests, path.stem, limits[one.tests], log)
            print(f"[{place}/{len(sample)}] {one.outcome} in {one.seconds} s: {one}", file=sys.stderr, flush=True)
    survivors = [one for one in sample if one.outcome == SURVIVED]
    print(f"{len(survivors)} of {len(sample)} survived", *survivors, sep="\n")
    if asked.json:
        asked.json.write_text(json.dumps([asdict(one) for one in sample], indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
