"""The numbers of a run on `tiny` that must not drift: make golden writes them anew, test_golden.py holds runs to them.

Renew them only where a change was meant to change numbers: another definition of a score or test, another bundled
model, other bundled texts. Say in CHANGELOG.md which numbers moved and why, and look at the diff of tiny.json: what
was not meant to move must not have moved. A new version of torch or another machine is no reason; that is a finding.
"""
import json
import math
import tempfile
from pathlib import Path

GOLDEN = Path(__file__).parent/"golden/tiny.json"
MAPS = ("effect", "low", "high", "p", "q", "p_max_t")
CLOSE = 1e-5 # the largest difference, relative above 1; read without the compiled kernel, all moves by less than 2e-6,
STEEP, NEAR = "/analyses/bias_stereotype/", 1e-3 # but this r, over twelve people of small differences, by up to 3e-4


def rounded(x):
    "Numbers with eight digits: more than is compared, and few enough that noise in the last bits makes no diff."
    if isinstance(x, list): return [rounded(y) for y in x]
    if isinstance(x, dict): return {name: rounded(y) for name, y in x.items()}
    return float(f"{x:.8g}") if isinstance(x, float) else x


def maps_of(result):
    "Every head's numbers, of a finding or a control."
    return {name: result["maps"][name] for name in MAPS if result["maps"].get(name) is not None}


def numbers(record):
    "What is kept of an analysis_results.json: each head's effect, interval and p of every analysis, controls, cause."
    results = {name: found for name, found in record["analyses"].items() if "maps" in found}
    lens = record["analyses"]["lens"]["top"]
    neurons = record["analyses"]["neurons"]["top"]
    return rounded(dict(
        weights=record["provenance"]["weights_sha256"],
        analyses={name: maps_of(found) for name, found in results.items()},
        controls={f"{name}, {control}": {"effect": c["maps"]["effect"]}
                  for name, found in results.items() for control, c in found["controls"].items()},
        causal={name: {part: table[part] for part in ("heads", "whole")} for name, table in record["causal"].items()},
        lens=[[row[name] for name in ("state", "pos", "prob", "kl")] for row in lens],
        neurons=sorted([row["layer"], row["neuron"]] for row in neurons)))


def drifted(now, then, path=""):
    "Where two sets of numbers are further apart than they may be, or differ in anything that is no number."
    if isinstance(now, dict) and isinstance(then, dict):
        for name in {**then, **now}: yield from drifted(now.get(name), then.get(name), f"{path}/{name}")
    elif isinstance(now, list) and isinstance(then, list) and len(now) == len(then):
        for i, (a, b) in enumerate(zip(now, then)): yield from drifted(a, b, f"{path}[{i}]")
    elif isinstance(now, float) and isinstance(then, float | int):
        close = NEAR if path.startswith(STEEP) and not path.startswith((f"{STEEP}p", f"{STEEP}q")) else CLOSE
        if not math.isclose(now, then, rel_tol=close, abs_tol=close): yield f"{path}: {then!r} was, {now!r} is"
    elif now != then: yield f"{path}: {then!r} was, {now!r} is"


def lines(x, deep=2):
    "JSON with a line for each part, so that a diff shows which one moved."
    if deep and isinstance(x, dict):
        return "{" + ",\n".join(f"{json.dumps(name)}: {lines(y, deep - 1)}" for name, y in x.items()) + "}"
    return json.dumps(x)


def write(record):
    "Writes the file anew from an analysis_results.json, and says what has moved."
    now = numbers(record)
    moved = list(drifted(now, json.loads(GOLDEN.read_text()))) if GOLDEN.exists() else []
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(lines(now) + "\n")
    print("\n".join([f"{len(moved)} numbers moved by more than {CLOSE:g}; {GOLDEN.name} is written", *moved[:40]]))


def main():
    import matplotlib

    from attn_lit.pipeline import run_pipeline
    from attn_lit.settings import Settings
    matplotlib.use("agg")
    with tempfile.TemporaryDirectory() as folder:
        write(run_pipeline(Settings(model="tiny", out=folder)).record)


if __name__ == "__main__": main()
