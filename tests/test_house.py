"The house: notebooks, modules, README, site and packaging agree, and keep the rules of style."
import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median

import docs
import pytest
import readme
import yaml

import attn_lit

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(p for p in (ROOT/"nbs").glob("*.ipynb") if p.name[0] not in "_.")
NUMBERED = [p for p in NOTEBOOKS if p.name[0].isdigit()]
MODULES = sorted(p for p in (ROOT/"attn_lit").rglob("*.py") if p.name[0] != "_")
SETTINGS = configparser.ConfigParser(delimiters=["="])
SETTINGS.read(ROOT/"settings.ini", encoding="utf-8")
SETTINGS = SETTINGS["DEFAULT"]
MACHINE_PATH = re.compile(r"(?<![\w.:/-])/(?:home|Users|root|work|workspace|tmp|opt|mnt|private|usr/lib|content)/"
                          r"[\w.-]+|\b[A-Z]:\\\\?(?:Users|Windows)")

by_name = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
by_number = pytest.mark.parametrize("path", NUMBERED, ids=lambda p: p.stem)
by_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)


def cells(path): return json.loads(path.read_text(encoding="utf-8"))["cells"]


def source(cell): return "".join(cell["source"])


def module_name(path): return re.sub(r"^\d+_", "", path.stem)


def number(path): return int(path.stem.split("_")[0])


def tree(code):
    "The syntax tree of a cell, its IPython lines (`%magic`, `!command`, `name?`) left out."
    return ast.parse("\n".join("" if re.match(r"\s*[%!?]|.*\?\s*$", line) else line for line in code.splitlines()))


def imported(code):
    "The modules of attn_lit that `code` imports, names taken from the top level traced to theirs."
    for node in ast.walk(tree(code)):
        if isinstance(node, ast.Import): names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "attn_lit":
            names = [f"attn_lit.{attn_lit._names.get(a.name, (a.name,))[0]}" for a in node.names]
        elif isinstance(node, ast.ImportFrom): names = [node.module or ""]
        else: continue
        yield from (n.split(".")[1] for n in names if n.startswith("attn_lit."))


# ── notebooks

@by_number
def test_first_and_last_cells(path):
    first, second, *_, last = cells(path)
    assert re.fullmatch(rf"#\| default_exp {module_name(path)}(\.\w+)?", source(first).strip())
    assert re.fullmatch(r"# \S.*\n+> \S.*", source(second).strip()), "cell 1 is `# Title` and `> subtitle`, no more"
    assert source(last).split() == "#| hide import nbdev; nbdev.nbdev_export()".split()


@by_name
def test_title_and_subtitle(path):
    first = next(source(c) for c in cells(path) if c["cell_type"] == "markdown")
    assert re.fullmatch(r"# \S.*\n+> \S.*", first.strip()), "the site takes the whole first cell as its heading"


@by_number
def test_imports_point_down(path):
    numbers = {module_name(p): number(p) for p in NUMBERED}
    for cell in cells(path):
        if cell["cell_type"] != "code": continue
        wrong = [m for m in imported(source(cell)) if m in numbers and numbers[m] > number(path)]
        assert not wrong, f"imports higher-numbered {wrong}"


@by_name
def test_outputs_are_clean(path):
    for i, cell in enumerate(cells(path)):
        if cell["cell_type"] != "code": continue
        assert cell["execution_count"] is None, f"cell {i} has an execution count"
        for out in cell["outputs"]:
            assert out["output_type"] != "error", f"cell {i} ends in an error"
            assert out.get("name") != "stderr", f"cell {i} shows stderr: {''.join(out['text'])[:200]}"
            assert out.get("execution_count") is None


@by_name
def test_no_machine_paths(path):
    for i, cell in enumerate(cells(path)):
        shown = [source(cell)]
        for out in cell.get("outputs", []):
            shown += [out.get("text", ""), *(v for k, v in out.get("data", {}).items() if k != "image/png")]
        for text in shown:
            text = text if isinstance(text, str) else json.dumps(text) if isinstance(text, dict) else "".join(text)
            text = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
            found = MACHINE_PATH.search(text)
            assert not found, f"cell {i}: {found.group()}"


@by_number
def test_size(path):
    body = cells(path)
    exported = [source(c) for c in body if re.match(r"#\|\s*export", source(c))]
    assert len(body) <= 90, "about 80 cells at most: a longer notebook is two analyses"
    assert sum(len(s.splitlines()) - 1 for s in exported) <= 300, "about 250 exported lines at most"


# ── modules

def functions(path):
    return [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


@by_module
def test_no_function_over_30_lines(path):
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions(path) if f.end_lineno - f.lineno >= 30}
    assert not long


def test_median_function_is_short():
    assert median(f.end_lineno - f.lineno + 1 for p in MODULES for f in functions(p)) <= 8


@by_module
def test_every_public_function_has_one_line_docstring(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    public = [n for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name[0] != "_"]
    assert not [n.name for n in public if not ast.get_docstring(n)]
    assert not [n.name for n in public if "\n" in ast.get_docstring(n)]


@by_module
def test_module_has_its_notebook(path):
    exported = {source(cells(p)[0]).split()[-1] for p in NUMBERED}
    assert ".".join(path.relative_to(ROOT/"attn_lit").with_suffix("").parts) in exported


# ── README and site

def test_readme_is_in_step_with_the_index():
    done = subprocess.run([sys.executable, ROOT/"scripts/readme.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_readme_links_lead_somewhere():
    text = docs.CODE.sub("", (ROOT/"README.md").read_text(encoding="utf-8"))
    links = [x.split("#")[0] for x in docs.LINK.findall(text) + [s for _, s in docs.IMAGE.findall(text)]]
    assert not [x for x in links if x and not re.match(r"[a-z]+:", x) and not (ROOT/x).exists()]


def test_readme_of_a_small_notebook():
    notebook = {"cells": [
        {"cell_type": "markdown", "source": ["# T\n", "\n", "[a](0_a.ipynb) [b](https://x.y) [c](../LICENSE) [d](#e)"]},
        {"cell_type": "code", "source": "#| hide\nsecret", "outputs": []},
        {"cell_type": "code", "source": "#| eval: false\n1+1", "outputs": [{"data": {"text/plain": "2"}}]},
        {"cell_type": "code", "source": "#| fig-alt: A map\nfig",
         "outputs": [{"data": {"image/png": "AAAA", "text/plain": "<Axes>"}}]}]}
    text, pictures = readme.readme(notebook)
    assert "[a](nbs/0_a.ipynb) [b](https://x.y) [c](LICENSE) [d](#e)" in text
    assert "secret" not in text and "```python\n1+1\n```\n\n    2\n" in text
    assert list(pictures) == ["index_files/figure-1.png"] and "![A map](index_files/figure-1.png)" in text


def test_quarto_yml_is_the_real_file_at_the_top():
    assert (ROOT/"_quarto.yml").is_file() and not (ROOT/"_quarto.yml").is_symlink()
    assert (ROOT/"nbs/_quarto.yml").is_symlink() and (ROOT/"nbs/_quarto.yml").resolve() == ROOT/"_quarto.yml"


def test_site_configuration_names_what_is_there(): assert list(docs.check_config(ROOT/"nbs")) == []


def test_a_missing_page_is_noticed(tmp_path):
    for name in ("_quarto.yml", "nbdev.yml", "styles.css"): shutil.copy(ROOT/"nbs"/name, tmp_path)
    contents = ["gone.ipynb", {"section": "S", "contents": ["a.ipynb"]}]
    (tmp_path/"sidebar.yml").write_text(yaml.safe_dump({"website": {"sidebar": {"contents": contents}}}))
    for name in ("a", "b"): (tmp_path/f"{name}.ipynb").write_text("{}")
    found = list(docs.check_config(tmp_path))
    assert "sidebar.yml names gone.ipynb, which is not there" in found and "b.ipynb is not in sidebar.yml" in found


@pytest.mark.parametrize("prose,fault", [
    ("[x](gone.ipynb)", "which is not there"), ("[x](../a.py)", "outside the site"), ("[x](#gone)", "no such heading"),
    ("[x](a.ipynb#gone)", "no such heading"),
    ("[x](https://site.org/base/a.html#gone)", "no such heading"), ("![](a.png)", "no alt text"),
    ("[x](a.ipynb#the-one)\n\n## The one", ""), ("[x](https://elsewhere.org)", ""), ("`[x](gone.ipynb)`", "")])
def test_links_and_images(tmp_path, prose, fault):
    page = {"cells": [{"cell_type": "markdown", "source": prose}]}
    (tmp_path/"a.ipynb").write_text(json.dumps(page))
    (tmp_path/"a.png").touch()
    found = [*docs.check_links(tmp_path, "a.ipynb", page, "https://site.org/base", {"a.html": "a.ipynb"}),
             *docs.check_images(tmp_path, "a.ipynb", page)]
    assert fault in found[0] if fault else found == []


# ── packaging

def test_constraints_pin_every_requirement():
    pinned = {x.split("==")[0] for x in (ROOT/"constraints.txt").read_text().splitlines() if "==" in x}
    wanted = [re.split(r"[<>=~!]", requirement)[0].lower() for extra in ("", "lens_", "dev_")
              for requirement in SETTINGS[f"{extra}requirements"].split()]
    assert not [r for r in wanted if r not in pinned]


def test_version_is_the_same_everywhere():
    assert attn_lit.__version__ == SETTINGS["version"]
    assert f"## {SETTINGS['version']}" in (ROOT/"CHANGELOG.md").read_text()


def test_workflows_are_yaml():
    for path in (ROOT/".github/workflows").glob("*.yml"): assert yaml.safe_load(path.read_text())["jobs"]


def test_ci_script_is_sound():
    assert os.access(ROOT/".ci/run", os.X_OK)
    subprocess.run(["bash", "-n", ROOT/".ci/run"], check=True)


def test_notebook_merges_go_through_nbdev():
    assert "*.ipynb merge=nbdev-merge" in (ROOT/".gitattributes").read_text()
