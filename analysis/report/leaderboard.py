"""Every arm of every study in one table that sorts and filters."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from itables import options, to_html_datatable
from itables.javascript import generate_init_offline_itables_html

from analysis.report.runs import arm_anchor, settings_text
from analysis.statistics import mean_interval
from analysis.studies import Study

#: What a row says; the first five have a list to choose values from.
COLUMNS = ("task", "variant", "study", "scale", "metric", "mean", "interval", "n", "floor", "settings")
_FILTERED = 5

#: To the pages of itables, from what is shown until the table is ready.
_ITS_OWN_LINKS = re.compile(r"<a href=https://itables\.org.*?</a>", re.DOTALL)

#: Digits after the point: more than the interval of any arm supports.
_DIGITS = 4


def leaderboard(studies: Sequence[Study]) -> pd.DataFrame:
    """One row an arm and scale: columns :data:`COLUMNS`, and ``page``, where its runs are.

    The mean is that of the headline metric on the test split over seeds, ``interval`` its 95 % bootstrap interval,
    empty for one seed. An arrow behind the metric says which way is better.
    """
    rows = [row for study in studies for row in _rows(study)]
    table = pd.DataFrame(rows, columns=[*COLUMNS, "page"])
    return table.sort_values(["task", "metric", "study", "variant"], kind="stable", ignore_index=True)


def _rows(study: Study) -> Iterator[dict[str, Any]]:
    if study.runs.empty:
        return
    for number, (_, runs) in enumerate(study.runs.groupby(study.arm, sort=False, dropna=False)):
        first = runs.iloc[0]
        column = f"test/{first['metric']}"
        found = mean_interval(runs.get(column, []))
        floor = first.get("floor")
        yield {
            **{name: first[name] for name in ("task", "variant", "scale")},
            "study": study.name,
            "metric": f"{first['metric']} {'↑' if first['larger_is_better'] else '↓'}",
            "settings": settings_text(study, first),
            "mean": round(found.mean, _DIGITS),
            "interval": f"{found.low:.{_DIGITS}g} to {found.high:.{_DIGITS}g}" if found.n > 1 else "",
            "n": found.n,
            "floor": float(floor) if floor is not None and pd.notna(floor) else float("nan"),
            "page": f"studies/{study.name}.html#{arm_anchor(study, number)}",
        }


def table_html(table: pd.DataFrame) -> str:
    """The table with all that it needs to sort and filter, as a part of a page; nothing is loaded from elsewhere."""
    shown = table[list(COLUMNS)].copy()
    for name in ("task", "variant", "study", "scale", "metric", "interval", "settings"):
        shown[name] = [html.escape(str(value)) for value in shown[name]]
    shown["floor"] = ["" if pd.isna(floor) else f"{floor:.{_DIGITS}g}" for floor in shown["floor"]]
    links = zip(table["page"], table["n"], shown["variant"], strict=True)
    shown["n"] = [f'<a href="{html.escape(page)}" title="runs of {name}">{n}</a>' for page, n, name in links]
    body = to_html_datatable(
        shown,
        connected=False,
        table_id="leaderboard",
        allow_html=True,
        showIndex=False,
        classes="display compact nowrap",
        style="width:100%",
        maxBytes=0,
        pageLength=25,
        lengthMenu=[25, 100, 1000],
        ordering={"indicators": False, "handlers": True},
        columnDefs=[{"targets": list(range(_FILTERED)), "columnControl": ["order", ["searchList"]]}],
        columnControl=["order"],
        text_in_header_can_be_selected=False,
        layout={"topStart": "search", "topEnd": "pageLength", "bottomStart": "info", "bottomEnd": "paging"},
        language={"search": "Find", "lengthMenu": "_MENU_ rows"},
    )
    loader = generate_init_offline_itables_html(Path(options.dt_bundle))
    loader = loader[: loader.rindex("</script>") + len("</script>")]  # behind it: words about notebooks
    return f"{loader}\n{_ITS_OWN_LINKS.sub('', body)}"
