"""Write each notebook, ``analysis/notebooks/<name>.ipynb``, from its script, ``<name>.py`` beside it.

    python -m analysis.sync            # all
    python -m analysis.sync luna       # one
    python -m analysis.sync --check    # writes nothing, and says in one line which differ

The scripts are in the percent format (``# %%``, ``# %% [markdown]``). A notebook has no outputs and no counts, its
cells are named by their place, and nothing in it depends on a version or a machine: the same script gives the same
bytes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jupytext

NOTEBOOKS = Path(__file__).resolve().parent / "notebooks"

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def scripts(names: Sequence[str] = (), folder: Path | None = None) -> list[Path]:
    """The scripts of notebooks, by name.

    Args:
        names: those alone; default: all.
        folder: default: ``analysis/notebooks``.

    Raises:
        ValueError: there is no notebook of such a name.
    """
    found = {path.stem: path for path in sorted((folder or NOTEBOOKS).glob("*.py")) if path.stem != "__init__"}
    for name in names:
        if name not in found:
            raise ValueError(f"no notebook {name!r}: there are {', '.join(found) or 'none'}")
    return [found[name] for name in names or found]


def notebook_of(script: Path) -> Any:
    """The notebook that a script stands for, never executed.

    Raises:
        ValueError: the script has no cells.
    """
    read = jupytext.reads(script.read_text(encoding="utf-8"), fmt="py:percent")
    if not read.cells:
        raise ValueError(f"{script.name} has no cells: begin them with '# %%' or '# %% [markdown]'")
    for number, cell in enumerate(read.cells):
        cell.id = f"cell-{number}"
        cell.metadata = type(read.metadata)()
    read.metadata = type(read.metadata)(kernelspec=KERNEL, language_info={"name": "python"})
    read.nbformat, read.nbformat_minor = 4, 5
    return read


def as_text(notebook: Any) -> str:
    """The file that holds a notebook."""
    return jupytext.writes(notebook, fmt="ipynb").rstrip("\n") + "\n"


def outdated(names: Sequence[str] = (), folder: Path | None = None) -> list[str]:
    """Names of the notebooks that are not what their script gives, or have no script.

    Raises:
        ValueError: as :func:`scripts` and :func:`notebook_of`.
    """
    differ = [script.stem for script in scripts(names, folder) if not _is_current(script)]
    known = {script.stem for script in scripts((), folder)}
    orphans = [path.stem for path in sorted((folder or NOTEBOOKS).glob("*.ipynb")) if path.stem not in known]
    return differ + ([] if names else orphans)


def sync(names: Sequence[str] = (), folder: Path | None = None) -> list[Path]:
    """Writes the notebooks that are not what their script gives; returns their paths.

    Raises:
        ValueError: as :func:`scripts` and :func:`notebook_of`.
    """
    written = []
    for script in scripts(names, folder):
        if not _is_current(script):
            path = script.with_suffix(".ipynb")
            path.write_text(as_text(notebook_of(script)), encoding="utf-8")
            written.append(path)
    return written


def _is_current(script: Path) -> bool:
    path = script.with_suffix(".ipynb")
    return path.is_file() and path.read_text(encoding="utf-8") == as_text(notebook_of(script))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: see the module's docstring. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Write each notebook from its script.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="of notebooks (default: all)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if one differs")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.check:
            differ = outdated(chosen.names)
            if differ:
                print(f"not what their script gives: {', '.join(differ)}; run python -m analysis.sync", file=sys.stderr)
            return 1 if differ else 0
        for path in sync(chosen.names):
            print(f"wrote {path.name}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
