"""The measured sections of README.md and results/benchmarks/README.md: each stands between two marks, written whole."""

from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
BENCHMARKS = README.parent / "results" / "benchmarks" / "README.md"


def marks(name: str) -> tuple[str, str]:
    """What stands in front of a section and behind it."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def write_section(name: str, content: str, readme: Path = README) -> None:
    """Replace what stands between the marks of a section."""
    begin, end = marks(name)
    text = readme.read_text(encoding="utf-8")
    if begin not in text or end not in text:
        raise ValueError(f"{readme.name} has no section {name}: it needs the lines {begin} and {end}")
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    readme.write_text(f"{before}{begin}\n{content}\n{end}{after}", encoding="utf-8")


def markdown(header: list[str], lines: list[list[str]]) -> str:
    """A table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
