"""Pages in a real browser: every viewer drawn, nothing on the console, nothing asked of another host, axe content."""
import re
import tempfile
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import copy, which

from checks import PAGE
from staging import html, is_viewer, load

CHROMIUM = next(filter(None, map(which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--no-first-run", "--disable-sync"]
DRAWN = "() => !document.querySelector('[data-attn-lit]')"
SERIOUS = ("serious", "critical")
NONE = "no Chromium on this machine, so no page was opened in one (on Debian: apt install chromium)"


@contextmanager
def chromium():
    "A running browser."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        running = p.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield running
        running.close()


@contextmanager
def served(folder):
    "The address at which the files of a folder can be had, from this machine only."
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()


@contextmanager
def watched(browser, origin, **given):
    "A page that can reach `origin` only, the faults it showed, and the bytes it loaded but for shared scripts."
    context, faults, loaded, near = browser.new_context(**given), [], [], (origin, "data:", "blob:")
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("console", lambda said: faults.append(f"console: {said.text}") if said.type == "error" else None)
    page.on("request", lambda asked: None if asked.url.startswith(near) else faults.append(f"asks for {asked.url}"))
    page.on("requestfinished", lambda done: None if "/shared-" in done.url else
            loaded.append(done.sizes()["responseBodySize"]))
    context.route("**/*", lambda r: r.continue_() if r.request.url.startswith(near) else r.abort())
    yield page, faults, loaded
    context.close()


def settle(page, patience=30.):
    "Wait so many seconds until every viewer of the page is drawn; a fault if one is not."
    from playwright.sync_api import Error
    try: page.wait_for_function(DRAWN, timeout=1000*patience)
    except Error: return [f"{page.locator('[data-attn-lit]').count()} viewers are not drawn after {patience:g} s"]
    broken = page.get_by_text("could not be drawn").count()
    return [f"{broken} viewers could not be drawn"] if broken else []


def axe_faults(page):
    "What axe-core finds serious, if it is installed."
    try: from axe_playwright_python.sync_playwright import Axe
    except ImportError: return
    for found in Axe().run(page).response["violations"]:
        if found["impact"] in SERIOUS:
            where = "; ".join(node["target"][0] if isinstance(node["target"][0], str) else str(node["target"])
                              for node in found["nodes"][:3])
            yield f"axe: {found['id']} ({found['impact']}, {len(found['nodes'])} times): {where}"


def static_page(name, notebook):
    "The HTML outputs of a staged notebook as a page by themselves."
    outputs = "\n".join(html(o) for c in notebook["cells"] for o in c.get("outputs", []))
    return (f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
            f'<link rel="icon" href="data:,"></head><body><main><h1>{name}</h1>\n{outputs}</main></body></html>')


def check_viewers(staged, patience=30.):
    "Every staged page with viewers, opened: a sentence for each fault."
    pages = {p.name: notebook for p in sorted(staged.glob("*.ipynb"))
             if any(map(is_viewer, (notebook := load(p))["cells"]))}
    if not CHROMIUM: return print(NONE) or []
    wrong, count = [], 0
    with tempfile.TemporaryDirectory() as folder, served(folder) as origin, chromium() as browser:
        for script in staged.glob("shared-*.js"): copy(script, folder)
        for name, notebook in pages.items():
            Path(folder, "page.html").write_text(static_page(name, notebook), encoding="utf-8")
            with watched(browser, origin) as (page, faults, _):
                page.goto(f"{origin}/page.html")
                found = [*settle(page, patience), *axe_faults(page)]
                count += page.locator("figure.attn-lit-viewer").count()
                wrong += [f"{name}: {fault}" for fault in faults + found]
    print(f"{count} viewers on {len(pages)} pages opened in Chromium")
    return wrong


def unnamed(page):
    "How many pictures of a page have no alt text."
    return page.evaluate("[...document.images].filter(i => !i.alt.trim() && i.role != 'presentation').length")


def check_page(browser, origin, name, dark):
    "One rendered page, wide then narrow: the faults it shows, and its bytes."
    scheme = "dark" if dark else "light"
    with watched(browser, origin, color_scheme=scheme, viewport=dict(width=1440, height=900)) as (page, faults, loaded):
        page.goto(f"{origin}/{name}", wait_until="networkidle")
        has_viewers = page.locator(".attn-lit-viewer").count() > 0
        faults += [*settle(page), *axe_faults(page)]
        if count := unnamed(page): faults.append(f"{count} images without alt text")
        if broken := page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).length"):
            faults.append(f"{broken} images that cannot be shown")
        if has_viewers and sum(loaded) > PAGE: faults.append(f"weighs {sum(loaded)/1e6:.2f} MB, and has viewers")
        page.set_viewport_size(dict(width=375, height=800))
        page.wait_for_timeout(200)
        width = page.evaluate("document.documentElement.scrollWidth")
        if width > 376: faults.append(f"is {width} pixels wide in a window of 375")
        return [f"{name} ({scheme}): {fault}" for fault in faults], sum(loaded)


def check_rendered(docs):
    "Every page of the rendered site, light and dark, wide and narrow: a sentence for each fault."
    if not CHROMIUM: return print(NONE) or []
    wrong, sizes = [], {}
    names = sorted(p.name for p in docs.glob("*.html") if not re.match(r"\d", p.name))
    with served(docs) as origin, chromium() as browser:
        for name in names:
            for dark in (False, True):
                faults, sizes[name] = check_page(browser, origin, name, dark)
                wrong += faults
    heaviest = max(sizes, key=sizes.get)
    print(f"{len(names)} rendered pages opened in Chromium, light and dark, wide and narrow; the heaviest, {heaviest}, "
          f"loads {sizes[heaviest]/1e6:.2f} MB")
    return wrong
