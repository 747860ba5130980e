"Every stage notebook runs from top to bottom, as nbdev runs it. (The run notebooks: test_reproduce.py.)"
import os
import subprocess
import sys

import pytest
from conftest import ROOT


def makes_a_module(path):
    pages = ("index.ipynb", "91_results.ipynb", "92_map.ipynb")
    return path.name in pages or "#| default_exp" in path.read_text()


books = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "nbs").rglob("*.ipynb")
               if ".ipynb_checkpoints" not in p.parts and makes_a_module(p))


@pytest.mark.parametrize("book", books)
def test_notebook(book, tmp_path):
    env = os.environ | {"IN_TEST": "1", "MPLBACKEND": "agg", "TQDM_DISABLE": "1"}
    run = subprocess.run([sys.executable, "-c", f"""
import sys
from pathlib import Path
from nbdev.test import test_nb
ok, seconds = test_nb(Path({book!r}).resolve(), skip_flags=['notest', 'slow', 'gpu'], basepath=Path.cwd())
sys.exit(not ok)"""], cwd=ROOT, env=env, text=True, capture_output=True, timeout=300)
    assert run.returncode == 0, f"{book}\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
