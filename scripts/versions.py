"""What an environment with the oldest or the newest supported versions is made of, one requirement a line.

oldest: every requirement at the lower bound that settings.ini gives it. newest: every requirement as it is, so that pip
takes the newest version it finds. Both get the tools of the tests.
"""
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEWER = ("transformer-lens",) # needs newer versions than the oldest; its tests are skipped without it


def requirements(which, cfg):
    "Requirements of the library, then of its tests."
    own, dev = cfg["requirements"].split(), cfg["dev_requirements"].split()
    if which == "newest": return own + dev
    unbound = [r for r in own if ">=" not in r]
    if unbound: sys.exit(f"no lower bound in settings.ini: {', '.join(unbound)}")
    tools = [r for r in dev if not r.startswith(NEWER) and r not in {o.split(">=")[0] for o in own}]
    return [r.replace(">=", "==") for r in own] + tools


def main():
    if sys.argv[1:] not in (["oldest"], ["newest"]): sys.exit(f"usage: {sys.argv[0]} oldest|newest")
    ini = ConfigParser(delimiters=["="])
    ini.read(ROOT/"settings.ini", encoding="utf-8")
    print("\n".join(requirements(sys.argv[1], ini["DEFAULT"])))


if __name__ == "__main__": main()
