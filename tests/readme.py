"Write README.md from nbs/index.ipynb: its prose, its code and what the code printed."
import re
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]


def links(text):
    "Links as seen from the repository's root"
    return re.sub(r"\]\((?!https?:|#|\.\./)", "](nbs/", text).replace("](../", "](")


def outputs(cell):
    "What a code cell printed or showed as text"
    for o in cell.get("outputs", []):
        data = o.get("data", {})
        markdown = data.get("text/markdown")
        text = o.get("text") or markdown or data.get("text/plain") or ""
        if markdown: yield links(text)
        elif text.strip(): yield f"```\n{text.rstrip()}\n```"


def readme(path):
    "The notebook as Markdown; cells that begin with `#| hide` are left out"
    for cell in nbformat.read(path, 4).cells:
        if cell.source.lstrip().startswith("#| hide") or not cell.source.strip(): continue
        if cell.cell_type == "markdown": yield links(cell.source)
        elif cell.cell_type == "code":
            code = "\n".join(l for l in cell.source.splitlines() if not l.startswith("#|"))
            silent = "#| echo: false" in cell.source
            if code.strip() and not silent: yield f"```python\n{code}\n```"
            yield from outputs(cell)


if __name__ == "__main__":
    text = "\n\n".join(readme(ROOT / "nbs" / "index.ipynb")) + "\n"
    (ROOT / "README.md").write_text(text, encoding="utf-8")
