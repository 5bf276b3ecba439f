"""Memory and time of `attn-lit run` on data of one's own, as the items, their length and the model grow.

    python bench/memory.py                  # memory.json: 1,000, 10,000 and 100,000 texts, pairs and prompts on tiny,
                                            # then lengths of texts and random models; two to three hours
    python bench/memory.py --only pairs     # one of texts, pairs, prompts, length, model
    python bench/memory.py --quick          # 500 and 2,000 items, nothing written

Each run is a process of its own, on one thread, with the default controls and all that a run does, its import included;
its peak is the kernel's VmHWM, its time that of the processor.
"""
import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = ("good great bad awful happy sad fox tree river king queen boat song night bread snow road bird friend letter "
         "the a was is in on and but with over , .").split()
RUN = """
import json, sys, time
from pathlib import Path
from attn_lit.command import main
try: main(sys.argv[2:])
except SystemExit as stop: assert not stop.code, stop.code
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
found = dict(peak_mb=int(status["VmHWM"].split()[0])/1024, cpu_seconds=time.process_time())
Path(sys.argv[1]).write_text(json.dumps(found))
"""


def item(analysis, i, text):
    "A row of one analysis's data, of a few words."
    if analysis == "sentiment": return dict(text=f"The {text}", label=i % 2)
    if analysis == "instruction": return dict(prompt=f"Now describe {text}", plain=f"We describe {text}")
    male, female = (f"The {('nurse', 'pilot')[i % 2]} said {pronoun} {text}" for pronoun in ("he", "she"))
    return dict(male=male, female=female, stereotype=("female", "male")[i % 2])


def corpus(path, analysis, n, words):
    "Items of 0.75 to 1.25 times so many words, and the few that make them an item."
    rng = random.Random(0)
    with open(path, "w") as file:
        for i in range(n):
            text = " ".join(rng.choices(WORDS, k=rng.randint(3*words//4, 5*words//4)))
            file.write(json.dumps(item(analysis, i, text)) + "\n")


def run(folder, n, words=6, model="tiny", analysis="sentiment"):
    "One run: megabytes, seconds, and how large what it leaves is."
    corpus(data := folder/f"{analysis}.jsonl", analysis, n, words)
    out = Path(tempfile.mkdtemp(dir=folder))
    others = [name for name in ("sentiment", "bias", "instruction") if name != analysis]
    args = ["run", "--model", model, f"--{analysis}-data", data, "--out", out, "--skip", *others, "neurons",
            "--no-causal", "--layer", 0, "--permutations", 1000]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    subprocess.run([sys.executable, "-c", RUN, folder/"found.json", *map(str, args)], check=True, env=env,
                   stdout=subprocess.DEVNULL)
    shards = [p.stat().st_size for p in (out/"measured").glob("*.parquet")]
    found = json.loads((folder/"found.json").read_text())
    row = dict(model=Path(model).name, analysis=analysis, items=n, words=words, **found, shards=len(shards),
               shards_mb=sum(shards)/2**20, data_mb=data.stat().st_size/2**20)
    print({k: round(v, 1) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    return row


def widths(folder):
    "Random models with tiny's tokenizer: few layers, and more."
    import torch
    from attn_lit.models import load_model, random_model
    tokenizer, _ = load_model("tiny")
    for n_layers in (4, 16):
        torch.manual_seed(0)
        model, name = random_model("gpt2", n_layers, len(tokenizer), n_positions=512), f"layers_{n_layers}"
        model.save_pretrained(folder/name); tokenizer.save_pretrained(folder/name)
        yield name


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=("texts", "pairs", "prompts", "length", "model"))
    quick, only = (args := parser.parse_args()).quick, args.only
    at, began = Path(__file__).with_name("memory.json"), time.time()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        counts = (500, 2000) if quick else (1000, 10_000, 100_000)
        def grown(analysis): return [run(folder, n, analysis=analysis) for n in counts]
        todo = dict(texts=lambda: grown("sentiment"), pairs=lambda: grown("bias"),
                    prompts=lambda: grown("instruction"),
                    length=lambda: [run(folder, 300, words) for words in (20, 80, 320)],
                    model=lambda: [run(folder, 300, 20, str(folder/name)) for name in widths(folder)])
        for name, make in todo.items():
            if only not in (None, name): continue
            found = {name: make()}
            kept = json.loads(at.read_text()) if at.exists() else {}
            if not quick: at.write_text(json.dumps(kept | found, indent=1) + "\n")
    print(f"{time.time() - began:.0f} s")


if __name__ == "__main__": main()
