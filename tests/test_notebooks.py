"Every stage notebook runs from top to bottom, as nbdev runs it. (The run notebooks: test_reproduce.py.)"
import os
import sys

import pytest
from conftest import ROOT
from forks import FIXED, run


def makes_a_module(path):
    pages = ("index.ipynb", "91_results.ipynb", "92_map.ipynb")
    return path.name in pages or "#| default_exp" in path.read_text()


books = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "nbs").rglob("*.ipynb")
               if ".ipynb_checkpoints" not in p.parts and makes_a_module(p))


PROGRAM = """
import sys
from pathlib import Path
from nbdev.test import test_nb
ok, seconds = test_nb(Path(sys.argv[1]).resolve(), skip_flags=["notest", "slow", "gpu"], basepath=Path.cwd())
sys.exit(not ok)"""


@pytest.mark.parametrize("book", books)
def test_notebook(book):
    done = run([sys.executable, "-c", PROGRAM, book], cwd=ROOT, env=os.environ | FIXED | {"IN_TEST": "1"})
    assert done.returncode == 0, f"{book}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
