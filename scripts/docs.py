"""Stage the site as nbdev does, check what can be checked without Quarto, and render it where Quarto is installed.

This is nbdev_docs in its own steps: nbdev_docs would try to install Quarto, and would write README.md its own way.
"""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
from still import still

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(\s*<?([^)\s>]+)")
HREF = re.compile(r"<a\s[^>]*?href=[\"']([^\"']+)", flags=re.I)
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)")
IMG = re.compile(r"<img\b[^>]*>", flags=re.I)
# What Quarto adds to a page with any HTML output, from other hosts, and nothing here needs.
FOREIGN = re.compile(r"<script src=\"https://cdn\.jsdelivr\.net/npm/(?:requirejs|jquery)@[^>]*></script>\n?"
                     r"|<script type=\"application/javascript\">define\('jquery'[^<]*</script>\n?")
CODE = re.compile(r"```.*?```|`[^`\n]*`", flags=re.S)


def stage():
    "nbs/ processed into _proc/, with nbdev.yml from settings.ini; returns the folder."
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    refresh_quarto_yml()
    staged = proc_nbs(force=True, n_workers=2)
    for page in Path(staged).glob("*.ipynb"): still(page)
    return staged


def load(path): return json.loads(path.read_text(encoding="utf-8"))


def text(cell): return "".join(cell["source"])


def sidebar_entries(items):
    "Every page that a sidebar names, in order."
    for item in items:
        if isinstance(item, str): yield item
        elif "contents" in item: yield from sidebar_entries(item["contents"])
        elif "href" in item: yield item["href"]


def slug(heading):
    "The anchor Quarto (Pandoc) gives a heading."
    heading = re.sub(r"\{[^}]*\}\s*$|[`*]|\[|\]\([^)]*\)", "", heading).strip().lower()
    return re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", re.sub(r"[^\w\s.-]", "", heading)))


def anchors(notebook):
    "The anchors that links may point to: headings, explicit ids, and the names whose code a page shows."
    code = "\n".join(text(c) for c in notebook["cells"] if c["cell_type"] == "code")
    prose = "\n".join(text(c) for c in notebook["cells"] if c["cell_type"] != "code")
    return {*map(slug, re.findall(r"^#{1,6}\s+(.+)$", prose, flags=re.M)),
            *re.findall(r"(?:\{#|id=[\"'])([\w-]+)", prose),
            *map(str.lower, re.findall(r"^(?:class|def) (\w+)", code, flags=re.M))}


def check_config(staged):
    "The three YAML files load, name files that are there, and the sidebar has every page once."
    config = {n: yaml.safe_load((staged/n).read_text(encoding="utf-8")) for n in
              ("_quarto.yml", "nbdev.yml", "sidebar.yml")}
    needed = [*config["_quarto.yml"]["metadata-files"], config["_quarto.yml"]["format"]["html"]["css"],
              *(i["href"] for i in config["_quarto.yml"]["website"]["navbar"]["left"])]
    entries = list(sidebar_entries(config["sidebar.yml"]["website"]["sidebar"]["contents"]))
    pages = {p.name for p in staged.glob("*.ipynb")}
    yield from (f"_quarto.yml names {n}, which is not there" for n in needed if not (staged/n).exists())
    yield from (f"sidebar.yml names {e}, which is not there" for e in entries if not (staged/e).exists())
    yield from (f"{p} is not in sidebar.yml" for p in sorted(pages - set(entries)))
    yield from (f"sidebar.yml has {e} twice" for e in sorted({e for e in entries if entries.count(e) > 1}))


def check_front(name, notebook):
    "Each staged page has a title and an output file, and no cell that ended in an error."
    first = notebook["cells"][0]
    front = yaml.safe_load(text(first).strip().strip("-")) if first["cell_type"] == "raw" else {}
    yield from (f"{name} has no {key}" for key in ("title", "output-file") if not front.get(key))
    yield from (f"{name}: cell {i} ends in an error: {o.get('ename')}" for i, cell in enumerate(notebook["cells"])
                for o in cell.get("outputs", []) if o["output_type"] == "error")


def target(link, host, outputs):
    "The staged notebook's file that `link` points to, '' for one outside the site."
    page = link.split("#")[0]
    if page.startswith(host): page = page.removeprefix(host).lstrip("/") or "index.html"
    elif re.match(r"[a-z]+:|//", page): return ""
    return outputs.get(page, page)


def check_links(staged, name, notebook, host, outputs):
    "Links inside the site lead to a page, and to a heading of it."
    for cell in notebook["cells"]:
        if cell["cell_type"] != "markdown": continue
        prose = CODE.sub("", text(cell))
        for link in LINK.findall(prose) + HREF.findall(prose):
            file = target(link, host, outputs) if not link.startswith("#") else name
            anchor = link.partition("#")[2]
            if file.startswith("../"): yield f"{name} links to {link}, which is outside the site"
            elif file and not (staged/file).exists(): yield f"{name} links to {link}, which is not there"
            elif file.endswith(".ipynb") and anchor and anchor.lower() not in anchors(load(staged/file)):
                yield f"{name} links to {link}: {file} has no such heading"


def check_images(staged, name, notebook):
    "Images in prose say what they show, and are there."
    for cell in notebook["cells"]:
        if cell["cell_type"] != "markdown": continue
        prose = CODE.sub("", text(cell))
        for alt, source in IMAGE.findall(prose):
            if not alt.strip(): yield f"{name}: image {source} has no alt text"
            local = not re.match(r"[a-z]+:", source)
            if local and not (staged/source).exists(): yield f"{name}: image {source} is not there"
        for tag in IMG.findall(prose):
            if not re.search(r"\balt=[\"'][^\"']", tag): yield f"{name}: {tag[:60]} has no alt text"


def figures(notebooks):
    "How many code cells show a picture, and how many of them have `fig-alt` or `fig-cap`."
    shown = [c for nb in notebooks for c in nb["cells"]
             for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    return len(shown), sum(bool(re.search(r"#\|\s*fig-(alt|cap)", text(c))) for c in shown)


def check(staged):
    "Everything that is wrong with the staged site, a sentence each."
    site = yaml.safe_load((staged/"nbdev.yml").read_text(encoding="utf-8"))["website"]
    pages = {p.name: load(p) for p in sorted(staged.glob("*.ipynb"))}
    outputs = {re.sub(r"^\d+[a-z0-9]*_", "", n.lower()).replace(".ipynb", ".html"): n for n in pages}
    wrong = list(check_config(staged))
    for name, notebook in pages.items():
        wrong += check_front(name, notebook)
        wrong += check_links(staged, name, notebook, site["site-url"], outputs)
        wrong += check_images(staged, name, notebook)
    shown, described = figures(pages.values())
    print(f"staged {len(pages)} pages in _proc/; {described} of {shown} figures of code cells have a caption")
    return wrong


def render(staged):
    "Render to _docs/, if quarto is there."
    if not shutil.which("quarto"):
        return print("quarto is not installed, so nothing is rendered; checked without it: the YAML files, the "
                     "sidebar, titles, links and headings, images' alt text, cells that end in an error")
    subprocess.run(["quarto", "render", "--no-cache"], cwd=staged, check=True)
    for page in (staged/"_docs").glob("*.html"):
        page.write_text(FOREIGN.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.rmtree(ROOT/"_docs", ignore_errors=True)
    shutil.move(staged/"_docs", ROOT/"_docs")
    print("rendered to _docs/")


def main():
    staged = stage()
    wrong = check(staged)
    print("\n".join(wrong) or "no fault found")
    if wrong: sys.exit(1)
    if "--check" not in sys.argv[1:]: render(staged)


if __name__ == "__main__": main()
