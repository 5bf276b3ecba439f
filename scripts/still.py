"""Drop widget views, which are dead without a kernel, from outputs that hold a picture as well: still.py NOTEBOOK …"""
import json
import sys
from pathlib import Path

VIEW = "application/vnd.jupyter.widget-view+json"


def still(page):
    "Rewrites one notebook, if it has such views or saved widget state."
    notebook = json.loads(page.read_text(encoding="utf-8"))
    state, found = notebook["metadata"].pop("widgets", None), False
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data and data.pop(VIEW, None): found = True
    if found or state:
        text = json.dumps(notebook, ensure_ascii=False, indent=1, sort_keys=True)
        page.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]: still(Path(name))
