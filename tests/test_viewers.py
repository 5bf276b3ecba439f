"Strips, tables, maps and long patterns in a real browser: reached by pointer and keys, themes, sizes, accessibility."
from dataclasses import replace

import numpy as np
import pytest
from browsing import HOSTILE, RUN, Watched, write

from attn_lit.headmap import head_map
from attn_lit.lens import Lens
from attn_lit.page import parts_html, save_viewer, visible
from attn_lit.pixels import pattern_viewer
from attn_lit.results import HeadResult
from attn_lit.strips import lens_table, token_strip
from attn_lit.viewers import head_viewer

THEMES = {"light": "", "quarto": "quarto-dark", "vscode": "vscode-dark"}


def patterns(layers, heads, n, seed=0):
    "Random causal attention."
    raw = np.tril(np.random.default_rng(seed).gamma(.3, size=(layers, heads, n, n)) + 1e-6)
    return raw/raw.sum(-1, keepdims=True)


def a_strip(tokens): return token_strip(tokens, np.linspace(-1, 2, len(tokens)), "nats", note=tokens[0])


def a_table(tokens):
    n = len(tokens)
    top = [[[t, tokens[0]] for t in tokens] for _ in range(3)]
    rank = np.ones((3, n))
    rank[:, -1] = np.nan
    probs = np.linspace(.1, .4, 6*n).reshape(3, n, 2)
    ids, kl = np.zeros((3, n, 2), int), np.zeros((3, n))
    return lens_table(Lens(tokens, list(range(n)), ids, top, probs, kl, rank/10, rank))


def a_map(tokens, attn=True):
    "Two layers of three heads: the last one survives, and a control shows it too; the first has no value."
    effect = np.array([[np.nan, -.2, .1], [.3, .2, .9]])
    q = np.where(effect > .5, .01, .5)
    result = HeadResult("made up", effect, tokens[0], signed=True, q=q, p_max_t=q,
                        reproduced={"control": effect > .5})
    return head_map(result, patterns(2, 3, len(tokens)) if attn else None, tokens)


def a_pattern(tokens): return pattern_viewer(patterns(2, 3, len(tokens)), tokens)


def some_heads(tokens): return head_viewer(patterns(1, 2, len(tokens)), tokens, 0)


KINDS = dict(strip=a_strip, table=a_table, map=a_map, pattern=a_pattern, heads=some_heads)
by_kind = pytest.mark.parametrize("kind", KINDS)
WORDS = ["The", " fox", " ran", " home", "."]


def page_of(*views):
    "What a notebook leaves in its page: each part once, then the viewers."
    return parts_html(("page", "heads")) + "".join(v.to_html() for v in views)


# ── text is text

@by_kind
@pytest.mark.parametrize("where", ["file", "notebook"])
def test_hostile_text_is_shown_and_never_run(kind, where, watched, tmp_path):

    view = replace(KINDS[kind](HOSTILE), title=HOSTILE[0])
    path = (save_viewer(tmp_path/"page.html", view, title=HOSTILE[1]) if where == "file" else
            write(tmp_path, page_of(view)))
    watched.open(path, viewers=1)
    page = watched.page
    cells = page.locator(".al-c, canvas")
    for i in range(min(cells.count(), 20)):
        if cells.nth(i).is_visible(): cells.nth(i).hover(force=True)
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None and page.title() != "ran"
    assert watched.count("img, svg, iframe, object, embed, script[src]") == 0
    assert page.locator("figcaption").inner_text() == HOSTILE[0]
    assert RUN in page.locator("figure").inner_text()


def test_hostile_tokens_of_a_strip_and_of_patterns_are_all_there(watched, tmp_path):
    watched.open(write(tmp_path, page_of(a_strip(HOSTILE), a_pattern(HOSTILE))), viewers=2)
    for where in ("figure:first-of-type", ".al-pattern"):
        shown = watched.page.locator(f"{where} .al-text .al-c, {where} .al-text.al-c").all_text_contents() or \
            watched.page.locator(f"{where} .al-c").all_text_contents()
        assert [t.replace("⏎\n", "⏎") for t in shown] == [visible(t, 80, " ") if where[0] == "f" else
                                                          visible(t, space=" ") for t in HOSTILE]


# ── one script, any order, no kernel

def test_all_kinds_on_one_page_with_each_script_once(watched, tmp_path):
    views = [make(WORDS) for make in KINDS.values()]
    path = save_viewer(tmp_path/"all.html", *views, *views)
    text = path.read_text(encoding="utf-8")
    assert [text.count(name) for name in ("data-attn-lit-page", "data-circuitsvis", "<style>")] == [1, 1, 1]
    watched.open(path, viewers=2*len(views))
    ids = watched.page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids)) and watched.asked == [path.as_uri()]


def test_a_page_without_circuitsvis_is_small(tmp_path):
    path = save_viewer(tmp_path/"small.html", a_strip(WORDS), a_map(WORDS), a_table(WORDS))
    assert "data-circuitsvis" not in path.read_text(encoding="utf-8") and path.stat().st_size < 50_000


def test_order_and_copies_of_the_script_do_not_matter(watched, tmp_path):
    same, script = a_pattern(WORDS).to_html(), parts_html(("page",))
    watched.open(write(tmp_path, same + script + same + script + same), viewers=3)
    assert watched.count(".al-box") == 3


def test_a_broken_viewer_says_so_and_the_others_are_drawn(watched, tmp_path):
    broken = '<div class="broken" data-attn-lit="pattern"><script type="application/json">no JSON</script></div>'
    watched.open(write(tmp_path, broken + page_of(a_pattern(WORDS))), viewers=1)
    assert "could not be drawn" in watched.page.locator(".broken").inner_text()


@pytest.mark.parametrize("kind", ["strip", "table", "map"])
def test_without_scripts_values_can_be_read_and_reached(kind, browser, tmp_path):
    seen = Watched(browser, java_script_enabled=False).open(save_viewer(tmp_path/"p.html", KINDS[kind](WORDS)))
    cell = seen.page.locator(".al-c").nth(1)
    assert len(cell.get_attribute("title")) > 10 and cell.get_attribute("tabindex") == "0"
    colour = "e => getComputedStyle(e).backgroundColor"
    assert seen.page.locator(".al-c").last.evaluate(colour) != seen.page.locator(".al-c").nth(1).evaluate(colour)
    cell.focus()
    assert cell.evaluate("e => getComputedStyle(e, '::after').content").strip('"') == cell.get_attribute("title")
    seen.close()


# ── pointer and keys

@pytest.mark.parametrize("kind", ["strip", "table", "map"])
def test_cells_by_pointer_and_by_keys(kind, watched, tmp_path):
    watched.open(write(tmp_path, page_of(KINDS[kind](WORDS))), viewers=1)
    page, cells = watched.page, watched.page.locator("[role=listitem].al-s, [role=listitem].al-m, [role=gridcell]")
    says = page.locator(".al-says").first
    assert "arrow keys" in says.inner_text()
    cells.nth(1).hover()
    assert says.inner_text() == cells.nth(1).get_attribute("title")
    page.mouse.move(1, 1)
    page.locator("body").click(position=dict(x=1, y=1))
    page.keyboard.press("Tab")
    assert says.inner_text() == cells.nth(0).get_attribute("title")
    for key, at in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", cells.count() - 1), ("Home", 0)):
        page.keyboard.press(key)
        assert says.inner_text() == cells.nth(at).get_attribute("title")
    width = dict(strip=0, table=len(WORDS), map=3)[kind]
    page.keyboard.press("ArrowDown")
    assert says.inner_text() == cells.nth(width).get_attribute("title")
    page.keyboard.press("ArrowUp")
    assert says.inner_text() == cells.nth(0).get_attribute("title")


def test_a_long_strip_wraps_and_arrow_down_goes_to_the_line_below(watched, tmp_path):
    watched.open(write(tmp_path, page_of(a_strip([f" word{i}" for i in range(300)]))), viewers=1)
    cells = watched.page.locator(".al-c")
    cells.nth(3).focus()
    watched.page.keyboard.press("ArrowDown")
    here, there = cells.nth(3).bounding_box(), watched.page.locator(".al-c:focus").bounding_box()
    assert 10 < there["y"] - here["y"] < 40 and abs(there["x"] - here["x"]) < 60


def test_a_map_opens_the_pattern_of_a_head(watched, tmp_path):
    view = a_map(WORDS)
    watched.open(write(tmp_path, page_of(view)), viewers=1)
    page = watched.page
    cells, says = page.locator("[role=gridcell]"), page.locator(".al-pattern output")
    assert says.inner_text().startswith("L1H2: ") # the largest effect, to begin with
    cells.nth(1).click()
    assert says.inner_text().startswith("L0H1: ") and cells.nth(1).get_attribute("aria-selected") == "true"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert says.inner_text().startswith("L1H1: ") and page.locator("[aria-selected=true]").count() == 1
    page.locator("select").select_option("0")
    assert says.inner_text().startswith("L0H1: ") and cells.nth(1).get_attribute("aria-selected") == "true"
    page.get_by_role("button", name="L0H2").click()
    assert says.inner_text().startswith("L0H2: ") and cells.nth(2).get_attribute("aria-selected") == "true"
    assert cells.nth(5).evaluate("e => [...e.classList].join(' ')") == "al-c al-keep al-flag"
    assert "survives, a control shows it too" in cells.nth(5).get_attribute("title")


def test_a_map_without_patterns_does_not_promise_them(watched, tmp_path):
    watched.open(write(tmp_path, page_of(a_map(WORDS, attn=False))), viewers=1)
    watched.page.locator("[role=gridcell]").nth(1).click()
    assert watched.count("canvas") == 0 and "click" not in watched.page.locator("figure").inner_text()


@pytest.mark.parametrize("top", [None, 16])
def test_a_thousand_tokens(top, watched, tmp_path):
    "Every weight that the pointer and the keys name is the pattern's, within a byte; and it stays quick."
    n = 1000
    attn = patterns(1, 3 if top else 1, n)
    path = save_viewer(tmp_path/"long.html", pattern_viewer(attn, [f" t{i}" for i in range(n)], top=top))
    assert path.stat().st_size < 750_000
    watched.open(path, viewers=1)
    page, says = watched.page, watched.page.locator("output")
    canvas = page.locator(".al-box canvas")
    canvas.focus()
    page.keyboard.press("Home")
    for key in ["PageDown"]*30 + ["ArrowRight"]*7: page.keyboard.press(key)
    named(says.inner_text(), attn[0, 0], top, at=(600, 7))
    box = canvas.bounding_box()
    started = page.evaluate("performance.now()")
    for share in np.linspace(.05, .95, 15):
        page.mouse.move(box["x"] + .3*share*box["width"], box["y"] + share*box["height"])
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
        q, k = named(says.inner_text(), attn[0, 0], top)
        assert abs(q - share*n) <= 3 and abs(k - .3*share*n) <= 3 # the largest of the square under the pixel
    assert (page.evaluate("performance.now()") - started)/15 < 500
    page.locator(".al-text .al-c").nth(500).hover()
    assert named(says.inner_text(), attn[0, 0], top) == (500, int(attn[0, 0, 500].argmax()))


def named(text, pattern, top, at=None):
    "The query and key that a line names, after checking the weight that it gives them."
    q, k = (int(part.split(")")[0]) for part in text.split("(")[1:3])
    said = text.rsplit(": ", 1)[1]
    if at: assert (q, k) == at
    if said.startswith("not among"): assert pattern[q, k] <= np.sort(pattern[q])[-top] + 1e-9
    else: assert abs(float(said) - pattern[q, k]) <= (np.sqrt(pattern[q, k]) + .01)/255 + .5*10.**-len(said[2:])
    return q, k


def test_the_text_is_coloured_by_what_the_query_reads(watched, tmp_path):
    attn = np.array([[1, 0, 0], [0, 1, 0], [.98, .02, 0]])[None, None]
    watched.open(write(tmp_path, page_of(pattern_viewer(attn, ["a", " b", " c"]))), viewers=1)
    tokens = watched.page.locator(".al-text .al-c")
    colours = [tokens.nth(i).evaluate("e => getComputedStyle(e).backgroundColor") for i in range(3)]
    assert colours[0] != colours[1] != colours[2] == "rgb(255, 255, 255)"
    tokens.nth(1).hover()
    assert watched.page.locator("output").inner_text() == "L0H0: query b (1) reads key b (1): 1.00"


# ── looks

@by_kind
@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", [375, 1440])
def test_themes_and_widths(kind, theme, width, browser, tmp_path):
    "No sideways scrolling, the page's theme, and no serious violation of accessibility rules."
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    seen = Watched(browser, viewport=dict(width=width, height=800))
    seen.open(write(tmp_path, page_of(KINDS[kind](WORDS*6)), THEMES[theme]), viewers=1)
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= width
    paper = seen.page.locator("figure").evaluate("e => getComputedStyle(e).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if theme == "light" else "rgb(22, 25, 29)")
    found = axe.Axe().run(seen.page, context="figure").response["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")] == []
    seen.close()


def test_a_saved_page_is_dark_where_the_system_is(browser, tmp_path):
    path = save_viewer(tmp_path/"p.html", a_pattern(WORDS))
    for scheme, paper in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(22, 25, 29)")):
        seen = Watched(browser, color_scheme=scheme)
        seen.page.goto(path.as_uri())
        assert seen.page.locator("figure").evaluate("e => getComputedStyle(e).backgroundColor") == paper
        seen.close()


def test_a_change_of_theme_redraws_the_canvas(watched, tmp_path):
    watched.open(write(tmp_path, page_of(a_pattern(WORDS))), viewers=1)
    first = "document.querySelector('.al-box canvas').getContext('2d').getImageData(0, 0, 1, 1).data.join()"
    light = watched.page.evaluate(first)
    watched.page.evaluate("document.body.classList.add('quarto-dark')")
    watched.page.wait_for_function(f"({first}) != '{light}'")
