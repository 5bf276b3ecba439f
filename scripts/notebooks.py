"""Run every notebook as a test, a few at a time, each in a process of its own, and count them.

With --coverage, an exported cell runs under the name and at the lines of the module that it was exported to, so
that `coverage` counts what a notebook reaches of its own module and not only of the modules that it imports.
"""
import argparse
import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMMON = ("torch", "transformers.modeling_utils", "transformers.models.gpt2.modeling_gpt2", "pandas", "scipy.stats",
          "matplotlib.pyplot", "nbdev.test", "nbdev.showdoc") # half of a short notebook's time


def exported_cells(lib):
    "(notebook name, cell id) → (module path, number of the line above the cell, its lines) for all of `lib`."
    cells = {}
    for path in sorted(lib.rglob("*.py")):
        lines = path.read_text(encoding="utf-8").splitlines()
        starts = [i for i, line in enumerate(lines) if line.startswith("# %% ") and ".ipynb #" in line]
        for i, end in zip(starts, [*starts[1:], len(lines) + 1]):
            notebook, cell_id = lines[i].removeprefix("# %% ").rsplit(" #", 1)
            cells[Path(notebook).name, cell_id] = path, i + 1, lines[i + 1:end - 1]
    return cells


def at_home(cell, path, line, exported):
    "Source that runs `cell` as lines of the module it was exported to; an error where the two disagree."
    if len(cell.source.splitlines()) != len(exported):
        sys.exit(f"{path.name} is not in step with its notebook (cell {cell.id}): run nbdev_export")
    return f"exec(compile({chr(10) * line + cell.source!r}, {str(path)!r}, 'exec'))"


def passes(notebook):
    "Run one notebook as nbdev_test does, here: whether it passed."
    import nbdev.test as nt
    from nbdev.config import get_config
    return nt.test_nb(notebook, skip_flags=get_config().tst_flags.split(), basepath=ROOT)[0]


def run_at_home(notebook):
    "The same with exported cells at home in their modules."
    import nbdev.test as nt
    homes, read = exported_cells(ROOT/"attn_lit"), nt.NBProcessor

    def processor(fn, **kwargs):
        result = read(fn, **kwargs)
        for cell in result.nb.cells:
            home = homes.get((notebook.name, getattr(cell, "id", None)))
            if home and cell.cell_type == "code": cell.source = at_home(cell, *home)
        return result

    nt.NBProcessor = processor
    return passes(notebook)


def begin(notebook, log):
    "Run one notebook in a process of its own, begun from this one, which has imported what all of them import."
    if child := os.fork(): return child
    for descriptor in (1, 2): os.dup2(log.fileno(), descriptor)
    status = 1
    try:
        status = int(not passes(notebook))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(); sys.stderr.flush()
        atexit._run_exitfuncs() # folders that the notebook has made are removed
        os._exit(status)


def from_here(notebooks, workers, threads):
    "All notebooks, some at a time: the name of each, whether it passed, seconds, what it printed."
    os.environ.update(OMP_NUM_THREADS=str(threads), MPLBACKEND="agg", PYTHONWARNINGS="ignore")
    warnings.simplefilter("ignore")
    os.chdir(ROOT)
    sys.stdin = open(os.devnull)
    # Read when Triton is imported, which some of COMMON do: where there is no GPU its kernel is interpreted.
    if not shutil.which("nvidia-smi"): os.environ["TRITON_INTERPRET"] = "1"
    for name in COMMON: import_module(name)
    waiting, running = list(notebooks), {}
    while waiting or running:
        while waiting and len(running) < workers:
            notebook, log = waiting.pop(0), tempfile.TemporaryFile("w+")
            running[begin(notebook, log)] = notebook, log, time.time()
        child, status = os.wait()
        notebook, log, start = running.pop(child)
        log.seek(0)
        yield notebook.stem, status == 0, time.time() - start, log.read()


def under_coverage(notebook, threads):
    "The same for one notebook, in a new process whose lines are counted."
    start = time.time()
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MPLBACKEND": "agg", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "coverage", "run", __file__, "--one", str(notebook)]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return notebook.stem, done.returncode == 0, time.time() - start, done.stdout + done.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of nbs/")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--coverage", action="store_true")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one: sys.exit(not run_at_home(args.one.resolve()))
    notebooks = args.notebooks or sorted(p for p in (ROOT/"nbs").glob("*.ipynb") if p.name[0] not in "_.")
    threads = max(1, (os.cpu_count() or 1)//args.workers)
    notebooks, passed = [n.resolve() for n in notebooks], 0
    with ThreadPoolExecutor(args.workers) as pool:
        done = pool.map(partial(under_coverage, threads=threads), notebooks) if args.coverage else \
            from_here(notebooks, args.workers, threads)
        for name, ok, seconds, printed in done:
            print(f"  {'ok    ' if ok else 'FAILED'} {name:<20} {seconds:5.0f} s", flush=True)
            if not ok: print(printed[-6000:], flush=True)
            passed += ok
    print(f"notebooks: {passed} passed, {len(notebooks) - passed} failed")
    sys.exit(passed < len(notebooks))


if __name__ == "__main__": main()
