"report.html and `attn-lit figures`: in a real browser, with hostile text, and from files that are not as they should."
import json
import random

import numpy as np
import pandas as pd
import pytest
from browsing import HOSTILE, RUN, Watched
from PIL import Image

from attn_lit.base import InputError
from attn_lit.causal import CausalTable
from attn_lit.evidence import Design, hold_out, with_controls
from attn_lit.kept import read_kept, write_arrays
from attn_lit.pixels import as_bytes
from attn_lit.record import SCHEMA_VERSION, write_results
from attn_lit.redraw import draw_all, drawings
from attn_lit.report import ROOM, figures_html, report_page, write_report
from attn_lit.results import HeadResult, jsonable

TOKENS = ["Once", " upon", *HOSTILE, *(f" word{i}" for i in range(10))]


def result(name, seed, size=0., shape=(12, 12)):
    "A tested result with one planted head, L1H2."
    scores = np.random.default_rng(seed).normal(size=(30, *shape))
    scores[:, 1, 2] += size
    return Design(n=4_000).test(HeadResult(name, scores[0], f"mean {HOSTILE[1]}", True, scores))


def causal(name):
    "A table of two heads beside five others."
    rows = [dict(layer=1, head=h, score=.5, q=.01, effect=-.2 - h, low=-.4 - h, high=-.1 - h, n_random=5,
                 matched="model", p=.17, p_least=.17, p_corrected=.17, flagged=h == 2, beyond=False) for h in (2, 3)]
    whole = dict(n_heads=2, effect=-1., low=-2., high=-.5, n_random=2, matched="model", p=.3, p_least=.3, beyond=False,
                 sum_of_singles=-.9, gap=-.1, gap_low=-.2, gap_high=.1)
    others = [dict(layer=2, head=h, score=.1, effect=.01*h) for h in range(5)]
    return CausalTable(name, "score", f"log odds {HOSTILE[0]}", pd.DataFrame(rows), whole, pd.DataFrame(others),
                       np.array([.1, .2]), "flagged", 30, {}, .05, 0, dict(ablation="zero")).to_dict()


def write_run(folder, status="complete", shape=(12, 12)):
    "A folder as a run leaves it, of formulas instead of a model, with small pictures in place of its figures."
    bias, control = result("bias", 0, 1.5, shape), result("control", 1, shape=shape)
    maps = dict(bias=hold_out(with_controls(bias, {HOSTILE[0]: control})), sentiment=result("sentiment", 3, 1.5, shape),
                bias_stereotype=result("bias_stereotype", 2, shape=shape),
                entropy=HeadResult("entropy", np.full(shape, .5), "nats", False))
    rng = np.random.default_rng(0)
    attn = np.tril(rng.gamma(.3, size=(*shape, len(TOKENS), len(TOKENS))) + 1e-6)
    states = ["embed", *(f"L{i}" for i in range(shape[0]))]
    lens = [dict(state=s, pos=i, token=t, top=t, prob=.5, kl=1.) for s in states for i, t in enumerate(TOKENS)]
    source = dict(model=HOSTILE[1], model_class="M", revision=None, weights_sha256={"w": "0"*64},
                  tokenizer_sha256="0"*64, n_parameters=1, dtype="float32", device="cpu",
                  versions={"python": "3"}, platform=HOSTILE[4], arguments=dict(alpha=.05, text="".join(TOKENS)),
                  seed=0, started="now")
    data = dict(bias=dict(source=HOSTILE[1], format="csv", n_items=3, sha256="0"*64, splits={}, dropped={"long": 1},
                          files={}, revision=None))
    analyses = {name: found.to_dict() for name, found in maps.items()} | dict(
        attention=dict(text="t", tokens=TOKENS, shown=[dict(layer=1, head=2), dict(layer=shape[0] - 1, head=0)]),
        neurons=dict(text="t", kind="product", tokens=TOKENS, top=[dict(layer=0, neuron=1)]),
        lens=dict(text="t", tokens=TOKENS, top=lens))
    record = jsonable(dict(
        schema_version=SCHEMA_VERSION, status=status, provenance=source, seconds=dict(bias=1.), skipped=[], captions={},
        closing=f"bias: 1 of 144\n  L1H2 {HOSTILE[0]}", plan=dict(given=False, sha256="0"*64), data=data,
        causal=dict(bias=causal("bias"), sentiment=dict(why_not=HOSTILE[1])), analyses=analyses, figures=[]))
    if status == "failed": record["error"] = HOSTILE[0]
    write_results(folder, record, maps)
    acts = rng.normal(size=(shape[0], len(TOKENS), 20)).astype(np.float32)
    write_arrays(folder, dict(attention=as_bytes(attn/attn.sum(-1, keepdims=True)), activations=acts,
                              neurons=rng.integers(0, 99, (shape[0], 20))))
    for drawing in drawings(read_kept(folder)): Image.effect_noise((60, 40), 60).save(folder/f"{drawing.name}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory): return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run): return write_report(run)


def n_viewers(page): return page.read_text(encoding="utf-8").count('<figure class="attn-lit-viewer"')


# ── the page

@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_looks(scheme, width, page, browser):
    "From disk, no request, no error, no sideways scrolling, no serious violation of accessibility rules."
    seen = Watched(browser, viewport=dict(width=width, height=800), color_scheme=scheme).open(page, n_viewers(page))
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    colour = seen.page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert colour == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 15, 18)")
    assert seen.asked == [page.as_uri()]
    if (width, scheme) in ((375, "dark"), (1440, "light")):
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
        found = axe.Axe().run(seen.page).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")] == []
    seen.close()


def test_hostile_text_is_shown_and_never_run(tmp_path, watched):
    page = write_report(write_run(tmp_path, "failed"))
    watched.open(page, n_viewers(page))
    shown = watched.page.locator("body").inner_text()
    assert watched.page.evaluate("window.ran") is None and RUN in shown
    assert watched.page.title() == f"Attention heads of {HOSTILE[1]}"
    assert watched.count("svg, iframe, object, embed, script[src], img:not([src^='data:'])") == 0
    for says in ("out: <img", "its status is failed: </script>", "log odds </script>"): assert says in shown, says
    images = watched.page.locator("section#figures img")
    assert images.count() == len(drawings(read_kept(tmp_path)))
    assert all(len(images.nth(i).get_attribute("alt")) > 40 for i in range(images.count()))


def test_the_table_by_keys(page, watched):
    "Sorted by Enter on a heading, both ways, told by aria-sort; searched; survivors alone; another analysis."
    table = watched.open(page, n_viewers(page)).page.locator(".al-headtable")
    def heading(name):
        return table.locator("thead th").filter(has=watched.page.get_by_role("button", name=name, exact=True))
    def column(name):
        at = table.locator("thead th").all_inner_texts()
        at = [text.rstrip(" ▲▼") for text in at].index(name) + 1
        cells = table.locator(f"tbody tr > :nth-child({at})").all_inner_texts()
        return [float(text.replace("−", "-")) for text in cells if text]
    table.locator("select").select_option(label="bias")
    assert heading("q").get_attribute("aria-sort") == "ascending" and column("q") == sorted(column("q"))
    assert table.locator("tbody th").first.inner_text() == "L1H2"
    heading("effect").get_by_role("button").focus()
    watched.page.keyboard.press("Enter")
    assert heading("effect").get_attribute("aria-sort") == "descending"
    assert heading("q").get_attribute("aria-sort") == "none"
    assert column("effect") == sorted(column("effect"), reverse=True) and len(column("effect")) == 144
    watched.page.keyboard.press("Enter")
    assert heading("effect").get_attribute("aria-sort") == "ascending" and column("effect") == sorted(column("effect"))
    assert column("without it") == [-2.2, -3.2] or column("without it") == [-3.2, -2.2]
    assert HOSTILE[0] in table.locator("thead").inner_text() # a control's column
    table.locator("input[type=search]").fill("L11")
    assert [t[:4] for t in table.locator("tbody th").all_inner_texts()] == ["L11H"]*12
    table.locator("input[type=search]").fill("l1h2")
    assert table.locator("tbody th").all_inner_texts() == ["L1H2"]
    assert table.locator("output").inner_text() == "1 of 144 heads"
    table.locator("input[type=search]").fill("")
    table.locator("input[type=checkbox]").focus()
    watched.page.keyboard.press("Space")
    assert set(table.locator("tbody tr").evaluate_all("rows => rows.map(row => row.className)")) == {"al-alive"}
    table.locator("select").select_option(label="entropy")
    assert not table.locator("input[type=checkbox]").is_visible() and len(column("effect")) == 144


def test_without_scripts_it_can_be_read(page, browser):
    seen = Watched(browser, java_script_enabled=False).open(page)
    text = seen.page.locator("body").inner_text()
    assert "bias: 1 of 144" in text and "heads.csv holds these numbers" in text and "L1H2" in text
    seen.close()


def test_it_is_small_and_the_same_when_made_again(run, page, tmp_path):
    "Pictures have their room, and all the rest of 12 × 12 heads leaves it free of the 5 MB."
    kept = read_kept(run)
    assert len(report_page(kept, tmp_path).encode()) + ROOM < 5_000_000 # no figures are in this folder
    assert report_page(kept, run) == page.read_text(encoding="utf-8")
    for drawing in drawings(kept): Image.effect_noise((1000, 700), 100).save(tmp_path/f"{drawing.name}.png")
    html = "".join(figures_html(kept, tmp_path))
    assert len(html) < ROOM + 20_000 and 0 < html.count("<a href=") < 12


# ── files that are not what they should be


BAD = {
    "truncated": (lambda text: text[:len(text)//2], "not whole, or no JSON"),
    "empty": (lambda text: "", "not whole, or no JSON"),
    "another's": (lambda text: '{"results": []}', "is no results file"),
    "newer": (lambda text: text.replace(f'"{SCHEMA_VERSION}"', '"2.0"', 1), "has schema_version 2.0"),
    "wrong type": (lambda text: text.replace('"analysis": "bias"', '"analysis": 3'), "bias.analysis: 3 is not of type"),
    "no such head": (lambda text: text.replace('"head": 2', '"head": 99', 1), "out of range"),
    "other shape": (lambda text: json.dumps(json.loads(text) | dict(analyses=json.loads(text)["analyses"] | dict(
        sentiment=result("sentiment", 0, shape=(2, 3)).to_dict()))), "different shapes")}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("command", ["figures", "report"])
def test_bad_results_are_one_sentence(case, command, run, tmp_path, one_sentence):
    change, says = BAD[case]
    folder, out = tmp_path/"run", tmp_path/"out"
    folder.mkdir()
    (folder/"analysis_results.json").write_text(change((run/"analysis_results.json").read_text()))
    more = ["--out", out] if command == "figures" else []
    assert says in one_sentence(command, folder, *more)
    assert not out.exists() and [p.name for p in folder.iterdir()] == ["analysis_results.json"]


def test_other_bad_input_of_figures(run, tmp_path, one_sentence):
    assert "No such file" in one_sentence("figures", tmp_path/"gone.json", "--out", tmp_path/"out")
    assert "png, svg, pdf" in one_sentence("figures", run, "--format", "gif", "--out", tmp_path/"out")
    assert "20 to 1200" in one_sentence("figures", run, "--dpi", "5", "--out", tmp_path/"out")
    assert list(tmp_path.iterdir()) == []


def leaves(value, path=()):
    "The paths of all values, those of long lists by their first two."
    if path: yield path
    if isinstance(value, dict): inner = list(value.items())
    else: inner = list(enumerate(value))[:2] if isinstance(value, list) else []
    for key, of in inner: yield from leaves(of, (*path, key))


def test_any_value_may_be_wrong(tmp_path):
    "Whatever one value is replaced by, there are figures and a page to be had, or one sentence."
    record = (write_run(tmp_path, shape=(3, 4))/"analysis_results.json").read_text()
    rng, paths, refused = random.Random(0), list(leaves(json.loads(record))), 0
    for drawing in drawings(read_kept(tmp_path)): (tmp_path/f"{drawing.name}.png").unlink()
    for _ in range(50):
        changed = json.loads(record)
        *path, last = rng.choice(paths)
        of = changed
        for key in path: of = of[key]
        of[last] = rng.choice([None, "x", -1, 1e300, [], {}, [[]], True])
        (tmp_path/"analysis_results.json").write_text(json.dumps(changed))
        try:
            kept = read_kept(tmp_path)
            assert drawings(kept) and report_page(kept, tmp_path)
        except InputError as error: refused += len(str(error).splitlines()) == 1
    assert 15 < refused < 50


def test_names_from_the_file_lead_nowhere(run, tmp_path):
    "Figures are named by what they are; no name that the file gives is used."
    record = json.loads((run/"analysis_results.json").read_text())
    record["analyses"]["../../evil"] = record["analyses"]["bias_stereotype"]
    record["causal"]["../evil"] = record["causal"]["bias"]
    (tmp_path/"analysis_results.json").write_text(json.dumps(record))
    kept = read_kept(tmp_path)
    assert not any("evil" in drawing.name or "/" in drawing.name for drawing in drawings(kept))
    some = type(kept)(record | dict(analyses={"../../evil": record["analyses"]["bias_stereotype"]}, causal={}), {})
    (tmp_path/"out").mkdir()
    assert [f.name for f in draw_all(some, tmp_path/"out", "svg", 50)] == ["head_summary_overview.svg"]
