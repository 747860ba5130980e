"What a machine can hold of the house style: one name one meaning, imports that look back, small cells, ruff."
import ast
import json
import re
import subprocess
import sys
from collections import defaultdict

from conftest import ROOT

CELL = 25  # lines of an exported cell; blank lines, comments and documented parameters aside
PARAMETER = re.compile(r"^    \w+(:.*)?, # ")  # a parameter with its words is documentation
ORDER = ("core", "records", "reply", "files", "notes", "rows", "registry", "perf", "progress", "formats",
         "chat", "sandbox", "models", "environments", "training", "evaluation",
         "weights", "figures", "bridges", "runs", "commands", "cli")
MODULES = [p for p in sorted((ROOT / "ftrl").rglob("*.py")) if p.name not in ("__init__.py", "_modidx.py")]


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def assigned(node):
    "The names that a statement at the top of a module binds"
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        patched = any(ast.unparse(d).startswith("patch") for d in node.decorator_list)
        return [] if patched else [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign): targets = [node.target]
    return [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]


def imports(path):
    "(module, name, line) of every import from this package"
    package = name_of(path).split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom): continue
        base = package[:len(package) - node.level + 1] if node.level else []
        module = ".".join([*base, *filter(None, [node.module])])
        if module.split(".")[0] == "ftrl":
            for alias in node.names: yield module, alias.name, node.lineno


def test_one_public_name_has_one_meaning():
    homes = defaultdict(set)
    for path in MODULES:
        for node in ast.parse(path.read_text()).body:
            for name in assigned(node):
                if not name.startswith("_"): homes[name].add(name_of(path))
    several = {name: sorted(found) for name, found in homes.items() if len(found) > 1}
    assert not several, "\n".join(f"{name}: {', '.join(found)}" for name, found in sorted(several.items()))


def test_private_names_stay_at_home():
    borrowed = [f"{name_of(p)}:{line} imports {name} from {module}"
                for p in MODULES for module, name, line in imports(p)
                if name.startswith("_") and name != "__version__"]
    assert not borrowed, "\n".join(borrowed)


def test_imports_only_look_back():
    "A folder imports from itself and from those before it; the package's own verbs are for users"
    forward = []
    for path in MODULES:
        here = ORDER.index(name_of(path).split(".")[1])
        for module, name, line in imports(path):
            parts = [*module.split("."), name]
            if parts[1] in ORDER and ORDER.index(parts[1]) > here:
                forward.append(f"{name_of(path)}:{line} imports {module}.{name}")
    assert not forward, "\n".join(forward)


def test_every_folder_is_in_the_order():
    assert {name_of(p).split(".")[1] for p in MODULES} <= set(ORDER)


def test_exported_cells_are_small():
    long = []
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        for i, cell in enumerate(json.loads(path.read_text())["cells"]):
            source = "".join(cell["source"])
            lines = [x for x in source.splitlines() if x.strip() and not x.lstrip().startswith("#")]
            lines = [x for x in lines if not PARAMETER.match(x)]
            if "#| export" in source and len(lines) > CELL:
                long.append(f"{path.name} cell {i}: {len(lines)} lines")
    assert not long, f"{len(long)} exported cells of more than {CELL} lines\n" + "\n".join(long)


def test_no_folder_is_crowded():
    below = [p for p in (ROOT / "nbs").rglob("*") if p.is_dir() and not p.name.startswith(".")]
    folders = [ROOT / "nbs", *below]
    crowded = {p.name: n for p in folders if (n := len(list(p.glob("*.ipynb")))) > 17}
    assert not crowded, crowded


def test_ruff():
    command = [sys.executable, "-m", "ruff", "check", "--output-format", "concise"]
    run = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr


def test_notebooks_hold_no_warnings():
    "What a kernel writes on its error stream names folders of the machine that ran it"
    noisy = []
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        for i, cell in enumerate(json.loads(path.read_text())["cells"]):
            streams = {output.get("name") for output in cell.get("outputs", [])}
            if "stderr" in streams: noisy.append(f"{path.name} cell {i}")
    assert not noisy, noisy


def test_no_example_starts_a_cluster():
    "Ray belongs to test_ray: a notebook that starts it fails on a busy machine"
    started = []
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        for i, cell in enumerate(json.loads(path.read_text())["cells"]):
            source = "".join(cell["source"])
            if cell["cell_type"] != "code" or source.startswith("#| export"): continue
            lines = [line for line in source.splitlines() if "test_fail" not in line]
            if re.search(r"\bimport ray\b|\bray\.init|engine=.ray", "\n".join(lines)):
                started.append(f"{path.name} cell {i}")
    assert not started, started
