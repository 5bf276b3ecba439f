"The house: notebooks, modules, README, site and packaging agree, and keep the rules of style."
import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import browser
import checks
import docs
import pytest
import readme
import staging
import versions
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
    text = checks.CODE.sub("", (ROOT/"README.md").read_text(encoding="utf-8"))
    links = [x.split("#")[0] for x in checks.LINK.findall(text) + [s for _, s in checks.IMAGE.findall(text)]]
    assert not [x for x in links if x and not re.match(r"[a-z]+:", x) and not (ROOT/x).exists()]


def test_readme_of_a_small_notebook():
    notebook = {"cells": [
        {"cell_type": "markdown", "source": ":::: {.columns}\n::: {.column}\n"},
        {"cell_type": "code", "source": "#| echo: false\nviewer", "outputs": [
            {"data": {"text/html": "<figure data-attn-lit>", "text/plain": "Viewer()"}}]},
        {"cell_type": "markdown", "source": ["# T\n", "\n", "[a](0_a.ipynb) [b](https://x.y) [c](../LICENSE) [d](#e)"]},
        {"cell_type": "code", "source": "#| hide\nsecret", "outputs": []},
        {"cell_type": "code", "source": "#| eval: false\n1+1", "outputs": [{"data": {"text/plain": "2"}}]},
        {"cell_type": "code", "source": "#| fig-cap: One.\n#| fig-alt: A map\nfig",
         "outputs": [{"data": {"image/png": "AAAA", "text/plain": "<Axes>"}}]}]}
    text, pictures = readme.readme(notebook)
    assert "[a](nbs/0_a.ipynb) [b](https://x.y) [c](LICENSE) [d](#e)" in text
    assert "secret" not in text and "```python\n1+1\n```\n\n    2\n" in text
    assert list(pictures) == ["index_files/figure-1.png"] and "![A map](index_files/figure-1.png)\n\n*One.*" in text
    assert ":::" not in text and "Viewer" not in text


def test_quarto_yml_is_the_real_file_at_the_top():
    assert (ROOT/"_quarto.yml").is_file() and not (ROOT/"_quarto.yml").is_symlink()
    assert (ROOT/"nbs/_quarto.yml").is_symlink() and (ROOT/"nbs/_quarto.yml").resolve() == ROOT/"_quarto.yml"


def test_two_pages_of_one_address_are_noticed():
    found = dict(checks.addresses({"00_large.ipynb", "large.ipynb", "00_data.ipynb", "15a_tiny.ipynb"}))
    assert found == dict(large=["00_large.ipynb", "large.ipynb"], data=["00_data.ipynb"], tiny=["15a_tiny.ipynb"])


def test_only_long_scripts_are_shared(tmp_path):
    "A short one before the data of a viewer stays, and takes nothing of what follows with it."
    short, long_, data = "<script>a()</script>", f"<script>{'b();'*1200}</script>", "<script>" + "c"*3990 + "</script>"
    outputs = [dict(data={"text/html": short + "<p>1</p>" + data + long_})]
    tags = staging.share_scripts(dict(cells=[dict(outputs=outputs)]), tmp_path)
    assert outputs[0]["data"]["text/html"] == short + "<p>1</p>" + data + "".join(tags.values())
    assert [p.read_text() for p in tmp_path.iterdir()] == ["b();"*1200]


def test_site_configuration_names_what_is_there(): assert list(checks.check_config(ROOT/"nbs")) == []


def test_a_missing_page_is_noticed(tmp_path):
    for name in ("_quarto.yml", "nbdev.yml", "references.bib"): shutil.copy(ROOT/"nbs"/name, tmp_path)
    contents = ["gone.ipynb", {"section": "S", "contents": ["a.ipynb"]}]
    (tmp_path/"sidebar.yml").write_text(yaml.safe_dump({"website": {"sidebar": {"contents": contents}}}))
    for name in ("a", "b"): (tmp_path/f"{name}.ipynb").write_text("{}")
    found = list(checks.check_config(tmp_path))
    assert "sidebar.yml names gone.ipynb, which is not there" in found and "b.ipynb is not in sidebar.yml" in found
    assert "_quarto.yml names dark.scss, which is not there" in found


@pytest.mark.parametrize("prose,fault", [
    ("[x](gone.ipynb)", "which is not there"), ("[x](../a.py)", "outside the site"), ("[x](#gone)", "no such heading"),
    ("[x](a.ipynb#gone)", "no such heading"),
    ("[x](https://site.org/base/a.html#gone)", "no such heading"), ("![](a.png)", "no alt text"),
    ("[x](a.ipynb#the-one)\n\n## The one", ""), ("[x](https://elsewhere.org)", ""), ("`[x](gone.ipynb)`", "")])
def test_links_and_images(tmp_path, prose, fault):
    page = {"cells": [{"cell_type": "markdown", "source": prose}]}
    (tmp_path/"a.ipynb").write_text(json.dumps(page))
    (tmp_path/"a.png").touch()
    found = [*checks.check_links(tmp_path, "a.ipynb", page, "https://site.org/base", {"a.html": "a.ipynb"}),
             *checks.check_images(tmp_path, "a.ipynb", page)]
    assert fault in found[0] if fault else found == []


def test_yaml_that_quarto_does_not_know_is_noticed():
    config = yaml.safe_load((ROOT/"_quarto.yml").read_text())
    assert list(checks.against("project", config, "_quarto.yml")) == []
    config["format"]["html"]["tocdepth"] = 3
    assert "'tocdepth' was unexpected" in next(checks.against("project", config, "_quarto.yml"))
    assert list(checks.against("cell", {"label": "fig-a", "fig-cap": "A."}, "x")) == []
    assert "fig-captoin" in next(checks.against("cell", {"fig-captoin": "A."}, "x"))


def shown(source, kind="image/png", value="AAAA"):
    return {"cell_type": "code", "source": source, "outputs": [{"output_type": "display_data", "data": {kind: value}}]}


def test_figures_have_label_caption_and_alt_text():
    good = '#| label: fig-a\n#| fig-cap: "A: b."\n#| fig-alt: "c"\nplot()'
    assert list(checks.check_figures("n", {"cells": [shown(good)]})) == []
    assert "'plot()' has no label, fig-cap, fig-alt" in next(checks.check_figures("n", {"cells": [shown("plot()")]}))
    assert "the label fig-a twice" in list(checks.check_figures("n", {"cells": [shown(good), shown(good)]}))[0]
    viewer = shown("view()", "text/html", '<figure><div data-attn-lit="x"></div></figure>')
    assert "'view()' has no label" in next(checks.check_figures("n", {"cells": [viewer]}))


@pytest.mark.parametrize("prose,fault", [
    ("see @fig-a and [@key; @other].", ""), ("see @fig-b", "@fig-b, which is no label"),
    ("[@nobody2020]", "@nobody2020"), ("$x@y$ and a@b.org and `@code`", "")])
def test_references_resolve(prose, fault):
    page = {"cells": [shown("#| label: fig-a\nplot()"), {"cell_type": "markdown", "source": prose}]}
    found = list(checks.check_references("n", page, {"key", "other"}))
    assert fault in found[0] if fault else found == []


def test_a_long_script_becomes_one_file(tmp_path):
    script = f"<script data-x>{'1;'*4000}</script>"
    page = {"cells": [shown("a", "text/html", script), shown("b", "text/html", script + "<script>short()</script>")]}
    data = f'<script type="application/json">{"1"*9000}</script>'
    page["cells"].append(shown("c", "text/html", data))
    (name, tag), = staging.share_scripts(page, tmp_path).items()
    assert [staging.html(c["outputs"][0]) for c in page["cells"]] == [tag, tag + "<script>short()</script>", data]
    assert tag == f'<script src="{name}" data-x></script>' and (tmp_path/name).read_text() == "1;"*4000
    assert 9000 < checks.weight(page) < 10_000


def test_a_page_that_asks_elsewhere_or_fails_is_noticed(tmp_path):
    if not browser.CHROMIUM: pytest.skip("no chromium on this machine (on Debian: apt install chromium)")
    bad = '<figure class="attn-lit-viewer" data-attn-lit="x"></figure><script>throw Error("no")</script>'
    page = {"cells": [shown("a", "text/html", bad + '<img alt="x" src="https://elsewhere.invalid/x.png">')]}
    (tmp_path/"a.ipynb").write_text(json.dumps(page))
    with ThreadPoolExecutor(1) as pool: # by itself: other tests hold a browser open in this thread
        found = pool.submit(browser.check_viewers, tmp_path, patience=.5).result()
    assert all(any(says in f for f in found) for says in ("error: no", "asks for https://elsewhere", "not drawn"))


def test_without_quarto_a_sentence_and_a_code(monkeypatch):
    for name in ("check", "check_viewers"): monkeypatch.setattr(docs, name, lambda staged: [])
    monkeypatch.setattr(docs.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["docs.py", "--staged"])
    with pytest.raises(SystemExit, match="^Quarto is not installed, so .* docs-check, which needs none.$"): docs.main()


def test_what_quarto_adds_from_other_hosts_is_taken_out():
    page = ('<script src="https://cdnjs.cloudflare.com/ajax/libs/jquery/3.5.1/jquery.min.js" integrity="x"></script>\n'
            '<script src="https://cdn.jsdelivr.net/npm/requirejs@2.3.6/require.min.js" crossorigin="a"></script>\n'
            "<script type=\"application/javascript\">define('jquery', [],function() {return jQuery;})</script>\n")
    assert docs.FOREIGN.sub("", page + "<p>text</p>") == "<p>text</p>"


def test_a_link_in_a_signature_is_plain():
    data = {"text/markdown": "see [`a`](x.html)\n```python\ndef f(\n    x # as [`g`](https://x.y#g)\n```\n"}
    staging.plain_signatures({"cells": [{"outputs": [{"data": data}]}]})
    assert data["text/markdown"] == "see [`a`](x.html)\n```python\ndef f(\n    x # as g\n```\n"


def test_every_promised_name_is_in_the_reference():
    shown = re.findall(r"show_doc\((\w+)\)", "".join(source(c) for c in cells(ROOT/"nbs/api.ipynb")))
    assert sorted([*shown, "InputError", "SENTIMENT_KEYWORDS"]) == sorted(attn_lit.__all__)


# ── packaging

def test_constraints_pin_every_requirement():
    "But Triton, of which PyTorch's builds for a GPU pin a version themselves."
    pinned = {x.split("==")[0] for x in (ROOT/"constraints.txt").read_text().splitlines() if "==" in x}
    wanted = [re.split(r"[<>=~!;]", requirement)[0].lower() for extra in ("", "lens_", "dev_")
              for requirement in SETTINGS[f"{extra}requirements"].split()]
    assert [r for r in wanted if r not in pinned] == ["triton"]


def test_oldest_versions_are_the_lower_bounds():
    oldest = versions.requirements("oldest", SETTINGS)
    assert {r.replace("==", ">=") for r in oldest} >= set(SETTINGS["requirements"].split())
    assert not [r for r in oldest if r.startswith(versions.NEWER)]
    with pytest.raises(SystemExit, match="no lower bound in settings.ini: numpy"):
        versions.requirements("oldest", dict(requirements="torch>=2 numpy", dev_requirements=""))


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
