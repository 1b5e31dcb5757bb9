"""Scripts become notebooks, the same bytes each time; notebooks run, and one that fails stops no other."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import IPython.display
import pytest

from analysis import execute as executing
from analysis import notebook, style
from analysis import sync as syncing
from analysis.execute import execute, problem_of
from analysis.sync import NOTEBOOKS, as_text, notebook_of, outdated, scripts, sync

#: The figures that are committed.
KEPT = style.FIGURES

GOOD = """# ---
# jupyter:
#   jupytext:
#     text_representation:
#       jupytext_version: 1.0.0
#   kernelspec:
#     display_name: Mine
#     name: mine
# ---

# %% [markdown]
# # A paper
#
# What it claims.

# %% tags=["mine"]
LIVE = False  # True: also the runs in your own store

# %%
import analysis.claims

(LIVE, analysis.claims.__name__)
"""
BAD = """# %%
rows = []

# %%
raise ValueError("no such\\nstudy")

# %%
print("never")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "good.py").write_text(GOOD)
    (tmp_path / "bad.py").write_text(BAD)
    return tmp_path


def test_the_committed_notebooks_are_what_their_scripts_give() -> None:
    assert outdated() == [], "run python -m analysis.sync"
    for path in NOTEBOOKS.glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells), path.name


def test_a_notebook_has_nothing_of_a_version_a_kernel_or_a_run(folder: Path) -> None:
    assert outdated(folder=folder) == ["bad", "good"]
    assert [path.name for path in sync(folder=folder)] == ["bad.ipynb", "good.ipynb"]
    first = (folder / "good.ipynb").read_bytes()
    assert outdated(folder=folder) == []
    assert sync(folder=folder) == []
    (folder / "good.ipynb").unlink()
    sync(["good"], folder)
    assert (folder / "good.ipynb").read_bytes() == first
    notebook = json.loads(first)
    assert [cell["id"] for cell in notebook["cells"]] == ["cell-0", "cell-1", "cell-2"]
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert all(cell["metadata"] == {} for cell in notebook["cells"])
    assert b"version" not in first
    assert first.endswith(b"}\n")


def test_what_differs_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(syncing, "NOTEBOOKS", folder)
    assert syncing.main([]) == 0
    assert capsys.readouterr().out == "wrote bad.ipynb\nwrote good.ipynb\n"
    assert syncing.main(["--check"]) == 0
    (folder / "good.py").write_text(GOOD + "\n# %%\n1\n")
    (folder / "gone.ipynb").write_text(as_text(notebook_of(folder / "bad.py")))
    assert syncing.main(["--check"]) == 1
    assert capsys.readouterr().err == "not what their script gives: good, gone; run python -m analysis.sync\n"
    assert syncing.main(["nothing"]) == 2
    assert capsys.readouterr().err == "error: no notebook 'nothing': there are bad, good\n"


def test_an_empty_script_is_named(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("")
    with pytest.raises(ValueError, match=r"none\.py has no cells: begin them with"):
        sync(folder=tmp_path)


def test_no_notebooks_are_no_mistake(tmp_path: Path) -> None:
    assert scripts(folder=tmp_path) == []
    assert execute(folder=tmp_path, out=tmp_path / "out") == []


def test_one_that_fails_stops_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(syncing, "NOTEBOOKS", folder)
    monkeypatch.setattr(executing, "EXECUTED", folder / "out")
    assert executing.main([]) == 1
    told = capsys.readouterr()
    assert told.err == "error: notebook bad, cell 2: ValueError: no such\n"
    assert told.out.startswith("good: ")
    good, bad = (json.loads((folder / "out" / f"{name}.ipynb").read_text()) for name in ("good", "bad"))
    assert good["cells"][2]["outputs"][0]["data"]["text/plain"] == ["(False, 'analysis.claims')"]
    assert [cell["execution_count"] for cell in bad["cells"]] == [1, 2, None]
    assert bad["cells"][1]["outputs"][0]["output_type"] == "error"
    assert not (folder / "good.ipynb").exists(), "executing writes nothing beside the scripts"


def test_an_executed_copy_tells_what_failed_in_it(folder: Path) -> None:
    notebook = notebook_of(folder / "bad.py")
    assert problem_of(notebook) == ""
    notebook.cells[1].outputs = [
        type(notebook.metadata)(output_type="error", ename="KeyError", evalue="'x'\n", traceback=[])
    ]
    assert problem_of(notebook) == "cell 2: KeyError: 'x'"


def test_a_name_that_is_none_runs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert executing.main(["no_such_paper"]) == 2
    assert capsys.readouterr().err.startswith("error: no notebook 'no_such_paper': there are ")


def words_of(picture: Path) -> list[str]:
    """The words and numbers of a drawing, which matplotlib leaves beside their outlines."""
    return re.findall(r"<!-- (.*?) -->", picture.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("script", scripts(), ids=lambda path: path.stem)
def test_each_notebook_runs_on_the_committed_results(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cells, one after the other, in this process, give what is committed: a kernel is tried once, above."""
    shown: list[object] = []
    monkeypatch.setattr(style, "FIGURES", tmp_path)
    monkeypatch.setattr(notebook, "display", lambda *objects: shown.extend(objects))
    monkeypatch.setattr(IPython.display, "display", lambda *objects: shown.extend(objects))
    runpy.run_path(str(script))
    pictures = {path.stem for path in tmp_path.glob("*.png")}
    assert pictures
    assert pictures == {path.stem for path in tmp_path.glob("*.svg")}
    assert all(name.startswith(script.stem) for name in pictures)
    for path in tmp_path.glob("*.svg"):
        assert words_of(path) == words_of(KEPT / path.name), f"{path.name}: python -m analysis.execute {script.stem}"
    assert len(shown) > 2 * len(pictures)
