"""Stage the site: nbs/ through nbdev into _proc/, then what is made of all pages together.

A script that outputs carry becomes one file for the whole site, every notebook gets its Colab link, and the gallery
and the table of modules are filled in. All of it is made anew from the notebooks' own outputs and never committed.
"""
import base64
import hashlib
import io
import json
import re
from pathlib import Path

import yaml
from still import still

ROOT = Path(__file__).resolve().parent.parent
# A script that is code, not a viewer's data, and long enough for a file of its own.
SCRIPT = re.compile(r"<script(?![^>]*(?:\ssrc=|application/json))([^>]*)>((?:(?!</script>).){4000,})</script>",
                    flags=re.S | re.I)
FILES = re.compile(r"<script src=[^>]*></script>")
DIRECTIVE = re.compile(r"^#\|\s*([\w-]+)(?::[ \t]*(.*?))?[ \t]*$", flags=re.M)
THUMBNAIL, AGAIN = 400, 100_000 # pixels across; bytes of a viewer that the gallery shows again


def load(path): return json.loads(path.read_text(encoding="utf-8"))


def save(path, notebook):
    "Sources as lists of lines, the only form in which Quarto finds the front matter."
    for cell in notebook["cells"]: cell["source"] = text(cell["source"]).splitlines(keepends=True)
    path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def text(lines):
    "A notebook's multi-line string, which may be a list of lines."
    return lines if isinstance(lines, str) else "".join(lines)


def options(cell):
    "The `#|` options of a code cell, read as YAML; a directive without a value is None."
    lines = DIRECTIVE.findall(text(cell["source"])) if cell["cell_type"] == "code" else []
    return {key: yaml.safe_load(value) if value else None for key, value in lines}


def html(output): return text(output.get("data", {}).get("text/html", ""))


def is_viewer(cell): return any("data-attn-lit" in html(o) and "<figure" in html(o) for o in cell.get("outputs", []))


def front(notebook):
    "The front matter of a staged page."
    first = notebook["cells"][0]
    return yaml.safe_load(text(first["source"]).strip().strip("-")) if first["cell_type"] == "raw" else {}


def set_front(notebook, **more):
    "Add to the front matter."
    matter = yaml.safe_dump(front(notebook) | more, sort_keys=False, allow_unicode=True, width=10_000)
    notebook["cells"][0]["source"] = f"---\n{matter}---\n"


def sidebar(folder): return yaml.safe_load((folder/"sidebar.yml").read_text(encoding="utf-8"))["website"]["sidebar"]


def parts(folder):
    "(part, page) for every page that the sidebar names, in order."
    for section in sidebar(folder)["contents"]:
        yield from ((section["section"], page) for page in section["contents"])


def share_scripts(notebook, folder):
    "Long scripts in outputs become files beside the page, the same bytes once for the site; returns their tags."
    tags = {}

    def share(match):
        attributes, code = match.groups()
        name = f"shared-{hashlib.sha256(code.encode()).hexdigest()[:12]}.js"
        (folder/name).write_text(code, encoding="utf-8")
        tags[name] = f'<script src="{name}"{attributes}></script>'
        return tags[name]

    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if html(output): output["data"]["text/html"] = SCRIPT.sub(share, html(output))
    return tags


def plain_signatures(notebook):
    "Signatures without the Markdown links that nbdev puts into them, where they would be read as code."
    def plain(fence): return re.sub(r"\[`([^`]*)`\]\([^)]*\)", r"\1", fence[0])
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            shown = text(output.get("data", {}).get("text/markdown", ""))
            if shown: output["data"]["text/markdown"] = re.sub(r"```python\n.*?```", plain, shown, flags=re.S)


def site(): return yaml.safe_load((ROOT/"nbs/nbdev.yml").read_text(encoding="utf-8"))["website"]


def colab(name):
    "Where Colab opens the notebook from."
    repo = site()["repo-url"].removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{repo}/blob/{site()['repo-branch']}/nbs/{name}"


def thumbnail(png, path):
    "A small picture, in 32 colours."
    from PIL import Image
    picture = Image.open(io.BytesIO(base64.b64decode(text(png)))).convert("RGB")
    picture.thumbnail((THUMBNAIL, 4*THUMBNAIL))
    path.parent.mkdir(exist_ok=True)
    picture.quantize(32).save(path, optimize=True)


def shown(page, notebook, part, folder):
    "The gallery's entries for the labelled pictures of a page, their thumbnails written."
    matter = front(notebook)
    for cell in notebook["cells"]:
        given = options(cell)
        picture = next((o["data"]["image/png"] for o in cell.get("outputs", [])
                        if "image/png" in o.get("data", {})), None)
        if not picture or not str(given.get("label", "")).startswith("fig-"): continue
        small = f"gallery/{given['label']}.png"
        thumbnail(picture, folder/small)
        yield {"title": matter["title"], "path": f"{matter['output-file']}#{given['label']}", "image": small,
               "image-alt": given["fig-alt"].replace("'", "’"), # Quarto escapes ' twice
               "description": given["fig-cap"], "categories": [part]}


def code_cell(source, outputs=()):
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": list(outputs), "source": source}


def prose(source): return {"cell_type": "markdown", "metadata": {}, "source": source}


def viewers(page, notebook):
    "The cells that show a page's viewers again, each under a link to its page; of large ones the link alone."
    matter = front(notebook)
    for cell in filter(is_viewer, notebook["cells"]):
        given = options(cell)
        label, outputs = given.get("label"), [dict(o, data={"text/html": FILES.sub("", html(o)), "text/plain": ""})
                                              for o in cell["outputs"] if html(o)]
        link = f"[{matter['title']}]({page}{f'#{label}' if label else ''})"
        light = sum(len(html(output)) for output in outputs) < AGAIN
        where = "From" if light else "A large one, only on its page:"
        yield prose(f"{given.get('fig-cap', 'A viewer.')} {where} {link}.")
        if light: yield code_cell("#| echo: false\n", outputs)


def fill_gallery(pages, scripts, folder):
    "gallery.yml, which the listing shows, and the viewers, under the gallery's own text."
    home = dict.fromkeys(("index.ipynb", "gallery.ipynb"))
    order = [(part, page) for part, page in parts(folder) if page in pages and page not in home]
    entries = [e for part, page in order for e in shown(page, pages[page], part, folder)]
    (folder/"gallery.yml").write_text(yaml.safe_dump(entries, sort_keys=False, allow_unicode=True), encoding="utf-8")
    cells = [cell for _, page in order for cell in viewers(page, pages[page])]
    carry = code_cell("#| echo: false\n", [{"output_type": "display_data", "metadata": {}, "data": {
        "text/html": "".join(scripts.values()), "text/plain": ""}}])
    pages["gallery.ipynb"]["cells"] += ([carry] if cells else []) + cells


def shown_names(notebook):
    "The names that a staged page documents, as anchors."
    shown = (text(o["data"].get("text/markdown", "")) for c in notebook["cells"] for o in c.get("outputs", [])
             if "data" in o)
    return {name.lower() for markdown in shown for name in re.findall(r"^### (\S+)$", markdown, flags=re.M)}


def unlink(pages, names):
    "nbdev links every exported name in backticks; those that no page documents (`exporti`) become plain again."
    link = re.compile(rf"\[(`[^`]+`)\]\({re.escape(site()['site-url'])}/([\w-]+\.html)#([\w.]+)\)")
    def known(match): return match[0] if match[3] in names.get(match[2], ()) else match[1]
    for notebook in pages.values():
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown": cell["source"] = link.sub(known, text(cell["source"]))


def fill_reference(pages, shown):
    "The table of every module and the names it documents, from nbdev's index, under the reference's own text."
    from attn_lit._modidx import d as index
    rows = ["| Module | Names |", "|---|---|"]
    for module, names in index["syms"].items():
        public = {name.removeprefix(f"{module}."): where for name, (where, _) in names.items()}
        links = [f"[`{name}`]({where})" for name, where in public.items() if "." not in name and name[0] != "_"
                 and where.partition("#")[2] in shown.get(where.partition("#")[0], ())]
        page = next((where.partition("#")[0] for where in public.values()), None)
        if links: rows.append(f"| [{module.removeprefix('attn_lit.')}]({page}) | {', '.join(links)} |")
    pages["api.ipynb"]["cells"].append(prose("\n".join(rows) + "\n"))


def stage():
    "nbs/ processed into _proc/, with nbdev.yml from settings.ini; returns the folder."
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    refresh_quarto_yml()
    folder = proc_nbs(force=True, n_workers=2)
    for path in folder.glob("*.ipynb"): still(path)
    pages = {path.name: load(path) for path in sorted(folder.glob("*.ipynb"))}
    scripts = {}
    for name, notebook in pages.items():
        scripts |= share_scripts(notebook, folder)
        plain_signatures(notebook)
        set_front(notebook, **{"code-links": [{"text": "Open in Colab", "icon": "play-circle", "href": colab(name)}]})
    fill_gallery(pages, scripts, folder)
    names = {front(notebook).get("output-file"): shown_names(notebook) for notebook in pages.values()}
    unlink(pages, names)
    fill_reference(pages, names)
    for name, notebook in pages.items(): save(folder/name, notebook)
    return folder
