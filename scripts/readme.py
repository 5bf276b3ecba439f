"""README.md from nbs/index.ipynb, without Quarto. `--check` only says whether the two are in step.

Markdown cells as they are, with links to notebooks made to work on GitHub; code cells without their directives,
each followed by its text output or its picture, its caption below. Cells marked `#| hide` are left out, and so is what
only the site can show: viewers, and Quarto's fenced divs and references to figures.
"""
import base64
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIRECTIVE = re.compile(r"^#\|\s*(.*?)\s*$", flags=re.M)
NOTE = "<!-- Made from nbs/index.ipynb by scripts/readme.py: edit the notebook. -->"


def text(x):
    "A notebook's multi-line string, which may be a list of lines."
    return x if isinstance(x, str) else "".join(x)


def markdown(source):
    "Links as seen from the top of the repository: `05_entropy.ipynb` → `nbs/05_entropy.ipynb`; no fenced divs."
    source = re.sub(r"^:::.*\n?", "", source, flags=re.M)
    return re.sub(r"\]\((?![a-z]+:|#|/|\.\./)([^)\s]+)\)", r"](nbs/\1)", source).replace("](../", "](")


def output(out, alt, caption, pictures):
    "One output as Markdown: Markdown itself, a picture (kept in `pictures`), else plain text; nothing for a viewer."
    data = out.get("data", {})
    if "data-attn-lit" in text(data.get("text/html", "")): return ""
    if "text/markdown" in data: return text(data["text/markdown"]).strip()
    if "image/png" in data:
        name = f"index_files/figure-{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode(text(data["image/png"]))
        return f"![{alt}]({name})" + (f"\n\n*{caption}*" if caption else "")
    shown = text(out.get("text", "") or data.get("text/plain", "")).rstrip()
    return "\n".join("    " + line if line else "" for line in shown.splitlines())


def code(cell, pictures):
    "A code cell as a fenced block and its outputs; nothing for a hidden cell."
    directives = DIRECTIVE.findall(text(cell["source"]))
    source = DIRECTIVE.sub("", text(cell["source"])).strip()
    if not source or any(d.split()[0] in ("hide", "default_exp") or d.replace(" ", "") == "include:false"
                         for d in directives if d): return ""
    alt, caption = (next((d.partition(":")[2].strip(" \"'") for d in directives if d.startswith(key)), default)
                    for key, default in (("fig-alt", "A figure"), ("fig-cap", "")))
    shown = [o for o in (output(o, alt, caption, pictures) for o in cell.get("outputs", [])) if o]
    block = [] if "echo: false" in directives else [f"```python\n{source}\n```"]
    return "\n\n".join(block + shown)


def readme(notebook):
    "The text of README.md and the pictures beside it, from the parsed index notebook."
    pictures = {}
    parts = [NOTE, *(markdown(text(cell["source"])) if cell["cell_type"] == "markdown" else code(cell, pictures)
                     for cell in notebook["cells"] if cell["cell_type"] != "raw")]
    return "\n\n".join(p.strip("\n") for p in parts if p.strip()) + "\n", pictures


def main():
    made, pictures = readme(json.loads((ROOT/"nbs/index.ipynb").read_text(encoding="utf-8")))
    files = {"README.md": made.encode(), **pictures}
    stale = [name for name, content in files.items()
             if not (ROOT/name).is_file() or (ROOT/name).read_bytes() != content]
    if "--check" in sys.argv[1:]:
        sys.exit(f"{', '.join(stale)} not in step with nbs/index.ipynb: run scripts/readme.py" if stale else 0)
    for name in stale:
        (ROOT/name).parent.mkdir(exist_ok=True)
        (ROOT/name).write_bytes(files[name])
    print(f"README.md: {'written' if stale else 'in step already'}")


if __name__ == "__main__": main()
