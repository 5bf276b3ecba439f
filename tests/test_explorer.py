"The explorer and the viewers in JupyterLab: a real browser, a real server, a real kernel."
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest
from browsing import DRAWN

pytest.importorskip("jupyterlab", reason="JupyterLab is not installed (pip install jupyterlab)")
ROOT, TOKEN = Path(__file__).resolve().parent.parent, "explorer"

EXPLORER = """
import time
from dataclasses import replace
import ipywidgets as widgets
from attn_lit.explorer import explorer
from attn_lit.pictures import ANALYSES

lens = ANALYSES["Logit lens"]
def slow(*asked): doing.value = "slow is at it"; time.sleep(1.5); return lens.read(*asked)
def broken(*asked): raise RuntimeError("<b>the kernel's trouble</b>")
more = {"Slow": replace(lens, read=slow), "Broken": replace(lens, read=broken)}
live, count = explorer(text="The king was sad.", analyses=ANALYSES | more), widgets.Label("begun 1")
doing = widgets.Label()
live.shown.observe(lambda change: setattr(count, "value", f"begun {live.latest.begun}"), "value")
widgets.VBox([live, count, doing])
"""
VIEWERS = ["""
from attn_lit.attention import get_attentions
from attn_lit.models import load_model
from attn_lit.viewers import head_viewer
tokenizer, model = load_model("tiny")
tokens, attn = get_attentions("The king was sad.", tokenizer, model)
head_viewer(attn, tokens, 1)
""", """
from attn_lit.strips import token_strip
token_strip(tokens, attn[1, 2].diagonal(), "attention to itself")
""", """
from attn_lit.headmap import head_map
from attn_lit.results import HeadResult
head_map(HeadResult("itself", attn.diagonal(dim1=2, dim2=3).mean(-1).numpy(), "attention to itself", False),
         attn=attn, tokens=tokens)
"""]

# What the fields say, put as the caption puts it; and a look at each frame for how long a picture that is not pale
# contradicts them, for a picture beside an error, and for what has been shown as up to date.
WATCH = """() => {
  const root = document.querySelector(".attn-lit-explorer").closest(".widget-vbox");
  const field = name => document.getElementById([...root.querySelectorAll("label")]
    .find(label => label.textContent.trim() == name && label.offsetParent)?.htmlFor);
  window.asked = () => {
    const at = ["Layer", "Head"].map(field).map((e, i) => e.disabled ? "" : `${["layer", "head"][i]} ${e.value}`);
    const words = field("Words") ? `words: ${field("Words").value}` : "";
    const [analysis, model, text] = ["Analysis", "Model", "Text"].map(name => field(name).value);
    return [analysis, model, at.filter(x => x).join(", "), words, `“${text}”`].filter(x => x).join(" · ");
  };
  window.stale = {longest: 0, since: null, what: null, seen: [], wrong: []};
  const look = () => {
    const place = root.querySelector(".attn-lit-explorer"), s = window.stale, now = performance.now();
    const image = place?.querySelector("img"), says = place?.querySelector("figcaption b")?.textContent;
    const busy = place?.getAttribute("aria-busy") == "true", alert = place?.querySelector("[role=alert]");
    if (image && alert) s.wrong.push("a picture beside an error");
    if (image && busy && image.style.opacity != ".25" && image.style.opacity != "0.25") s.wrong.push("busy, not pale");
    if (image && !busy && s.seen.at(-1) != says) s.seen.push(says);
    const bad = image && !busy && says != window.asked();
    if (!bad) s.since = null;
    else {
      s.since ??= now;
      if (now - s.since > s.longest) { s.longest = now - s.since; s.what = `${says} ≠ ${window.asked()}`; }
    }
    requestAnimationFrame(look);
  };
  look();
}"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def notebook(*sources):
    "A notebook of these cells."
    cells = [dict(cell_type="code", execution_count=None, id=f"c{i}", metadata={}, outputs=[], source=source.strip())
             for i, source in enumerate(sources)]
    spec = dict(display_name="Python 3", language="python", name="python3")
    return json.dumps(dict(cells=cells, metadata=dict(kernelspec=spec), nbformat=4, nbformat_minor=5))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    "JupyterLab on a free port, with no settings but its own, in a folder with one notebook; its address."
    folder, port = tmp_path_factory.mktemp("lab"), free_port()
    (folder/"e.ipynb").write_text(notebook(EXPLORER, *VIEWERS), encoding="utf-8")
    own = {f"JUPYTER_{name}_DIR": str(folder/name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    own |= dict(IPYTHONDIR=str(folder/"ipython"), PYTHONPATH=paths, JUPYTER_PREFER_ENV_PATH="1")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--ServerApp.port={port}",
               "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={TOKEN}",
               "--ServerApp.port_retries=0", "--LabApp.extension_manager=readonly",
               "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with open(folder/"log.txt", "w") as log:
        running = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/api?token={TOKEN}", running, folder/"log.txt")
        yield address
    finally:
        running.terminate()
        running.wait(20)


def wait_for(url, running, log):
    "Until the server answers."
    for _ in range(300):
        assert running.poll() is None, log.read_text()
        try: return urlopen(url, timeout=5).close()
        except OSError: time.sleep(.1)
    pytest.fail(f"JupyterLab did not start: {log.read_text()}")


@pytest.fixture(scope="module")
def page(server, browser):
    "The notebook in JupyterLab, all its cells run; what went wrong on the page is in `page.errors`."
    context = browser.new_context(viewport=dict(width=1200, height=2600))
    context.route("**/*", lambda route: route.continue_() if route.request.url.startswith(server) else route.abort())
    page = context.new_page()
    page.set_default_timeout(40_000)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda said: page.errors.append(said.text) if said.type == "error" else None)
    page.goto(f"{server}/doc/tree/e.ipynb?token={TOKEN}")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    page.locator(".jp-CodeCell .cm-content").first.click()
    for _ in range(1 + len(VIEWERS)): page.keyboard.press("Shift+Enter")
    page.locator(".attn-lit-explorer[aria-busy=false] img").wait_for()
    page.evaluate(WATCH)
    yield page
    context.close()


def fresh(page):
    "Until the picture is the one of what the fields say; its caption."
    page.wait_for_function("() => document.querySelector('.attn-lit-explorer[aria-busy=false] figcaption b')"
                           "?.textContent == window.asked()")
    return page.locator(".attn-lit-explorer figcaption").inner_text()


def alert(page):
    "Until there is an error and no picture; what it says."
    said = page.locator(".attn-lit-explorer [role=alert]")
    said.wait_for()
    assert page.locator(".attn-lit-explorer img").count() == 0
    return said.inner_text()


def field(page, name): return page.locator(".widget-vbox").first.get_by_label(name, exact=True)


def begun(page): return int(page.get_by_text(re.compile(r"^begun \d+$")).inner_text().split()[1])


@pytest.fixture
def lab(page):
    "The page, its explorer as at the beginning."
    choose(page, "Model", "tiny")
    choose(page, "Analysis", "Attention of one head")
    for name, value in (("Text", "The king was sad."), ("Layer", "0"), ("Head", "0")): field(page, name).fill(value)
    fresh(page)
    return page


def choose(page, name, value): field(page, name).select_option(value)


def test_every_control_has_a_name_and_is_reached_by_tab(lab):
    field(lab, "Text").focus()
    reached = []
    for _ in range(7):
        reached.append(lab.evaluate("[...document.activeElement.labels || []].map(l => l.textContent.trim()).join()"
                                     " || document.activeElement.textContent"))
        lab.keyboard.press("Tab")
    assert reached == ["Text", "Model", "Another", "Load", "Analysis", "Layer", "Head"]
    alt = lab.locator(".attn-lit-explorer img").get_attribute("alt")
    assert alt.startswith("Attention of one head: Layer 0, head 0, on 5 tokens")


def test_no_serious_violation_of_accessibility_rules(lab):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    found = axe.Axe().run(lab, context=".widget-vbox").response["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found if v["impact"] in ("serious", "critical")] == []


def test_layer_and_head_by_keys(lab):
    field(lab, "Layer").focus()
    lab.keyboard.press("ArrowUp")
    assert "layer 1, head 0" in fresh(lab)
    lab.keyboard.press("Tab")
    for _ in range(3): lab.keyboard.press("ArrowUp")
    assert "layer 1, head 3" in fresh(lab)


def test_rapid_typing_is_one_computation(lab):
    before, text = begun(lab), field(lab, "Text")
    text.evaluate("""(box, said) => { // key after key in one go: no stall of the machine is longer than the pause
        for (let n = 1; n <= said.length; n++) {
            box.value = said.slice(0, n)
            box.dispatchEvent(new Event("input", {bubbles: true}))
        }
    }""", "She was very happy.")
    lab.locator(".attn-lit-explorer[aria-busy=true] [role=status]", has_text="Computing").wait_for()
    assert "“She was very happy.”" in fresh(lab)
    lab.get_by_text(f"begun {before + 1}").wait_for()


def test_another_analysis(lab):
    field(lab, "Text").fill("She was very happy.")
    choose(lab, "Analysis", "Attention on sentiment words")
    assert "Marked: happy." in fresh(lab) and not field(lab, "Words").is_visible()
    choose(lab, "Analysis", "Attention on words of your own")
    assert "None of the words of your own is in the text" in alert(lab)
    field(lab, "Words").fill("very")
    assert "Marked: very." in fresh(lab)
    choose(lab, "Analysis", "Loss without each head")
    assert "L0H0, framed, has" in fresh(lab)
    choose(lab, "Analysis", "FFN neurons of the layer")
    assert "neurons of layer 0" in fresh(lab) and field(lab, "Head").is_disabled()


def test_errors_are_sentences_and_the_next_input_mends_them(lab):
    text = field(lab, "Text")
    text.fill("")
    assert alert(lab) == "The text is empty: expected at least one word."
    text.fill("The king was sad.")
    fresh(lab)
    field(lab, "Another").fill("./no-such-folder")
    lab.get_by_role("button", name="Load").press("Enter")
    assert "There is no folder './no-such-folder'" in alert(lab)
    choose(lab, "Model", "tiny")
    fresh(lab)
    choose(lab, "Analysis", "Broken")
    assert alert(lab) == "This could not be computed: RuntimeError: <b>the kernel's trouble</b>."


def test_what_is_late_is_thrown_away_and_the_controls_stay_usable(lab):
    "The late result would be seen for as long as the next one takes, 1.5 s."
    choose(lab, "Analysis", "Slow")
    lab.get_by_text("slow is at it").wait_for()
    field(lab, "Text").fill("The queen was glad.")
    assert fresh(lab).startswith("Slow · tiny · “The queen was glad.”")
    assert not [says for says in lab.evaluate("stale.seen") if says.startswith("Slow · tiny · “The king")]


def test_no_picture_was_stale(lab):
    "All that the tests above did: a contradiction ends before anything new could be there, 300 ms after a change."
    found = lab.evaluate("stale")
    assert found["wrong"] == [] and len(found["seen"]) > 8
    assert found["longest"] < 300, found["what"]


def test_viewers_are_drawn_in_jupyterlab(lab):
    lab.wait_for_function(DRAWN, arg=3)
    assert lab.errors == []
