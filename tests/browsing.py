"A real browser for the tests of viewers: the network blocked, and everything that went wrong on a page kept."
import shutil
from pathlib import Path

import pytest

try: from playwright import sync_api as playwright
except ImportError: playwright = None
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--no-first-run", "--disable-sync"]
RUN = "window.ran = true; document.title = 'ran'; alert(1)"
HOSTILE = [f"</script><script>{RUN}</script>", f'<img src=x onerror="{RUN}">', f"\"><svg onload='{RUN}'>", f"'-{RUN}-'",
           "${alert(1)}", "&lt;script&gt;", "--><!--", "]]>", "\x00", "\ud83d", "\u202etxet", "\u2028", "\n"]


@pytest.fixture(scope="session")
def browser():
    if not playwright: pytest.skip("playwright is not installed (pip install playwright)")
    if not CHROMIUM: pytest.skip("no chromium on this machine (on Debian: apt install chromium)")
    with playwright.sync_playwright() as p:
        running = p.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield running
        running.close()


class Watched:
    "A page that can reach local files only, and what happened on it."
    def __init__(self, browser, **kwargs):
        self.context = browser.new_context(**{"viewport": dict(width=1000, height=800), **kwargs})
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.errors, self.dialogs, self.asked = [], [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.context.route("**/*", lambda r: r.continue_() if r.request.url.startswith("file:") else r.abort())

    def open(self, path, viewers=None):
        "Open a file and wait until that many viewers are drawn."
        self.page.goto(Path(path).as_uri())
        if viewers is not None: self.drawn(viewers)
        return self

    def drawn(self, viewers):
        "Wait until that many viewers are there and each large canvas has ink."
        self.page.wait_for_function(DRAWN, arg=viewers)

    def count(self, selector): return self.page.locator(selector).count()

    def close(self):
        "Close the page; an error, a dialog or a request to anything but a file fails."
        self.context.close()
        assert (self.errors, self.dialogs) == ([], [])
        assert [url for url in self.asked if not url.startswith("file:")] == []


# The last canvas of a viewer is the large one; a canvas has ink where it is neither transparent nor white. A viewer
# without a place for a canvas is HTML, and is drawn once the script has taken the places for cells.
DRAWN = """viewers => {
  const ink = canvas => {
    const {width, height} = canvas;
    if (!width || !height || canvas.getBoundingClientRect().width < 100) return false;
    const pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
    return pixels.some((v, i) => i % 4 == 0 && v < 100 && pixels[i + 2] > 90 && pixels[i + 3] > 0);
  };
  const all = [...document.querySelectorAll(".attn-lit-viewer")];
  const last = viewer => [...viewer.querySelectorAll("canvas")].pop();
  const large = viewer => viewer.querySelector(".al-box canvas") || last(viewer);
  const plain = viewer => !viewer.querySelector(".al-heads, .al-pattern") && !viewer.querySelector("[data-attn-lit]");
  return all.length == viewers && all.every(viewer => plain(viewer) || large(viewer) && ink(large(viewer)));
}"""


@pytest.fixture
def watched(browser):
    seen = Watched(browser)
    yield seen
    seen.close()


def write(tmp_path, body, theme=""):
    "A page with this body, as a notebook's or the site's: without the policy that a saved file has."
    path = tmp_path/"page.html"
    path.write_text('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
                    f'content="width=device-width"><title>as it was</title></head><body class="{theme}"><main>'
                    f"<h1>Page</h1>{body}</main></body></html>", encoding="utf-8")
    return path
