"""The site without a browser: what its pages say, that links lead somewhere, and what becomes of bad input."""

from __future__ import annotations

import html
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from analysis.report import __main__ as command
from analysis.report.curves import curve_svg
from analysis.report.site import Site, build
from analysis.report.verdicts import all_claims
from analysis.studies import load_study
from tests.analysis.report.small import CLAIMS, broken_links, build_small, write_results
from tests.analysis.stores import more_studies, write_run


@pytest.fixture(scope="module", autouse=True)
def _studies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with more_studies(tmp_path_factory.mktemp("conf")):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    write_results(folder)
    return folder


@pytest.fixture(scope="module")
def site(folder: Path) -> Site:
    return build_small(folder, folder / "results")


def read(site: Site, name: str) -> str:
    return (site.folder / name).read_text(encoding="utf-8")


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())


def test_every_link_leads_to_a_file_or_an_anchor_and_every_picture_has_its_text(site: Site) -> None:
    assert broken_links(site.folder) == []
    outside = re.compile(r"""(?:src|href)=["']?(?:https?:)?//|@import|url\((?!["']?data:)""")
    for path in site.files:
        if path.suffix in (".html", ".css") and path.name != "leaderboard.html":
            assert not outside.search(path.read_text(encoding="utf-8")), path.name


def test_the_index_says_each_verdict_in_words_with_its_evidence(site: Site) -> None:
    page = words(read(site, "index.html"))
    for text in (
        "✓ reproduced luna, table 1 Memory helps. Evidence: 1 comparison supported : It is supported",
        "difference of 3 runs &amp; more study widths",
        "Two layers.",
        "◐ partly luna, table 2 More helps more. Evidence: 2 comparisons",
        "✗ not reproduced luna, figure 3",
        "? undecided luna, figure 4",
        "… not run luna, figure 5",
        "∅ not testable at this scale luna, section 6 It holds at 8B. No such model fits here.",
        "To run what is missing: python run.py -m +study=widths scale=laptop",
    ):
        assert text in page, text
    markdown = read(site, "verdicts.md")
    assert "| Memory helps. | luna, table 1 | **reproduced** |" in markdown


def test_what_is_missing_is_said_with_the_command_that_makes_it(site: Site) -> None:
    assert [(lack.text, lack.command) for lack in site.lacks] == [
        ("study widths at scale laptop has 3 of 8 runs", "python run.py -m +study=widths scale=laptop"),
        ("study curves at scale laptop has 0 of 4 runs", "python run.py -m +study=curves scale=laptop"),
        ("notebook torn failed in cell 2: ValueError: no column x", "python -m analysis.execute torn"),
    ]
    page = words(read(site, "index.html"))
    assert all(lack.text in page and lack.command in page for lack in site.lacks)


def test_a_run_shows_command_scores_slices_curves_and_what_the_store_has(site: Site) -> None:
    text = read(site, "studies/widths.html")
    page = words(text)
    (first,) = re.findall(r'<div id="(run-\w+-s1)">', text)
    assert f'href="#{first}"' in text
    assert "python run.py +study=widths" in page
    assert "seed 1: exact_match 0.6" in page
    assert "exact_match 0.6" in page
    assert "length_blocks depth n exact_match 2 0.5 20 1 4 0.5 20 0.25" in page
    assert 'aria-label="val/exact_match from 0.5 at step 5 to 1 at step 10"' in text
    assert "trainer: learning_rate: 0.001" in page, "config.yaml of the store"
    assert "git_sha 0123456789abcdef" in page
    assert "wall_seconds 12.346" in page


def test_a_figure_is_shown_once_with_what_its_notebook_says(site: Site) -> None:
    page = read(site, "figures.html")
    assert '<img src="figures/small_widths.svg" alt="Widths of memories The paper shows accuracy by width."' in page
    assert "<strong>small_widths</strong>. Study <code>widths</code>." in page
    assert 'href="notebooks/small.html"' in page
    notebook = read(site, "notebooks/small.html")
    assert 'src="../figures/small_widths.svg"' in notebook
    assert "base64" not in notebook
    assert "<script" not in notebook


def test_a_notebook_that_failed_has_its_page_and_says_so(site: Site) -> None:
    page = words(read(site, "notebooks/torn.html"))
    assert "This notebook failed in cell 2: ValueError: no column x" in page
    assert "failed in cell 2: ValueError: no column x" in words(read(site, "index.html"))


def test_the_same_results_give_the_same_pages(site: Site, folder: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in site.files}
    again = build_small(folder, folder / "results")
    assert {path.name: path.read_bytes() for path in again.files} == before


def test_pages_of_an_earlier_site_go_and_nothing_else_does(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "studies").mkdir(parents=True)
    (out / "studies" / "mine.csv").write_text("1")
    built = build(folder / "results", out, names=["widths"], claims={}, notebooks=folder / "notebooks")
    assert (out / "studies" / "widths.html") in built.files
    build(folder / "results", out, names=[], claims={}, notebooks=folder / "notebooks")
    assert [path.name for path in (out / "studies").iterdir()] == ["mine.csv"]


def test_without_anything_there_is_a_site_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    built = build(tmp_path / "results", names=["widths"], claims={}, notebooks=tmp_path)
    page = words(read(built, "index.html"))
    assert "there is no folder studies/ of committed results: python -m analysis.collect &lt;study&gt;" in page
    assert "study widths at scale laptop has 0 of 8 runs" in page
    assert "there are no figures: make notebooks" in page
    assert "No claim is written down yet." in page
    assert "None was run: make notebooks" in page
    assert "No study has a run yet" in words(read(built, "leaderboard.html"))
    assert broken_links(built.folder) == []


def test_a_torn_file_costs_its_study_alone(folder: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    shutil.copytree(folder / "results" / "studies", results / "studies")
    store = tmp_path / "store"
    write_run(store, study="curves", arm="plain", model="transformer")
    path = results / "studies" / "widths" / "runs.csv"
    path.write_text(path.read_text()[:-20])
    (results / "studies" / "gone").mkdir()
    built = build(results, names=["widths", "curves", "gone"], claims=CLAIMS, notebooks=tmp_path, root=store, live=True)
    page = words(read(built, "index.html"))
    assert "study widths cannot be read:" in page
    assert "restore it (git checkout), or collect it again" in page
    assert "study gone cannot be read: unknown study &#39;gone&#39;" in page
    assert "… not run luna, table 1" in page
    assert (built.folder / "studies" / "curves.html").is_file()
    assert "unreadable" in read(built, "studies.html")
    assert broken_links(built.folder) == []


def test_a_torn_copy_of_a_notebook_is_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "small.ipynb").write_text('{"cells": [')
    built = build(folder / "results", tmp_path, names=[], claims={}, notebooks=folder / "notebooks")
    texts = [(lack.text, lack.command) for lack in built.lacks]
    assert texts[0][0].startswith("the copy of notebook small is torn (")
    assert texts[:2] == [(texts[0][0], "make notebooks"), ("notebook torn was not run", "make notebooks")]


def test_a_claim_that_trips_over_half_of_its_runs_costs_no_other(folder: Path) -> None:
    title, claims = CLAIMS["small"]

    def trips(study: object) -> None:
        raise KeyError("variant")

    broken = type(claims[0].parts[0])("It trips", "widths", trips)  # type: ignore[arg-type]
    own = (type(claims[0])("luna", "table 9", "It trips.", (broken,)), claims[0])
    built = build(folder / "results", names=["widths"], claims={"small": (title, own)}, notebooks=folder / "notebooks")
    page = words(read(built, "index.html"))
    assert "could not be judged (KeyError: &#39;variant&#39;)" in page
    assert "✓ reproduced luna, table 1" in page


def test_several_scales_have_their_own_parts_and_claims_their_own_scale(tmp_path: Path) -> None:
    from analysis.collect import collect

    results, store = tmp_path / "results", tmp_path / "store"
    write_run(store)
    write_run(store, scale="smoke")
    for scale in ("laptop", "smoke"):
        collect("widths", root=store, committed=results / "studies", scale=scale)
    built = build(results, names=["widths"], claims=CLAIMS, notebooks=tmp_path, root=store)
    page = read(built, "studies/widths.html")
    assert 'id="laptop-arm-1"' in page
    assert 'id="smoke-arm-1"' in page
    assert "difference of 1 runs" in words(read(built, "index.html"))
    assert broken_links(built.folder) == []


def test_the_committed_results_give_an_index(tmp_path: Path) -> None:
    """Of some studies: composing the jobs of all takes half a minute."""
    names = ["efficiency", "fam_cost", "overview"]
    claims = {
        name: (title, tuple(claim for claim in own if {part.study for part in claim.parts} <= set(names)))
        for name, (title, own) in all_claims().items()
    }
    built = build(out=tmp_path, names=names, claims=claims, notebooks=tmp_path)
    page = html.unescape(words(read(built, "index.html")))
    for claim in (claim for _, own in claims.values() for claim in own):
        assert f"{claim.paper}, {claim.place}" in page
    assert "could not be judged" not in page
    for name in names:
        study = load_study(name, live=False)
        assert (built.folder / "studies" / f"{name}.html").is_file() == bool(len(study.runs) or len(study.bench))
        if len(study.bench):
            assert read(built, f"studies/{name}.html").count("<tr>") == len(study.bench) + 1
    assert broken_links(tmp_path) == []


def test_a_curve_says_its_ends_and_leaves_out_what_is_no_number() -> None:
    drawing = curve_svg("a<b", [1, 2, 3], [0.5, float("nan"), 1.0])
    assert 'aria-label="a&lt;b from 0.5 at step 1 to 1 at step 3"' in drawing
    assert drawing.count(",") == 2
    assert curve_svg("one", [1], [1.0]) == ""
    assert "polyline" in curve_svg("flat", [1, 2], [1.0, 1.0])


def test_the_command_builds_even_where_a_notebook_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from analysis.execute import Executed
    from analysis.report.gather import Lack

    built = Site(tmp_path, [tmp_path / "index.html"], [Lack("no figures", "make notebooks")])
    monkeypatch.setattr(command, "build", lambda **given: built)
    monkeypatch.setattr(command, "execute", lambda **given: [Executed("bad", tmp_path, 1.0, "cell 2: it fails")])
    assert command.main([]) == 1
    told = capsys.readouterr()
    assert told.err == "missing: no figures; to make it: make notebooks\n"
    assert told.out == f"wrote {tmp_path / 'index.html'} and 0 more files\n"
    assert command.main(["--no-notebooks"]) == 0
    assert command.main(["--root", str(tmp_path / "none")]) == 2
