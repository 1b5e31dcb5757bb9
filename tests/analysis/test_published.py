"""The papers' numbers: complete, well-formed, in the ranges of their metrics, and consistent where that can be told."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.published import COLUMNS, RESULTS, STATUSES, load_published, parse_setting, published, setting_values

ROOT = Path(__file__).resolve().parents[2]
FILE = RESULTS / "published.csv"

#: Rows of each table and figure that the reading notes hold.
TABLES = {
    "amos": {"LRA results": 1},
    "armt": {"tables": 1},
    "conv_luna": {
        "LRA results (table unknown)": 24,
        "accuracy by memory size (place unknown)": 2,
        "decomposition into four changes (place unknown)": 4,
        "filter kind, kernel and stride (place unknown)": 3,
        "memory degradation (figure unknown)": 2,
        "softmax temperature (place unknown)": 3,
    },
    "decimamba": {"tables": 1},
    "dss": {"LRA results": 7},
    "fam": {
        "figure 3a": 11,
        "figure 5": 5,
        "figure 6": 12,
        "figure 7": 4,
        "figure 9": 8,
        "section 3.2": 1,
        "table 1": 24,
        "table 11": 54,
        "table 12": 168,
        "table 13": 10,
        "table 14": 10,
        "table 2": 12,
        "table 5": 15,
        "table 6": 5,
        "table 7": 6,
        "table 8": 16,
        "table 9": 30,
    },
    "ffn_kernel": {"tables": 1},
    "fnet": {"LRA results": 7},
    "h_transformer_1d": {"LRA results": 7},
    "hf_infini": {"blog post": 6},
    "huawei_infini": {"abstract": 1, "body, by a reader's notes": 2, "tables": 1},
    "igloo": {"LRA README": 7},
    "infini": {
        "figure 3": 1,
        "figure 4": 6,
        "table 1": 5,
        "table 2": 20,
        "table 3": 60,
        "table 4": 24,
        "text with table 2": 2,
    },
    "landmark": {"tables": 1},
    "lra": {"README": 1, "results table": 88, "speed and memory table": 24, "text on Image": 3},
    "lru": {"LRA results": 7},
    "luna": {
        "LRA results table": 105,
        "LRA results table, arXiv v1": 11,
        "WMT'14 table": 11,
        "ablation of contextual P": 2,
        "figure 1": 36,
        "figure 1, arXiv v1": 6,
        "speed and memory table": 24,
    },
    "mat": {"GLUE table": 1, "WMT'14 table": 9, "language modelling table": 1},
    "mega": {"LRA results": 14},
    "memformer": {
        "abstract": 2,
        "figure 3a, first version": 1,
        "figure 3b, first version": 1,
        "figure 3c, first version": 1,
        "figure 5, left": 6,
        "figure 5, right": 12,
        "figure 6": 18,
        "image modelling table": 30,
        "language modelling table": 22,
        "language modelling table, first version": 23,
        "position ablation, first version": 6,
        "text with figure 6": 6,
        "text, first version": 1,
        "training memory and speed table": 6,
    },
    "nystromformer": {"LRA results": 13},
    "position_interpolation": {"as Infini cites it": 1, "tables": 1},
    "rmt": {
        "Hyperpartisan results": 21,
        "figure 3": 35,
        "figure 4a": 8,
        "figure 4b": 6,
        "figure 8": 8,
        "language modelling, WikiText-103": 47,
        "language modelling, enwik8": 15,
        "result files": 7,
        "table 1": 3,
    },
    "rmt_1m": {"abstract": 1, "figure 1": 37, "figure 3": 2, "figure 5": 174},
    "ruler": {"threshold of the effective length": 1},
    "s4": {"LRA results": 14},
    "s4d": {"LRA results": 7},
    "s5": {"LRA results": 7},
    "samba": {"abstract": 1, "tables": 1},
    "stuffed_mamba": {"abstract": 1, "tables": 1},
    "tlb": {"LRA README": 7},
}
#: Papers whose arXiv id the reading notes do not give.
WITHOUT_ARXIV = {
    "amos",
    "armt",
    "decimamba",
    "dss",
    "fnet",
    "h_transformer_1d",
    "hf_infini",
    "igloo",
    "lru",
    "mega",
    "nystromformer",
    "position_interpolation",
    "ruler",
    "s4",
    "s4d",
    "s5",
    "samba",
    "tlb",
}

#: Units, lowest and highest value of each metric.
METRICS: dict[str, tuple[set[str], float, float]] = {
    "accuracy": ({"%", "share"}, 0, 100),
    "added_memory": ({"MB"}, 1, 1e5),
    "bits_per_character": ({"bits"}, 0.5, 8),
    "bleu": ({""}, 0, 100),
    "exact_match": ({"%"}, 0, 100),
    "f1": ({"%"}, 0, 100),
    "flops": ({"GFLOPs", ""}, 0.01, 1e4),
    "flops_saving": ({"x"}, 1, 1e4),
    "gain": ({"%"}, -100, 100),
    "gate": ({"share"}, 0, 1),
    "gate_share": ({"%"}, 0, 100),
    "iterations_per_second": ({"it/s"}, 1, 1e5),
    "longest_input": ({"M tokens"}, 0.1, 10),
    "mean_accuracy": ({"%"}, 0, 100),
    "mean_exact_match": ({"%"}, 0, 100),
    "memory_degradation": ({""}, -1e9, 1e9),
    "memory_entries": ({"entries", "M entries"}, 1, 1e9),
    "memory_ratio": ({"x"}, 1, 1e4),
    "memory_saving": ({"x"}, 1, 1e4),
    "parameters": ({"M parameters"}, 1, 1e6),
    "peak_memory": ({"MB", "GB"}, 0.1, 1e5),
    "perplexity": ({""}, 1, 1e3),
    "recall": ({"%"}, 0, 100),
    "relative_memory": ({"x"}, 0.01, 100),
    "relative_speed": ({"x"}, 0.01, 100),
    "rouge_1": ({""}, 0, 100),
    "rouge_2": ({""}, 0, 100),
    "rouge_l": ({""}, 0, 100),
    "rouge_overall": ({""}, 0, 100),
    "score": ({"%"}, 0, 100),
    "slot_bias_norm": ({""}, 0, 100),
    "slot_share": ({"%"}, 0, 100),
    "solved_length": ({"k tokens"}, 1, 1e5),
    "speedup": ({"x"}, 0.01, 1e3),
    "steps_per_second": ({"steps/s"}, 0.01, 1e4),
    "time": ({"s", "ms"}, 1e-3, 1e5),
    "token_accuracy": ({"%"}, 0, 100),
    "writer_weight": ({"share"}, 0, 1),
}

#: A mean whose parts stand elsewhere in its paper.
PARTS_ELSEWHERE = {
    ("lra", "README"): "results table",
    ("luna", "figure 1"): "LRA results table",
    ("fam", "table 2"): "table 12",
}
#: Means whose parts no source gives.
WITHOUT_PARTS = {
    ("amos", "LRA results"),
    ("fam", "table 8"),
    ("fam", "table 9"),
    ("luna", "LRA results table, arXiv v1"),
}
#: Means that are not those of their parts: printed less recomputed. Each has the recomputed one in its note.
DISAGREE = {
    ("lra", "README", "Sinkhorn", "tasks=5"): -0.19,
    ("lra", "results table", "Sinkhorn", "tasks=5"): -0.09,
    ("luna", "LRA results table", "Sinkhorn", "tasks=5"): -0.09,
    ("luna", "LRA results table, arXiv v1", "Luna-256", "memory_len=256; tasks=4; without=Retrieval"): -0.06,
    ("luna", "figure 1", "Luna-128", "memory_len=128; tasks=4; without=Retrieval"): -0.11,
    ("luna", "figure 1", "Luna-16", "memory_len=16; tasks=4; without=Retrieval"): -0.03,
    ("luna", "figure 1", "Luna-256", "memory_len=256; tasks=4; without=Retrieval"): -0.05,
    ("luna", "figure 1", "Transformer", "tasks=4; without=Retrieval"): -0.25,
}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return load_published()


def test_the_columns_have_their_types(rows: pd.DataFrame) -> None:
    assert list(rows) == [*COLUMNS, "settings"]
    assert rows["value"].dtype == np.float64
    assert rows["n"].dtype == pd.Int64Dtype()
    for name in set(COLUMNS) - {"value", "n"}:
        assert all(isinstance(cell, str) for cell in rows[name]), name
        assert all(cell == " ".join(cell.split()) for cell in rows[name]), f"{name}: stray space"
    for name in ("paper", "where", "model", "metric", "source"):
        assert all(rows[name]), f"{name} must not be empty"


def test_the_file_is_utf8_with_plain_line_ends_and_sorted(rows: pd.DataFrame) -> None:
    data = FILE.read_bytes()
    assert b"\r" not in data
    assert data.endswith(b"\n")
    keys = list(zip(rows["paper"], rows["where"], rows["model"], rows["setting"], strict=True))
    assert keys == sorted(keys)


def test_a_value_stands_where_the_status_says_so(rows: pd.DataFrame) -> None:
    assert set(rows["status"]) <= set(STATUSES)
    pd.testing.assert_series_equal(rows["value"].isna(), rows["status"] == "not_found", check_names=False)
    assert rows["value"].map(lambda value: math.isnan(value) or math.isfinite(value)).all()
    assert set(rows["split"]) <= {"test", "val", ""}
    assert all(re.fullmatch(r"(\d+(\.\d+)?)?", cell) for cell in rows["error"])


def test_values_lie_in_the_range_of_their_metric(rows: pd.DataFrame) -> None:
    assert set(rows["metric"]) <= set(METRICS)
    for metric, (units, low, high) in METRICS.items():
        own = rows[rows["metric"] == metric]
        assert set(own["unit"]) <= units, metric
        values = own["value"].dropna()
        assert values.between(low, high).all(), metric
    assert (rows.loc[rows["unit"] == "share", "value"].dropna() <= 1).all()
    assert (rows.loc[rows["metric"] == "perplexity", "value"].dropna() > 1).all()


def test_no_number_stands_twice(rows: pd.DataFrame) -> None:
    identity = ["paper", "where", "model", "dataset", "setting", "metric", "split"]
    assert rows[rows.duplicated(identity, keep=False)].empty


@pytest.mark.parametrize(("column", "room"), [("variant", "model"), ("task", "task")])
def test_what_corresponds_here_is_here(rows: pd.DataFrame, column: str, room: str) -> None:
    known = {path.stem for path in (ROOT / "conf" / room).glob("*.yaml")}
    assert set(rows[column]) - {""} <= known


def test_arxiv_ids_have_their_form_and_belong_to_one_paper(rows: pd.DataFrame) -> None:
    pairs = rows[["paper", "arxiv"]].drop_duplicates()
    assert not pairs["paper"].duplicated().any()
    assert set(pairs.loc[pairs["arxiv"] == "", "paper"]) == WITHOUT_ARXIV
    given = pairs.loc[pairs["arxiv"] != "", "arxiv"]
    assert all(re.fullmatch(r"\d{4}\.\d{5}", number) for number in given)
    assert not given.duplicated().any()


def test_every_row_names_its_source(rows: pd.DataFrame) -> None:
    assert all(re.match(r"[a-z_]+\.md §\d", source) for source in rows["source"])


def test_settings_are_documented_and_of_one_type_each(rows: pd.DataFrame) -> None:
    documented = set(re.findall(r"`([a-z0-9_]+)`", (RESULTS / "README.md").read_text(encoding="utf-8")))
    types: dict[str, set[str]] = {}
    for settings in rows["settings"]:
        for key, value in settings.items():
            kind = "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
            types.setdefault(key, set()).add(kind)
    assert set(types) <= documented
    assert {key: kinds for key, kinds in types.items() if len(kinds) > 1} == {}


def test_each_table_of_the_reading_notes_is_there(rows: pd.DataFrame) -> None:
    found: dict[str, dict[str, int]] = {}
    for (paper, where), count in Counter(zip(rows["paper"], rows["where"], strict=True)).items():
        found.setdefault(paper, {})[where] = count
    assert found == TABLES


def each(rows: pd.DataFrame) -> Iterator[Any]:
    yield from rows.itertuples()


def parts_of(mean: Any, rows: pd.DataFrame) -> list[float]:
    """Values that a mean goes over; a failure counts as what the mean's settings say."""
    where = PARTS_ELSEWHERE.get((mean.paper, mean.where), mean.where)
    again = (mean.paper, mean.where, mean.model) == ("luna", "figure 1", "Transformer")
    model = "Transformer (run again)" if again else mean.model
    own = {key: value for key, value in mean.settings.items() if key not in ("tasks", "without", "failed")}
    kind = mean.dataset.removeprefix("GPT-3 tasks, ")
    if kind != mean.dataset:
        own["kind"] = kind
    found = rows[(rows["paper"] == mean.paper) & (rows["where"] == where) & (rows["model"] == model)]
    found = found[found["metric"] == mean.metric.removeprefix("mean_")]
    found = found[pd.Series([settings == own for settings in found["settings"]], index=found.index, dtype=bool)]
    found = found[found["dataset"] != mean.settings.get("without")]
    if "failed" in mean.settings:
        found = found.assign(value=found["value"].fillna(mean.settings["failed"]))
    return found["value"].dropna().tolist()


def test_means_are_those_of_their_parts(rows: pd.DataFrame) -> None:
    raw = pd.read_csv(FILE, dtype=str, keep_default_na=False)["value"]
    means = rows[rows["metric"].str.startswith("mean_") & rows["value"].notna()]
    without, disagree = set(), {}
    for mean in each(means):
        key = (mean.paper, mean.where, mean.model, mean.setting)
        values = parts_of(mean, rows)
        if not values:
            without.add((mean.paper, mean.where))
            continue
        assert len(values) == mean.settings["tasks"], key
        recomputed = sum(values) / len(values)
        last_place = 10.0 ** -len(raw[mean.Index].partition(".")[2])
        if abs(mean.value - recomputed) > last_place + 1e-9:  # half of it each for rounding the parts and the mean
            disagree[key] = round(mean.value - recomputed, 2)
            assert f"{recomputed:.2f}" in mean.note, key
    assert without == WITHOUT_PARTS
    assert disagree == DISAGREE


def test_what_luna_copied_from_the_arena_is_what_stands_there(rows: pd.DataFrame) -> None:
    names = {"Linear Trans.": "Linear Transformer", "Sparse Trans.": "Sparse Transformer"}
    copied = rows[(rows["paper"] == "luna") & (rows["note"] == "copied from LRA") & (rows["metric"] == "accuracy")]
    arena = rows[(rows["paper"] == "lra") & (rows["where"] == "results table") & rows["value"].notna()]
    known = {(row.model, row.dataset): row.value for row in each(arena)}
    assert len(copied) == 11 * 5
    for row in each(copied):
        model = names.get(row.model, row.model).removesuffix(" (of LRA)")
        assert row.value == known[model, row.dataset]


def test_luna_draws_the_arenas_speed_and_memory(rows: pd.DataFrame) -> None:
    arena = rows[(rows["paper"] == "lra") & (rows["where"] == "speed and memory table") & rows["value"].notna()]
    drawn = rows[(rows["paper"] == "luna") & (rows["where"] == "figure 1")]
    whole = arena[(arena["model"] == "Transformer") & (arena["metric"] == "peak_memory")]["value"].item()
    names = {"Linear Transformer": "Linear Trans."}
    for row in each(arena[arena["model"] != "Transformer"]):
        twin = drawn[drawn["model"] == names.get(row.model, row.model)].set_index("metric")["value"]
        if row.metric == "peak_memory":
            assert twin["relative_memory"] == pytest.approx(row.value / whole, abs=5e-5)
        else:
            assert twin["relative_speed"] == pytest.approx(row.value, abs=0.05)


def one(**columns: Any) -> float:
    return published(**columns)["value"].item()


def test_fam_says_the_same_in_two_tables_but_once(rows: pd.DataFrame) -> None:
    blocks = {"size": "1B", "memory_blocks": 1}
    datasets = rows.loc[rows["where"] == "table 11", "dataset"].unique()
    for dataset in datasets:
        twin = {"paper": "fam", "dataset": dataset}
        whole = one(**twin, where="table 11", model="FAM")
        window = one(**twin, where="table 11", model="BSWA", setting=blocks)
        assert one(**twin, where="table 8", model="BSWA") == window
        if dataset.startswith("Scrolls") or dataset == "XLSum":
            assert one(**twin, where="table 5", setting={"fam_len": 64}) == whole
        if dataset == "XLSum":
            assert one(**twin, where="table 6", setting={"past_fams": 1}) == whole
        if dataset in ("Isabelle", "PG-19"):
            last = one(**twin, where="table 7", setting={"fam_positions": "last"})
            assert last - whole == pytest.approx(0.7 if dataset == "PG-19" else 0.0)
    assert len(datasets) == 6


def test_memory_of_infini_attention_is_rounded_from_its_formulas() -> None:
    exact = {row.model: row.value for row in each(published(paper="infini", where="table 1"))}
    printed = {row.model: row.value for row in each(published(where="table 2", metric="memory_entries"))}
    ratios = {row.model: row.value for row in each(published(where="table 2", metric="memory_ratio"))}
    for model, millions in printed.items():
        assert millions == pytest.approx(exact[model] / 1e6, rel=0.025)
        assert ratios[model] == pytest.approx(printed["Memorizing Transformers"] / millions, rel=0.015)


def test_overall_rouge_is_the_geometric_mean() -> None:
    table = published(paper="infini", where="table 4").pivot(index="model", columns="metric", values="value")
    mean = (table["rouge_1"] * table["rouge_2"] * table["rouge_l"]) ** (1 / 3)
    assert (table["rouge_overall"] - mean).abs().max() < 0.05


def test_rows_are_asked_for_by_column_and_setting() -> None:
    found = published(paper="luna", where="LRA results table", task="lra_text", variant="luna")
    assert setting_values(found, "memory_len").tolist() == [128, 16, 256]
    assert setting_values(found, "tied").tolist() == [None, None, None]
    assert found["value"].tolist() == [65.74, 65.74, 65.78]
    small = published(paper="luna", task=["lra_text", "lra_image"], metric="accuracy", setting={"memory_len": 16})
    assert sorted(small["value"]) == [46.39, 65.74]
    assert published(variant="fam_gated", setting={"memory_len": 16}).empty
    assert published(paper="lra", task="lra_pathx").empty
    assert len(published(paper="lra", task="lra_pathx", not_found=True)) == 11


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"paper": "lunar"}, "published.csv has no paper 'lunar': did you mean 'luna'?"),
        ({"paper": "luna", "where": "table 99"}, "published.csv has no where 'table 99'"),
        ({"papers": "luna"}, "published.csv cannot be asked by 'papers': did you mean 'paper'?"),
        ({"value": "1"}, "published.csv cannot be asked by 'value'"),
    ],
)
def test_what_is_not_there_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        published(**asked)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "'a' is not key=value"),
        ("a=1;b=2", "'a=1;b=2' is not key=value"),
        ("a=", "'a=' is not key=value"),
        ("B=1", "'B=1' is not key=value"),
        ("b=1; a=2", "keys must be sorted"),
        ("a=1; a=2", "keys must be sorted, and each stand once"),
    ],
)
def test_a_setting_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_setting(text)


def test_settings_have_the_types_that_they_look_like() -> None:
    assert parse_setting("") == {}
    parsed = parse_setting("length_k=32; rate=0.5; size=1B; tied=true")
    assert parsed == {"length_k": 32, "rate": 0.5, "size": "1B", "tied": True}
    assert [type(value) for value in parsed.values()] == [int, float, str, bool]


GOOD = dict.fromkeys(COLUMNS, "") | {"paper": "a", "metric": "accuracy", "value": "1.5", "status": "stated"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"status": "guessed"}, "line 2: status 'guessed' is none of stated, read, derived, not_found"),
        ({"value": ""}, "line 2: a value stands in every row but those of status not_found"),
        ({"status": "not_found"}, "line 2: a value stands in every row but those of status not_found"),
        ({"value": "1,5"}, "line 2: value '1,5' is not a plain number"),
        ({"value": "nan"}, "line 2: value 'nan' is not a plain number"),
        ({"n": "3.0"}, "line 2: n '3.0' is not a number of seeds"),
        ({"setting": "b=1; a=1"}, "line 2: setting 'b=1; a=1': keys must be sorted"),
    ],
)
def test_a_bad_row_is_named_with_its_line(changed: dict[str, str], message: str, tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    pd.DataFrame([GOOD | changed]).to_csv(path, index=False)
    with pytest.raises(ValueError, match=re.escape(f"some.csv, {message}")):
        load_published(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "some.csv, line 1: columns must be paper,arxiv"),
        (",".join(COLUMNS[1:]).encode(), "(missing paper)"),
        (",".join([*COLUMNS, "more"]).encode(), "(unknown more)"),
        (",".join([COLUMNS[1], COLUMNS[0], *COLUMNS[2:]]).encode(), "(order)"),
        (f"{','.join(COLUMNS)}\na,b\n".encode(), "some.csv, line 2: 2 cells, expected 17"),
        (f'{",".join(COLUMNS)}\n"a\n'.encode(), "some.csv, line 2: unexpected end of data"),
        (f"{','.join(COLUMNS)}\n\xe9".encode("latin-1"), "some.csv is not UTF-8"),
    ],
)
def test_a_bad_file_is_told_in_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        load_published(path)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.csv is not there"):
        load_published(tmp_path / "none.csv")


def test_a_good_row_is_read(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    pd.DataFrame([GOOD | {"n": "3", "setting": "size=1B"}]).to_csv(path, index=False)
    row = load_published(path).iloc[0]
    assert (row["value"], row["n"], row["settings"], row["note"]) == (1.5, 3, {"size": "1B"}, "")
