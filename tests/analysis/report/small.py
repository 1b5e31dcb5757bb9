"""A small results folder with something of everything that a report shows, and the site built of it."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from analysis.claims import Claim, Part
from analysis.collect import collect
from analysis.report.site import Site, build
from analysis.statistics import Value, Verdict
from analysis.studies import Study
from analysis.style import save
from analysis.sync import as_text, notebook_of
from tests.analysis.stores import write_run

GOOD = """# %% [markdown]
# # Widths of memories
#
# The paper shows accuracy by *width*.

# %%
show(figure, "small_widths", study)
"""
BAD = """# %% [markdown]
# # A notebook that fails

# %%
table(study)

# %%
never()
"""


def part(value: Value) -> Part:
    """A comparison of ``widths`` that comes out so."""

    def test(study: Study) -> Verdict:
        return Verdict(value, f"difference of {len(study.runs)} runs & more", None)

    return Part(f"It is {value}", "widths", test)


CLAIMS = {
    "small": (
        "A small paper",
        (
            Claim("luna", "table 1", "Memory helps.", (part("supported"),), caveat="Two layers."),
            Claim("luna", "table 2", "More helps more.", (part("supported"), part("undecided"))),
            Claim("luna", "figure 3", "It is free.", (part("contradicted"),)),
            Claim("luna", "figure 4", "It is stable.", (part("undecided"),)),
            Claim("luna", "figure 5", "It is fast.", (part("not tested"),)),
            Claim("luna", "section 6", "It holds at 8B.", untestable="No such model fits here."),
        ),
    )
}


def write_results(folder: Path) -> Path:
    """Three of eight runs, a figure, an executed notebook and one that failed; returns the results folder."""
    store, results = folder / "store", folder / "results"
    write_run(store, model="luna", seed=0)
    write_run(store, model="luna", seed=1)
    write_run(store, model="transformer", seed=0, learning_rate=0.002, **{"test/exact_match": 0.25})
    collect("widths", root=store, committed=results / "studies")
    figure = Figure(figsize=(3, 2))
    figure.add_subplot().plot([1, 2], [1, 2])
    _, png = save(figure, results / "figures" / "small_widths")
    write_notebooks(folder / "notebooks", results / "report" / "notebooks", png)
    return results


def write_notebooks(scripts: Path, executed: Path, png: Path) -> None:
    """Two scripts, and the copies that running them leaves, without running them."""
    scripts.mkdir()
    executed.mkdir(parents=True)
    for name, text in (("small", GOOD), ("torn", BAD)):
        (scripts / f"{name}.py").write_text(text)
        notebook = notebook_of(scripts / f"{name}.py")
        make: Any = type(notebook.metadata)
        if name == "small":
            picture = {"image/png": base64.b64encode(png.read_bytes()).decode(), "text/plain": "<Image>"}
            caption = {"text/markdown": "**small_widths**. Study `widths`.", "text/plain": "<Markdown>"}
            notebook.cells[1].outputs = [
                make(output_type="display_data", data=make(data), metadata=make()) for data in (picture, caption)
            ]
        else:
            notebook.cells[1].outputs = [
                make(output_type="error", ename="ValueError", evalue="no column x", traceback=["ValueError: no column"])
            ]
        (executed / f"{name}.ipynb").write_text(as_text(notebook))


def build_small(folder: Path, results: Path) -> Site:
    """The site of a results folder that :func:`write_results` made."""
    return build(
        results, names=["widths", "curves"], claims=CLAIMS, notebooks=folder / "notebooks", root=folder / "store"
    )


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.targets: list[str] = []
        self.without_alt: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids |= {text for text in (values.get("id"),) if text}
        self.targets += [text for text in (values.get("href"), values.get("src")) if text]
        if tag == "img" and not values.get("alt"):
            self.without_alt.append(str(values.get("src")))


def broken_links(site: Path) -> list[str]:
    """What leads nowhere or outside in the pages of a site, and pictures without a text."""
    pages = {}
    for path in site.rglob("*.html"):
        pages[path.resolve()] = page = _Page()
        page.feed(path.read_text(encoding="utf-8"))
    problems = []
    for path, page in pages.items():
        problems += [f"{path.name}: no alt for {source[:40]}" for source in page.without_alt]
        for target in page.targets:
            if target.startswith("data:"):
                continue
            name, _, anchor = target.partition("#")
            place = (path.parent / name).resolve() if name else path
            if not place.is_file() or (anchor and anchor not in pages[place].ids):
                problems.append(f"{path.name}: {target}")
    return problems
