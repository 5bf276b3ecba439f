"The table of a benchmark's results, from the JSON that bench.py wrote; needs nothing but pandas."
import pandas as pd

MEASURES = dict(seconds=("seconds", "{:.3g}"), ratio=("time, plain forward = 1", "{:.2f}"),
                peak_mb=("peak memory above the model, MB", "{:,.0f}"))


def block(rows: pd.DataFrame, measure: str, labels: dict, works: list) -> pd.DataFrame:
    "One measure of one model: a row for each peer, a column for each work, and how far its numbers are attn_lit's."
    if measure == "seconds": rows = rows[rows.peer == "plain"]
    wide = rows.pivot(index="peer", columns="work", values=measure)
    wide = wide.reindex(index=[p for p in labels if p in wide.index], columns=works)
    text = wide.astype(float).map(lambda x: "–" if pd.isna(x) else MEASURES[measure][1].format(x))
    differs = rows.groupby("peer").differs.max().reindex(text.index) if measure == "ratio" else None
    text["agrees to"] = "" if differs is None else ["" if pd.isna(d) else f"{d:.0e}" for d in differs]
    return text.rename(index=labels)


def table(results: dict) -> pd.DataFrame: # index: model, measure, peer; columns: works and "agrees to"; all text
    "Medians of every peer at every work; – where a peer was left out."
    rows = pd.DataFrame(results["rows"])
    works = sorted(rows.work.unique(), key=lambda work: (not work.isdigit(), int(work) if work.isdigit() else 0))
    return pd.concat({(model, title): block(rows[rows.model == model], measure, results["peers"], works)
                      for model in dict.fromkeys(rows.model) for measure, (title, _) in MEASURES.items()},
                     names=["model", "measure", "peer"])


def markdown(results: dict) -> str:
    "The table in Markdown that is also readable as it stands."
    frame = table(results)
    lines = [["", *frame.columns]]
    for (model, measure), part in frame.groupby(level=[0, 1], sort=False):
        lines += [[f"**{model}: {measure}**", *[""]*len(frame.columns)]]
        lines += [[peer, *row] for peer, row in zip(part.index.get_level_values(2), part.to_numpy().tolist())]
    first, *others = [max(map(len, column)) for column in zip(*lines)]
    shown = [" | ".join(["| " + row[0].ljust(first), *(c.rjust(n) for c, n in zip(row[1:], others))]) + " |"
             for row in lines]
    rule = f"|{'-'*(first + 2)}|" + "|".join("-"*(n + 1) + ":" for n in others) + "|"
    return "\n".join([shown[0], rule, *shown[1:]])


def left_out(results: dict) -> list[str]:
    "Why there is a – in the table: for each model and peer the first time, as longer texts only make it worse."
    rows = pd.DataFrame(results["rows"])
    rows = rows[rows.skipped.notna()].drop_duplicates(["model", "peer", "texts"])
    rows["says"] = rows.peer.map(results["peers"]) + ", " + rows.work + ": " + rows.skipped
    return [f"– {model}: {'; '.join(part.says)}." for model, part in rows.groupby("model", sort=False)]


def notes(results: dict) -> list[str]:
    "What the table was measured on and with, and why something is not in it."
    machine, rounds = results["machine"], [len(r["times"]) for r in results["rows"] if r["times"]]
    on = machine["gpu"] or f"{machine['cpu']}, {results['threads']} of {machine['cores']} cores"
    sizes = ", ".join(f"{name} {n/1e6:.1f} M" for name, n in results["models"].items())
    return [
        f"{results['date']}, {on}, {machine['memory_gb']} GB; {results['dtype']}; random weights: {sizes} parameters.",
        ", ".join(f"{name} {version}" for name, version in results["versions"].items()) + ".",
        f"Medians of {max(rounds)} rounds, of the longest works {min(rounds)}, peers taking turns. "
        f"Columns: one text of so many tokens; {results['corpus']}.",
        f"agrees to: the largest difference from attn_lit in {', '.join(results['statistics'])}; absolute up to 1, "
        "relative above.",
        *left_out(results), *(f"Not run: {label}, as {why}." for label, why in results["absent"].items())]
