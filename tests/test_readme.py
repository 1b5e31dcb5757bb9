"""What the README, and that of each room, tells people to type works.

Every line of every ``bash`` block must be of a kind that is known here; an unknown one fails, so that nothing
goes unchecked:

* ``python run.py ...`` is run as it stands when it is quick (``scale=smoke``, ``mode=list``, ``mode=plan``,
  ``--help`` and the like); otherwise with ``mode=plan``, which checks every setting without training.
  What ``mode=tune`` would start is checked and not started.
* ``make <target>``: the target exists (running it would start this very test, or a long training).
* the few others: see ``check_other``.

Blocks marked ``python`` are run, unless their first line names the file that they would be
(``# models/mine.py``), and relative links lead somewhere.
"""

import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from data.prepare import parse
from experiments import workspace
from tests.test_house import files_of_repository

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = [path for path in files_of_repository() if path.name == "README.md"]
QUICK = re.compile(r"scale=smoke|mode=(list|plan|status)|--help|--hydra-help|--cfg|--info|--version")
CHECK = "import sys; from experiments.preflight import check_command_line; check_command_line(sys.argv[1:])"
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
PAGEWISE = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(language: str) -> list[str]:
    """Contents of all pages' fenced blocks in a language."""
    found = [block for page in PAGES for block in FENCE.findall(page.read_text(encoding="utf-8"))]
    return [textwrap.dedent(content) for _, name, content in found if name == language]


def commands() -> list[str]:
    """The commands of all bash blocks, continued lines joined, comments dropped, each once."""
    lines = "\n".join(blocks("bash")).replace("\\\n", " ").splitlines()
    found = (" ".join(shlex.split(line, comments=True, posix=False)) for line in lines)
    return list(dict.fromkeys(command for command in found if command))


def split_environment(command: str) -> tuple[dict[str, str], list[str]]:
    """Leading ``NAME=value`` words, and the words of the command itself."""
    words = shlex.split(command)
    environment = {}
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, _, value = words.pop(0).partition("=")
        environment[name] = value
    return environment, words


RUNS = [command for command in commands() if split_environment(command)[1][:2] == ["python", "run.py"]]
OTHERS = [command for command in commands() if command not in RUNS]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A store and a cache of this test's own, no network, one thread."""
    folder = tmp_path_factory.mktemp("readme")
    return os.environ | {
        "MEMATTN_RESULTS": str(folder / "results"),
        "MEMATTN_CACHE": str(folder / "cache"),
        "WANDB_MODE": "offline",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def run(arguments: list[str], environment: dict[str, str]) -> str:
    """Output of a command that must succeed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{shlex.join(arguments)} exited {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def known_run(environment: dict[str, str]) -> str:
    """Hash of a passkey run in the test's own store, made first where there is none."""
    store = Path(environment["MEMATTN_RESULTS"]) / "runs" / "passkey"
    if not list(store.rglob("result.json")):
        run(
            ["run.py", "model=transformer", "task=passkey", "scale=smoke", "trainer.steps=2", "logger=none"],
            environment,
        )
    return next(store.rglob("result.json")).parent.name.partition("-")[0]


def test_readme_names_the_two_commands() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert {"make run", "make test", "python run.py -m model=fam,luna task=lra_text"} <= set(lines)


@PAGEWISE
def test_blocks_are_marked_so_that_they_are_checked(page: Path) -> None:
    for _, name, content in FENCE.findall(page.read_text(encoding="utf-8")):
        assert name in {"bash", "python", "text", "yaml", "json", "bibtex"}, f"mark this block: {content[:60]!r}"


@pytest.mark.parametrize("command", RUNS)
def test_run_command(command: str, environment: dict[str, str]) -> None:
    settings, words = split_environment(command)
    # Somebody else's data folder does not exist here.
    settings = {name: value for name, value in settings.items() if name != "MEMATTN_DATA"}
    arguments = [word for word in words[1:] if not word.startswith("data.root=")]
    arguments = ["recipe=default" if word == "recipe=tuned" else word for word in arguments]  # made by mode=tune only
    if "mode=tune" in arguments:  # trains for long, and writes into conf/
        run(["-c", CHECK, *arguments[1:]], environment | settings)
        return
    if {"mode=eval", "mode=export"} & set(arguments):
        arguments = [f"run={known_run(environment)}" if word.startswith("run=") else word for word in arguments]
    elif not QUICK.search(command):
        arguments = [word for word in arguments if not word.startswith("mode=")] + ["mode=plan"]
    run(arguments, environment | settings)


@pytest.mark.parametrize("command", OTHERS)
def test_other_command(command: str, environment: dict[str, str]) -> None:
    check_other(split_environment(command)[1], environment)


def check_other(words: list[str], environment: dict[str, str]) -> None:
    """A command that is not run as it stands: what can be said of it without its effects."""
    match words:
        case [] | ["cd", _] | ["source" | ".", ".venv/bin/activate"] | ["git", "clone", _]:
            pass
        case ["make", target, *variables]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"make {target}: no such target"
            for variable in variables:
                name = variable.partition("=")[0]
                assert f"$({name})" in makefile, f"make reads no {name}"
        case ["python" | ".venv/bin/python", "-m", "pytest", *paths]:
            for path in paths:
                if not path.startswith("-"):
                    assert (ROOT / path.partition("::")[0]).exists(), f"{path} does not exist"
        case ["python" | ".venv/bin/python", "-m", "data.prepare", *words_of_it]:
            parse(words_of_it)  # raises where the command would; running it may take minutes
        case ["python" | ".venv/bin/python", "-m", "experiments.workspace", *words_of_it]:
            workspace.parse(words_of_it)  # raises where the command would; running it may ask a server
        case ["python" | ".venv/bin/python", "-m", module, *options] if module.startswith(("benchmarks.", "analysis.")):
            told = run(["-m", module, "--help"], environment)
            for option in options:
                if option.startswith("--"):
                    assert option.partition("=")[0] in told, f"{module} has no {option}"
        case ["pip" | "uv", *rest] if "install" in rest:
            for word, following in zip(rest, [*rest[1:], ""], strict=True):
                if word == "-r":
                    assert (ROOT / following).is_file(), f"{following} does not exist"
                elif "==" in word:
                    pins = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("requirements*.txt"))
                    assert word in pins, f"{word} is not the version that the requirements pin"
        case ["wandb" | ".venv/bin/wandb", "sync" | "leet" | "login", *_]:
            run(["-m", "wandb", words[1], "--help"], environment)
        case ["export", assignment]:
            assert re.match(r"(MEMATTN|WANDB)_[A-Z_]+=", assignment), f"what is {assignment}?"
        case _:
            pytest.fail(f"nobody checks this command of the README: {shlex.join(words)}")


@pytest.mark.parametrize("block", blocks("python"))
def test_python_block(block: str, environment: dict[str, str]) -> None:
    compile(block, "a page", "exec")
    if not re.match(r"# \w+/[\w/<>]+\.py", block):
        run(["-c", block], environment)


@PAGEWISE
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)]*)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        path = page.parent / target if target else page
        assert path.exists(), f"{page} links to {target}"
        assert not anchor or anchor in anchors(path), f"{page} links to #{anchor} of {path}"


def anchors(page: Path) -> set[str]:
    """What links can name of a page: its headings, in small letters and with hyphens."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
