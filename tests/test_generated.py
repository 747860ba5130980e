"The library and the README are what the notebooks export, and the notebooks are clean."
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    "A copy of the sources in which everything generated is made again"
    copy = tmp_path_factory.mktemp("fresh") / "ftrl"
    for part in ("nbs", "ftrl", "tests", "figures", "results"):
        if not (ROOT / part).exists(): continue
        left_out = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / part, copy / part, ignore=left_out)
    for part in ("settings.ini", "setup.py", "README.md"): shutil.copy(ROOT / part, copy)
    script = ("from nbdev.doclinks import nbdev_export; from nbdev.clean import nbdev_clean; "
              "nbdev_export(); nbdev_clean()")
    for command in (["-c", script], ["tests/readme.py"]):
        subprocess.run([sys.executable, *command], cwd=copy, check=True, capture_output=True, text=True)
    return copy


def differing(fresh: Path, pattern: str) -> list[str]:
    names = {p.relative_to(root).as_posix() for root in (fresh, ROOT) for p in root.glob(pattern)
             if ".ipynb_checkpoints" not in p.parts}
    def read(path: Path): return path.read_bytes() if path.exists() else None

    return sorted(n for n in names if read(fresh / n) != read(ROOT / n))


@pytest.mark.parametrize("pattern", ["ftrl/**/*.py", "README.md", "nbs/**/*.ipynb"])
def test_generated(fresh, pattern):
    assert differing(fresh, pattern) == [], "run `make prepare` and commit what it changes"


@pytest.mark.parametrize("path", sorted(ROOT.glob("results/*/config.json")), ids=lambda p: p.parent.name)
def test_what_is_published_can_be_run_again(path):
    "The profile that the README names has the parameters of the committed run"
    config = json.loads(path.read_text())
    profile = ROOT / f"nbs/runs/profiles/{config['profile']}.yaml"
    assert yaml.safe_load(profile.read_text()) == config["parameters"]


def test_the_map_lists_every_notebook():
    "Execute nbs/92_map.ipynb when a notebook is added, renamed or given another line"
    cells = json.loads((ROOT / "nbs/92_map.ipynb").read_text())["cells"]
    outputs = [out for cell in cells for out in cell.get("outputs", [])]
    listed = "".join("".join(out.get("text", [])) for out in outputs)
    books = [p.stem for p in ROOT.glob("nbs/**/[0-9]*_*.ipynb") if ".ipynb_checkpoints" not in p.parts]
    assert [name for name in books if f"  {name}" not in listed] == []
