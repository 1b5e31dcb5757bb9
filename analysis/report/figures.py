"""The figures of results/figures/ with what is said of them: in the notebooks that draw them, else in the README."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"

#: A figure of the README: its text, and its name.
_PICTURE = re.compile(r"!\[([^\]]+)\]\(results/figures/([\w-]+)\.\w+\)")


@dataclass
class Picture:
    """A figure of the gallery."""

    name: str
    source: Path
    file: str
    """Of the site, from its top: SVG where there is one."""
    digest: str
    """Of the PNG, which a notebook holds too."""
    alt: str = ""
    """What it shows, for those who do not see it."""
    caption: str = ""
    """Markdown."""
    notebook: str = ""
    """That draws it."""


def pictures(folder: Path) -> list[Picture]:
    """The figures of a folder; SVG where there is one, as it is sharp at every width."""
    said = {name: text for text, name in _PICTURE.findall(README.read_text(encoding="utf-8"))}
    found = []
    names = sorted({path.stem for path in folder.glob("*") if path.suffix in (".svg", ".png")})
    for name in names:
        svg, png = folder / f"{name}.svg", folder / f"{name}.png"
        source = svg if svg.is_file() else png
        digest = hashlib.sha256(png.read_bytes()).hexdigest() if png.is_file() else ""
        text = said.get(name, "")
        alt = text or name.replace("_", " ")
        found.append(Picture(name, source, f"figures/{source.name}", digest, alt, text))
    return found
