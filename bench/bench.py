"""Seven statistics of every attention head: attn_lit against other ways, in ratios to a plain forward of the model.

Peers take turns on the same work, round after round and in rotated order, so that what else the machine does falls
on all of them. A whole run writes bench/results.json; a narrower one (--quick, --lengths, --peers, --models) writes
only where --json says.
"""
import argparse
import json
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import numpy as np
from peers import MODELS, PEERS, STATS
from table import markdown, notes
from worker import Here, Worker, proc

from attn_lit.base import whole_file
from attn_lit.models import DTYPES

RESULTS = Path(__file__).resolve().parent/"results.json"
LENGTHS = [128, 512, 1024, 2048, 4096, 8192, 16384, 32768]
PACKAGES = ("torch", "transformers", "transformer-lens", "nnsight", "numpy", "numba", "attn-lit")
# 64 lengths from 8 to 90, most of them short, that come to 2,595 tokens with this seed
CORPUS = np.random.default_rng(1510).gamma(3, 13.2, 64).clip(8, 90).astype(int).tolist()
CORPUS_SAYS = (f"{len(CORPUS)} texts of {sum(CORPUS):,} tokens in all, one by one (attn_lit: in its own batches); "
               "the same as one padded batch (attn_lit too)")


# ── turns

def rounds_for(tokens: int, quick: bool) -> int:
    "Fewer rounds the longer the work."
    n = next(n for n, most in ((15, 200), (9, 600), (3, 2100), (2, 4100), (1, float("inf"))) if tokens <= most)
    return max(1, n // 2) if quick else n


def take_turns(workers: dict, lengths: list[int], padded: bool, rounds: int) -> dict[str, list[dict]]:
    "All workers on the same work, each round another one first; one that cannot do it is not asked again."
    turns, names = {name: [] for name in workers}, list(workers)
    for r in range(rounds):
        for name in names[r % len(names):] + names[:r % len(names)]:
            if turns[name] and "skipped" in turns[name][-1]: continue
            time.sleep(.02) # until the threads of the one before no longer spin
            able = not padded or PEERS[name].pads
            said = workers[name].ask(lengths, padded) if able else dict(skipped="it takes texts one by one")
            turns[name].append(said)
    return turns


def difference(found: dict, reference: dict) -> float:
    "The largest difference in what both have: absolute up to 1, relative above; infinite where only one is missing."
    worst = 0.
    for a, b in ((found[n].astype(float), reference[n].astype(float)) for n in found if n in reference):
        if (np.isnan(a) != np.isnan(b)).any(): return float("inf")
        worst = max(worst, float(np.nanmax(np.abs(a - b)/np.maximum(1, np.abs(b)), initial=0)))
    return worst


def medians(turns: list[dict]) -> dict:
    "One peer's turns as the fields of a row of results."
    if "skipped" in turns[-1]: return dict(seconds=None, peak_mb=None, times=[], cores=[], skipped=turns[-1]["skipped"])
    times, cores = [round(t["seconds"], 5) for t in turns], [round(t["cores"], 2) for t in turns]
    return dict(seconds=median(times), peak_mb=round(max(t["peak"] for t in turns)/1e6, 1), times=times, cores=cores,
                skipped=None)


def summary(turns: dict[str, list[dict]], **what) -> list[dict]:
    "A row of results for each peer."
    rows = {name: dict(what, peer=name, **medians(all_)) for name, all_ in turns.items()}
    found = {name: turns[name][0].get("found") for name in rows}
    floor = rows["plain"]["seconds"] if "plain" in rows else None
    for name, row in rows.items():
        compared = found[name] and found.get("attn_lit") and name != "attn_lit"
        row["ratio"] = row["seconds"]/floor if row["seconds"] and floor else None
        row["differs"] = difference(found[name], found["attn_lit"]) if compared else None
    return list(rows.values())


# ── a run

def machine() -> dict:
    "What kind of machine this is, and no more of it."
    info = Path("/proc/cpuinfo")
    cpu = re.search(r"model name\s*:\s*(.*)", info.read_text()) if info.exists() else None
    return dict(cpu=cpu[1] if cpu else platform.processor(), cores=os.cpu_count(), gpu=None, system=platform.system(),
                memory_gb=round(proc("/proc/meminfo", "MemTotal")/1e9) or None, load=round(os.getloadavg()[0], 2))


def beginning(args, peers: dict = PEERS, corpus: str = CORPUS_SAYS) -> dict:
    "Results before the first measurement."
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        if find_spec(name.replace("-", "_")): versions[name] = metadata.version(name)
    absent = {peers[p].label: f"{peers[p].needs} is not installed" for p in args.peers if not find_spec(peers[p].needs)}
    return dict(date=date.today().isoformat(), machine=machine(), versions=versions, device=args.device,
                dtype=args.dtype, threads=None, models={}, statistics=[], corpus=corpus,
                peers={p: peers[p].label for p in args.peers if find_spec(peers[p].needs)}, absent=absent, rows=[])


@contextmanager
def started(results: dict, model: str, args, task: str = "heads"):
    "The peers' processes with their models loaded; what only they know goes into `results`."
    workers = {}
    try:
        for name in list(results["peers"]): # one after another, as they would only be in each other's way
            workers[name] = (Worker if args.device == "cpu" else Here)(
                task, name, model, args.device, args.dtype, args.threads, args.seconds)
            said = workers[name].hear()
            if "skipped" not in said: about = said; continue
            if args.device == "cpu" or name in ("plain", "attn_lit"):
                raise SystemExit(f"{name} with {model} could not start: {said['skipped']}")
            results["absent"][results["peers"].pop(name)] = said["skipped"]
            workers.pop(name).close()
        results["models"][model], results["threads"] = about["parameters"], about["threads"]
        results["machine"]["gpu"] = about["gpu"]
        yield workers
    finally:
        for worker in workers.values(): worker.close()


def measure(results: dict, args, save) -> None:
    "All works of all models; `save` is called after each."
    works = [(f"{n}", [n], False) for n in sorted(args.lengths)]
    if args.corpus: works += [("64 texts", CORPUS, False), ("64 padded", CORPUS, True)]
    for model in args.models:
        with started(results, model, args) as workers:
            for work, lengths, padded in works:
                turns = take_turns(workers, lengths, padded, args.rounds or rounds_for(sum(lengths), args.quick))
                rows = summary(turns, model=model, work=work, texts=len(lengths))
                results["rows"] += rows
                given = next((t[0]["found"] for n, t in turns.items() if n == "attn_lit" and "found" in t[0]), {})
                results["statistics"] = [n for n in STATS if n in given] or results["statistics"]
                save(results)
                took = ", ".join(f"{r['peer']} {r['seconds']:.3g} s" for r in rows if r["seconds"])
                print(f"{model} {work}: {took}", flush=True)


def warnings(results: dict) -> Iterator[str]:
    "Signs that the machine was busy, on which the ratios mean little."
    done, load = [r for r in results["rows"] if r["times"]], results["machine"]["load"]
    spread = max((max(r["times"])/min(r["times"]) for r in done), default=1)
    idle = [c for r in done for c in r["cores"] if c < .6]
    if load > .5: yield f"Warning: the load was {load} at the start; ratios need a quiet machine."
    if spread > 1.5: yield f"Warning: a peer's slowest round took {spread:.1f} × its fastest."
    if idle: yield f"Warning: {len(idle)} runs were held up: one had {min(idle)} cores on average."


def options():
    "The command line, with what --quick stands for filled in."
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="gpt2 at 128, 512 and 2048 tokens, and the corpus")
    parser.add_argument("--models", nargs="+", choices=MODELS, help="default: gpt2 llama")
    parser.add_argument("--lengths", nargs="+", type=int, help="tokens; default: 128 … 32768")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--corpus", action=argparse.BooleanOptionalAction, default=True, help="64 short texts")
    parser.add_argument("--rounds", type=int, help="default: 15 for short texts … 1 for the longest")
    parser.add_argument("--seconds", type=float, default=60,
                        help="leave out runs that might take longer, or three times as long without S × S tensors")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", default="float32", choices=DTYPES)
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--json", type=Path, help=f"default for a whole run: bench/{RESULTS.name}")
    args = parser.parse_args()
    whole = not (args.quick or args.models or args.lengths or args.peers != list(PEERS))
    args.json = args.json or (RESULTS if whole else None)
    args.models = args.models or (["gpt2"] if args.quick else ["gpt2", "llama"])
    args.lengths = args.lengths or ([128, 512, 2048] if args.quick else LENGTHS)
    return args


def save_to(path: Path | None, results: dict) -> None:
    "Writes the results so far, where they are to be written."
    if not path: return
    with whole_file(path) as part: part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def main():
    args = options()
    # Read when a library is imported, so it reaches the peers' processes and not this one.
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TQDM_DISABLE="1")
    results = beginning(args)
    measure(results, args, partial(save_to, args.json))
    print("", markdown(results), "", *notes(results), *warnings(results), sep="\n")


if __name__ == "__main__": main()
