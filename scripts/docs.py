"""Stage the site as nbdev does, check what can be checked without Quarto, and render it where Quarto is installed.

This is nbdev_docs in its own steps: nbdev_docs would try to install Quarto, and would write README.md its own way.
`--check` stops before rendering; `--staged` takes the _proc/ that is there.
"""
import re
import shutil
import subprocess
import sys

from browser import check_rendered, check_viewers
from checks import check
from staging import ROOT, stage

# What Quarto adds to a page with any HTML output, from other hosts, and nothing here needs.
FOREIGN = re.compile(r"<script src=\"https://[^\"]*/(?:require|requirejs|jquery)[^\"]*\"[^>]*></script>\n?"
                     r"|<script type=\"application/javascript\">define\('jquery'[^<]*</script>\n?")
NO_QUARTO = ("Quarto is not installed, so the site was staged and checked but not rendered: get it from "
             "https://quarto.org/docs/get-started, or run make docs-check, which needs none.")


def render(staged):
    "Render to _docs/; every fault of the rendered pages."
    subprocess.run(["quarto", "render", "--no-cache"], cwd=staged, check=True)
    for page in (staged/"_docs").glob("*.html"):
        page.write_text(FOREIGN.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")
    shutil.rmtree(ROOT/"_docs", ignore_errors=True)
    shutil.move(staged/"_docs", ROOT/"_docs")
    print("rendered to _docs/")
    return check_rendered(ROOT/"_docs")


def report(wrong):
    "Print the faults and stop if there are any."
    print("\n".join(wrong) or "no fault found")
    if wrong: sys.exit(1)


def main():
    asked = set(sys.argv[1:])
    staged = ROOT/"_proc" if "--staged" in asked else stage()
    report([*check(staged), *check_viewers(staged)])
    if "--check" in asked: return
    if not shutil.which("quarto"): sys.exit(NO_QUARTO)
    report(render(staged))


if __name__ == "__main__": main()
