"""What can be checked of the staged site without Quarto, and without running a notebook: a sentence for each fault."""
import json
import re
from functools import cache
from itertools import groupby
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator
from staging import DIRECTIVE, front, html, is_viewer, load, options, sidebar, text

# Bytes: what a page may weigh, and what Quarto's two themes, icons and search, the same for all pages, take of it. The
# scripts of viewers are one file for the site and count for no page.
PAGE, FRAME = 2_500_000, 1_650_000
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(\s*<?([^)\s>]+)")
HREF = re.compile(r"<a\s[^>]*?href=[\"']([^\"']+)", flags=re.I)
IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)")
IMG = re.compile(r"<img\b[^>]*>", flags=re.I)
CODE = re.compile(r"```.*?```|`[^`\n]*`", flags=re.S)
MATH = re.compile(r"\$\$.*?\$\$|\$[^$\n]+\$", flags=re.S)
CITED = re.compile(r"(?<![\w.@])@([A-Za-z][\w:-]*\w)")
FIGURE = ("fig", "tbl", "sec", "eq", "lst")


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
    "The anchors that links may point to: headings, those of shown names among them, explicit ids, and labels."
    code = "\n".join(text(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code")
    prose = "\n".join([text(c["source"]) for c in notebook["cells"] if c["cell_type"] != "code"] +
                      [text(o["data"]["text/markdown"]) for c in notebook["cells"] for o in c.get("outputs", [])
                       if "text/markdown" in o.get("data", {})])
    return {*map(slug, re.findall(r"^#{1,6}\s+(.+)$", prose, flags=re.M)),
            *re.findall(r"(?:\{#|id=[\"'])([\w-]+)", prose), *re.findall(r"^#\| label: ([\w-]+)", code, flags=re.M)}


@cache
def schema(): return json.loads(Path(__file__).with_name("quarto.schema.json").read_text(encoding="utf-8"))


def against(part, value, where):
    "Faults of a value against one part of the schema."
    validator = Draft202012Validator({"$ref": f"#/$defs/{part}", "$defs": schema()["$defs"]})
    for error in validator.iter_errors(value):
        yield f"{where}: {'.'.join(map(str, error.absolute_path)) or 'top level'}: {error.message[:200]}"


def check_config(staged):
    "The YAML files load, are as Quarto wants them, name files that are there, and the sidebar has every page once."
    config = {n: yaml.safe_load((staged/n).read_text(encoding="utf-8")) for n in
              ("_quarto.yml", "nbdev.yml", "sidebar.yml")}
    for name, value in config.items(): yield from against("project", value, name)
    top = config["_quarto.yml"]
    page = top["format"]["html"]
    themes = (name for names in page["theme"].values() for name in names if name.endswith(".scss"))
    needed = [*top.get("metadata-files", []), page["css"], page["include-after-body"], *themes, top["bibliography"],
              *(i["href"] for i in top["website"]["navbar"]["left"])]
    entries = list(sidebar_entries(sidebar(staged)["contents"]))
    pages = {p.name for p in staged.glob("*.ipynb")}
    yield from (f"_quarto.yml names {n}, which is not there" for n in needed if not (staged/n).exists())
    yield from (f"sidebar.yml names {e}, which is not there" for e in entries if not (staged/e).exists())
    yield from (f"{p} is not in sidebar.yml" for p in sorted(pages - set(entries)))
    yield from (f"sidebar.yml has {e} twice" for e in sorted({e for e in entries if entries.count(e) > 1}))
    yield from (f"{' and '.join(names)} would both be {page}.html" for page, names in addresses(pages) if names[1:])


def addresses(pages):
    "(address, the pages that have it): the site leaves out a notebook's number."
    def address(name): return re.sub(r"^\d+\w?_", "", Path(name).stem)
    return [(page, list(names)) for page, names in groupby(sorted(sorted(pages), key=address), address)]


def check_front(name, notebook):
    "Each staged page has a title and an output file, options that Quarto knows, and no cell that ended in an error."
    matter = front(notebook)
    yield from (f"{name} has no {key}" for key in ("title", "output-file") if not matter.get(key))
    yield from against("page", matter, name)
    for i, cell in enumerate(notebook["cells"]):
        yield from against("cell", {k: v for k, v in options(cell).items() if v is not None}, f"{name}: cell {i}")
        yield from (f"{name}: cell {i} ends in an error: {o.get('ename')}" for o in cell.get("outputs", [])
                    if o["output_type"] == "error")


def target(link, host, outputs):
    "The staged notebook's file that `link` points to, '' for one outside the site."
    page = link.split("#")[0]
    if page.startswith(host): page = page.removeprefix(host).lstrip("/") or "index.html"
    elif re.match(r"[a-z]+:|//", page): return ""
    return outputs.get(page, page)


def prose_of(notebook):
    "The prose of every markdown cell, without code."
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown": yield CODE.sub("", text(cell["source"]))


def check_links(staged, name, notebook, host, outputs):
    "Links inside the site lead to a page, and to a heading or figure of it."
    for prose in prose_of(notebook):
        for link in LINK.findall(prose) + HREF.findall(prose):
            file = target(link, host, outputs) if not link.startswith("#") else name
            anchor = link.partition("#")[2]
            if file.startswith("../"): yield f"{name} links to {link}, which is outside the site"
            elif file and not (staged/file).exists(): yield f"{name} links to {link}, which is not there"
            elif file.endswith(".ipynb") and anchor and anchor.lower() not in anchors(load(staged/file)):
                yield f"{name} links to {link}: {file} has no such heading"


def check_images(staged, name, notebook):
    "Images in prose and in outputs say what they show, and are there."
    for prose in prose_of(notebook):
        for alt, source in IMAGE.findall(prose):
            if not alt.strip(): yield f"{name}: image {source} has no alt text"
            local = not re.match(r"[a-z]+:", source)
            if local and not (staged/source).exists(): yield f"{name}: image {source} is not there"
    shown = [*prose_of(notebook), *(html(o) for c in notebook["cells"] for o in c.get("outputs", []))]
    for tag in IMG.findall("\n".join(shown)):
        if not re.search(r"\balt=[\"'][^\"']", tag): yield f"{name}: {tag[:60]} has no alt text"


def check_figures(name, notebook):
    "Every picture and viewer of a code cell has a label of its own, a caption and an alt text."
    labels = []
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code": continue
        given, picture = options(cell), any("image/png" in o.get("data", {}) for o in cell.get("outputs", []))
        if picture or (is_viewer(cell) and text(cell["source"]).strip() != "#| echo: false"):
            missing = [key for key in ("label", "fig-cap", "fig-alt") if not given.get(key)]
            if missing: yield f"{name}: the figure of {first_line(cell)!r} has no {', '.join(missing)}"
        labels += [given["label"]] if given.get("label") else []
    yield from (f"{name} has the label {x} twice" for x in sorted({x for x in labels if labels.count(x) > 1}))


def first_line(cell):
    return next((line for line in DIRECTIVE.sub("", text(cell["source"])).splitlines() if line.strip()), "")[:50]


def bibliography(staged):
    "The keys of references.bib."
    return set(re.findall(r"^@\w+\{([^,\s]+),", (staged/"references.bib").read_text(encoding="utf-8"), flags=re.M))


def check_references(name, notebook, keys):
    "Each @fig-… in the prose or in a caption is a label of the page, each other @key is in the bibliography."
    labels = {options(c).get("label") for c in notebook["cells"]} | anchors(notebook)
    captions = (str(options(c).get("fig-cap", "")) for c in notebook["cells"])
    for prose in (*prose_of(notebook), *captions):
        for key in CITED.findall(HREF.sub("", MATH.sub("", LINK.sub("", prose)))):
            if key.partition("-")[0] in FIGURE and "-" in key:
                if key not in labels: yield f"{name} refers to @{key}, which is no label of that page"
            elif key not in keys: yield f"{name} cites @{key}, which is not in references.bib"


def weight(notebook):
    "Bytes of a page by itself: prose, code, outputs and pictures."
    size = 0
    for cell in notebook["cells"]:
        size += len(text(cell["source"]).encode())
        for output in cell.get("outputs", []):
            size += len(text(output.get("text", "")).encode())
            size += sum(3*len(text(v))//4 if kind == "image/png" else len(str(text(v)).encode())
                        for kind, v in output.get("data", {}).items() if not isinstance(v, dict))
    return size


def check_size(name, notebook):
    "A page weighs less than it may, what Quarto adds to it counted in."
    size = weight(notebook)
    if size > PAGE - FRAME: yield f"{name} weighs {size/1e6:.1f} MB, and may weigh {(PAGE - FRAME)/1e6:.1f} MB"


def check_gallery(staged):
    "The gallery's entries have a page, a picture, a caption and an alt text."
    for entry in yaml.safe_load((staged/"gallery.yml").read_text(encoding="utf-8")):
        missing = [key for key in ("title", "path", "image", "image-alt", "description") if not entry.get(key)]
        if missing: yield f"the gallery's {entry.get('path')} has no {', '.join(missing)}"
        elif not (staged/entry["image"]).exists(): yield f"the gallery's {entry['image']} is not there"


def check(staged):
    "Everything that is wrong with the staged site, a sentence each."
    site = yaml.safe_load((staged/"nbdev.yml").read_text(encoding="utf-8"))["website"]
    pages = {p.name: load(p) for p in sorted(staged.glob("*.ipynb"))}
    outputs = {front(notebook).get("output-file"): name for name, notebook in pages.items()}
    wrong, keys = [*check_config(staged), *check_gallery(staged)], bibliography(staged)
    for name, notebook in pages.items():
        wrong += [*check_front(name, notebook), *check_links(staged, name, notebook, site["site-url"], outputs),
                  *check_images(staged, name, notebook), *check_figures(name, notebook),
                  *check_references(name, notebook, keys), *check_size(name, notebook)]
    heaviest = max(pages, key=lambda name: weight(pages[name]))
    print(f"staged {len(pages)} pages in _proc/; the heaviest, {heaviest}, brings "
          f"{weight(pages[heaviest])/1e6:.2f} MB")
    return wrong
