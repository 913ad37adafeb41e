"""Every command and every Python statement in README.md and docs/ runs, or is listed here with the reason why not.

What is listed is still read: commands, options, names and keywords must exist.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import shlex
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import eclip
import tiny
from eclip.cli import app
from eclip.texts import vocabulary

ROOT = Path(__file__).parents[1]
ELSEWHERE = {"tensors.md": "runs as a whole in tests/test_tensors.py"}
PAGES = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md")) if path.name not in ELSEWHERE]
PAGES.insert(0, "README.md")

NOT_RUN = {
    "pip install": "changes the environment",
    "eclip doctor": "reports on the machine, and exits with 1 if something is missing there",
    "python recipes/": "needs the data and the runs of the results",
    "torchrun": "needs several processes or GPUs",
    "eclip train": "needs a data set and minutes",
    "eclip serve": "runs until Ctrl-C",
    "curl": "needs a server",
    "clip.mp4": "needs a video",
    "film.": "needs a video",
    "eclip eval": "needs a data set",
    "eclip report": "needs the folder of an evaluation",
    "eclip datasets verify": "needs a data set",
    "eclip datasets prepare": "needs a data set",
    "/openai": "downloads weights",
    "hf:": "downloads weights, or needs a folder with them",
    "OFA-Sys": "downloads weights",
    "facebook/": "downloads weights",
    "sam.": "needs the weights of SAM",
    "best.": "needs the weights of SAM",
    'pretrained="openai"': "downloads weights",
    "import AutoModel": "belongs to the download after it",
    "processor=processor": "needs a model of transformers in memory",
    '"a dog", model=backbone': "needs a trained head",
    "train-{000..127}.tar": "needs a data set",
    "--head head": "needs a trained head",
    'head="head"': "needs a trained head",
    "--engine ray": "starts a Ray cluster",
    "--shard 0/4": "belongs to four jobs of a cluster",
    "occlusion": "takes hundreds of passes",
    "--window 448": "takes seconds",
    "eclip.train(": "needs a data set and minutes",
    "eclip.evaluate(": "needs a data set",
    "found.results": "needs an evaluation",
    "found.check": "needs an evaluation",
    "Evaluation.load": "needs an evaluation",
    ".read(": "needs a data set, or its items",
    "masks.": "needs a data set",
    "pairs.items": "needs a data set",
    "phrases.items": "needs a data set",
    "item.open()": "needs a data set",
    "duckdb": "duckdb is no dependency",
    "done.": "needs the run before it",
    "MapDataset(": "needs the run before it",
    "DataLoader(": "needs the run before it",
    "pd.": "needs the run before it",
    "t[t.found": "needs the table before it",
    "t.pivot(": "needs the table before it",
    "to_fiftyone(": "fiftyone is no dependency",
    "import pandas": "pandas is no dependency",
    "httpx": "needs a server",
    "client.": "needs a server",
    "asked = {": "needs a server",
    "for text in found": "needs a server",
    "packed": "needs a server",
}
"""Parts of commands and statements that are not run, and why."""

RUN = ("-o first-head", "--head first-head")
"""Parts of commands that run all the same, because they are small."""


class Block(NamedTuple):
    """A fenced block of a page."""

    line: int
    language: str
    code: str
    output: str = ""
    """Lines of its output, if a block "text" follows at once."""


def blocks_of(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    form = r"^```(sh|python)\n(.*?)^```$(?:\n\n```text\n(.*?)^```$)?"
    found = re.finditer(form, text, flags=re.MULTILINE | re.DOTALL)
    return [Block(text[: one.start()].count("\n") + 2, one[1], one[2], one[3] or "") for one in found]


def steps_of(block: Block) -> list[str]:
    """Commands of a shell block, statements of a Python block, with the comments behind them."""
    if block.language == "sh":
        return [line for line in block.code.replace("\\\n", " ").splitlines() if line.strip()]
    lines = block.code.splitlines()
    return ["\n".join(lines[one.lineno - 1 : one.end_lineno]) for one in ast.parse(block.code).body]


def reason_for(step: str) -> str | None:
    if any(part in step for part in RUN):
        return None
    return next((reason for part, reason in NOT_RUN.items() if part in step), None)


def command_of(line: str) -> list[str]:
    """The words of a command without its comment, from `eclip` on; empty if it is not ours."""
    words = shlex.split(line, comments=True)
    return words[words.index("eclip") + 1 :] if "eclip" in words else []


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the pages speak of."""
    shutil.copytree(ROOT / "docs" / "images", tmp_path / "docs" / "images")
    (tmp_path / "images").mkdir()
    for name in ("dog", "cat"):
        shutil.copy(ROOT / "docs" / "images" / f"{name}.jpg", tmp_path / "images")
    for name in ("image.jpg", "street.jpg"):
        shutil.copy(ROOT / "docs" / "images" / "dog.jpg", tmp_path / name)
    table = (ROOT / "docs" / "cookbook.md").read_text(encoding="utf-8").partition("```text\nfilepath\t")
    (tmp_path / "captions.tsv").write_text("filepath\t" + table[2].partition("```")[0])
    (tmp_path / "images.csv").write_text("image\nimages/dog.jpg\nimages/cat.jpg\n")
    for name in ("texts.txt", "captions.txt", "classes.txt"):
        (tmp_path / name).write_text("a dog\na cat\n")
    whole = vocabulary._lines
    monkeypatch.setattr(vocabulary, "_lines", lambda text: whole(text)[::15])  # encoding all 1,444 words takes 15 s
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page)])
@pytest.mark.long
def test_the_blocks_of_a_page_run(page: str, place: Path) -> None:
    names: dict[str, Any] = {"eclip": eclip, "Path": Path, "paths": ["images/dog.jpg"]}
    names |= {"model": tiny.model("vit"), "my_tokenizer": tiny._tokenizer()}
    names["model"].visual.preprocess_cfg = {"mean": tiny.MEAN, "std": tiny.STD}  # as open_clip records them
    for block in blocks_of(page):
        shutil.rmtree("out", ignore_errors=True)
        printed = []
        for step in steps_of(block):
            where = f"{page}:{block.line}: {step}"
            if reason_for(step):
                check_unrun(step, block.language, where)
            elif block.language == "python":
                printed.append(run_python(step, names, where))
            else:
                printed.append(run_command(step, where))
        lines = "".join(printed).splitlines()
        missing = [line for line in block.output.splitlines() if line not in lines]
        assert not missing, f"{page}:{block.line} does not print {missing}, but\n{''.join(printed)}"


run_before = dict[str, tuple[str, str]]()
"""Page and output of commands that ran. Those of other pages need not run twice."""


def run_command(line: str, where: str) -> str:
    words, page = command_of(line), where.partition(":")[0]
    if run_before.get(shlex.join(words), (page, ""))[0] != page:
        return run_before[shlex.join(words)][1]
    assert words, f"{where}: not a command of eclip; list it in NOT_RUN with a reason"
    shutil.rmtree("out", ignore_errors=True)  # examples beside each other name the same folder
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, f"{where}\n{done.output}\n{done.exception!r}"
    run_before[shlex.join(words)] = (page, done.output)
    return done.output


def run_python(step: str, names: dict[str, Any], where: str) -> str:
    """Run a statement; returns what it prints."""
    stated = re.search(r"# (-?\d+\.(\d+))$", step)  # a comment that is nothing but the value
    printed = io.StringIO()
    try:
        if stated is None:
            with contextlib.redirect_stdout(printed):
                exec(compile(step, where, "exec"), names)
            return printed.getvalue()
        value = eval(step, names)
    except Exception as error:
        raise AssertionError(f"{where}\n{error!r}") from error
    assert round(float(value), len(stated[2])) == float(stated[1]), f"{where}\nis {value}"
    return ""


def check_unrun(step: str, language: str, where: str) -> None:
    problems = list(shell_problems(step) if language == "sh" else python_problems(step))
    assert not problems, f"{where}\n{problems}"


@cache
def root_command() -> Any:
    return get_command(app)


def shell_problems(line: str) -> Iterator[str]:
    """Commands and options that do not exist."""
    words = command_of(line)
    command: Any = root_command()
    while words and (inner := getattr(command, "commands", {})):
        if words[0] not in inner:
            yield f"no command {words[0]}"
            return
        command, words = inner[words[0]], words[1:]
    if words:
        try:
            command.make_parser(command.context_class(command)).parse_args(list(words))
        except Exception as error:
            yield str(error)


def python_problems(step: str) -> Iterator[str]:
    """Names of eclip, and keywords of its functions, that do not exist."""
    for node in ast.walk(ast.parse(step)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "eclip" and not hasattr(eclip, node.attr):
            yield f"eclip has no {node.attr}"
        if not isinstance(node, ast.Call) or not re.fullmatch(r"eclip\.\w+(\.\w+)?", name := ast.unparse(node.func)):
            continue
        function: Any = eclip
        for part in name.split(".")[1:]:
            function = getattr(function, part, None)
        if function is None:
            yield f"there is no {name}"
            continue
        parameters = inspect.signature(function).parameters
        if not any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
            yield from (f"{name} has no {one.arg}" for one in node.keywords if one.arg and one.arg not in parameters)


def test_what_is_not_run_is_still_on_a_page_and_all_else_runs() -> None:
    steps = [step for page in PAGES for block in blocks_of(page) for step in steps_of(block)]
    assert [part for part in NOT_RUN if not any(part in step for step in steps)] == [], "no page has these any more"
    run = [step for step in steps if reason_for(step) is None]
    assert len(run) > 60 and len(run) > len(steps) / 3


def test_what_is_not_run_is_read() -> None:
    assert list(shell_problems("eclip eval voc2012 --rooot x")) != []
    assert list(shell_problems("eclip evaluate voc2012")) == ["no command evaluate"]
    assert list(shell_problems("torchrun --nproc-per-node 4 -m eclip train --train-data a.tar -o head")) == []
    assert list(python_problems("eclip.load('ViT-B-16/openai', heads='x')")) == ["eclip.load has no heads"]
    assert list(python_problems("eclip.Evaluation.read('voc')")) == ["there is no eclip.Evaluation.read"]
    assert list(python_problems("eclip.evaluate('voc2012', root='x', methods='fast', out='voc')")) == []
