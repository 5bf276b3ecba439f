"Viewers in a real browser, with the network blocked: drawn, drawn once, reachable by keys, and tokens never run."
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browsing import HOSTILE, Watched, write

from attn_lit.page import parts_html, save_viewer, visible
from attn_lit.viewers import head_viewer

NOTEBOOKS = Path(__file__).resolve().parent.parent/"nbs"


def script(): return parts_html(("page", "heads"))


def uniform(layers, heads, n):
    "Uniform causal attention."
    pattern = np.tril(np.ones((n, n)))/np.arange(1, n + 1)[:, None]
    return np.broadcast_to(pattern, (layers, heads, n, n))


def a_viewer(tokens=("The", " queen", " slept", "."), heads=2, layer=0):
    return head_viewer(uniform(layer + 1, heads, len(tokens)), list(tokens), layer)


def test_three_viewers_one_script(watched, tmp_path):
    path = save_viewer(tmp_path/"three.html", a_viewer(), a_viewer(("Other", " text")), a_viewer(), title="Three")
    watched.open(path, viewers=3)
    for name in ("data-circuitsvis", "data-attn-lit-page"):
        assert path.read_text(encoding="utf-8").count(name) == watched.count(f"script[{name}]") == 1
    assert watched.count("canvas") == 3*(2 + 1) and watched.page.title() == "Three"
    assert watched.asked == [path.as_uri()]
    assert path.stat().st_size < 600_000


@pytest.mark.parametrize("kind", ["file", "notebook"])
def test_hostile_tokens_are_shown_and_never_run(kind, watched, tmp_path):
    "Also on a page without the policy that a saved file has, as a notebook's is."
    viewer = a_viewer(HOSTILE)
    path = (save_viewer(tmp_path/"bad.html", viewer, title=HOSTILE[0]) if kind == "file" else
            write(tmp_path, script() + viewer.to_html()))
    watched.open(path, viewers=1)
    watched.page.locator("canvas").last.hover()
    watched.page.wait_for_timeout(200)
    assert watched.page.evaluate("window.ran") is None and watched.page.title() != "ran"
    assert watched.count("img, svg, iframe, object, embed") == 0
    shown = watched.page.locator(".al-tokens span").all_inner_texts()
    assert shown == [visible(token) for token in HOSTILE]


def test_a_hostile_title_is_text(watched, tmp_path):
    viewer = replace(a_viewer(), title=HOSTILE[0])
    watched.open(write(tmp_path, viewer.to_html() + script()), viewers=1)
    assert watched.page.locator("figcaption").inner_text() == HOSTILE[0] and watched.page.title() == "as it was"


def test_order_and_copies_of_the_script_do_not_matter(watched, tmp_path):
    same = a_viewer().to_html()
    watched.open(write(tmp_path, same + script() + same + script() + same), viewers=3)
    assert watched.count("canvas") == 9
    ids = watched.page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids)) == 3


def test_outputs_that_come_later(watched, tmp_path):
    "A notebook front end sets innerHTML and then runs the scripts in it by making them anew."
    add = """html => {
      const output = document.createElement("div");
      output.innerHTML = html;
      for (const old of [...output.querySelectorAll("script")]) {
        const fresh = document.createElement("script");
        for (const {name, value} of old.attributes) fresh.setAttribute(name, value);
        fresh.textContent = old.textContent;
        old.replaceWith(fresh);
      }
      document.body.append(output);
    }"""
    watched.open(write(tmp_path, ""))
    watched.page.evaluate(add, a_viewer().to_html())
    assert "notebook is trusted" in watched.page.locator(".attn-lit-viewer").inner_text()
    watched.page.evaluate(add, script() + a_viewer().to_html())
    watched.drawn(2)
    watched.page.evaluate(add, a_viewer().to_html())
    watched.drawn(3)


def test_heads_by_mouse_and_by_keys(watched, tmp_path):
    watched.open(save_viewer(tmp_path/"keys.html", a_viewer(heads=3, layer=1)), viewers=1)
    large = watched.page.locator("h3").last
    assert large.inner_text() == "L1H0 Zoomed"
    watched.page.get_by_role("button", name="L1H2").click()
    assert large.inner_text() == "L1H2 Zoomed"
    watched.page.mouse.move(5, 5)
    watched.page.get_by_role("button", name="L1H0").focus()
    watched.page.keyboard.press("Tab")
    watched.page.keyboard.press("Enter")
    assert large.inner_text() == "L1H1 Zoomed"
    watched.page.keyboard.press("Shift+Tab")
    watched.page.keyboard.press("Space")
    assert large.inner_text() == "L1H0 Zoomed"


def test_narrow_and_wide_windows(watched, tmp_path):
    watched.open(save_viewer(tmp_path/"size.html", a_viewer()), viewers=1)
    for width, height in ((400, 700), (1400, 700), (1000, 800), (1000, 3000)):
        watched.page.set_viewport_size(dict(width=width, height=height))
        watched.page.wait_for_timeout(400)
        watched.drawn(1)
        box = watched.page.locator("canvas").last.bounding_box()
        assert 250 < box["width"] < min(width, 780) and box["height"] > 250
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_scripts_the_text_is_there(browser, tmp_path):
    seen = Watched(browser, java_script_enabled=False).open(save_viewer(tmp_path/"plain.html", a_viewer()))
    text = seen.page.locator(".attn-lit-viewer").inner_text()
    assert "·queen" in text and "Attention of layer 0" in text and "appear here when" in text
    seen.close()


def test_a_broken_viewer_says_so_and_the_others_are_drawn(watched, tmp_path):
    data = '<script type="application/json">no JSON</script>'
    broken = f'<figure><div class="broken" data-attn-lit="heads">{data}</div></figure>'
    watched.open(write(tmp_path, broken + a_viewer().to_html() + script()), viewers=1)
    assert "could not be drawn" in watched.page.locator(".broken").inner_text()


def test_a_browser_that_cannot_unpack_says_so(watched, tmp_path):
    old = "<script>delete window.DecompressionStream</script>"
    watched.open(write(tmp_path, old + a_viewer().to_html() + script()))
    watched.page.get_by_text("could not be drawn").wait_for()


# ── the committed notebooks as static pages

def html_outputs(path):
    "The HTML outputs of a notebook that belong to viewers."
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            text = "".join(output.get("data", {}).get("text/html", ""))
            if "attn-lit-viewer" in text or "data-attn-lit-page" in text: yield text


ALL = [path for path in sorted(NOTEBOOKS.glob("*.ipynb")) if path.name[0] not in "_."]
WITH_VIEWERS = [path for path in ALL if any(html_outputs(path))]


@pytest.mark.parametrize("path", WITH_VIEWERS, ids=lambda path: path.stem)
def test_a_notebook_as_a_static_page(path, watched, tmp_path):
    outputs = "".join(html_outputs(path))
    assert outputs.count("data-attn-lit-page") == 1
    assert parts_html(("page",)) in outputs, "an older script or style sheet: run the notebook again"
    assert outputs.count("data-circuitsvis") == ('class="al-heads"' in outputs)
    watched.open(write(tmp_path, outputs), viewers=outputs.count("<figure"))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_no_dead_widgets(path):
    "A widget without its kernel shows an error: the committed output of an explorer is its picture alone."
    assert "application/vnd.jupyter.widget-view+json" not in path.read_text(encoding="utf-8")
