"Every family whose output projections are known: an experiment that starts at a layer is a whole pass by itself."
import families
import pytest
import torch

from attn_lit.base import InputError
from attn_lit.experiment import values_of
from attn_lit.intervene import intervened, scaled
from attn_lit.metrics import Metric
from attn_lit.models import Encoded, Parts, load_model

SETS = [[], [(0, 1)], [(1, 2)], [(0, 0), (1, 3)], [(1, 0), (1, 1)]]
IDS = [[5, 9, 17, 9, 33, 90, 2, 17], [7, 7, 30, 41]]


@pytest.fixture(scope="module")
def tokenizer(): return load_model("tiny")[0]


def last_logits(reads):
    "A metric that is one logit, averaged over the positions that are read."
    encoded = [Encoded("", ids, list(map(str, ids)), [(0, 0)]*len(ids)) for ids in IDS]
    return Metric("a logit", encoded, reads, lambda logits, i, clean: logits[..., 11].mean(-1))


@pytest.mark.parametrize("name", [n for n, f in families.FAMILIES.items() if not f.encoder])
def test_family(name, tokenizer):
    model = families.small(name)
    try: layers = range(len(Parts(model).out_projs))
    except InputError as error: pytest.skip(str(error))
    sets = [[(layer, head) for layer, head in some if layer in layers] for some in SETS]
    for metric in (last_logits([[7], [3]]), last_logits([[*range(8)], [*range(4)]])):
        for i, e in enumerate(metric.encoded):
            found = {}
            for now, values in values_of(metric, i, sets, range(len(sets)), scaled(3.), tokenizer, model):
                found |= dict(zip(now, values))
            for k, some in enumerate(sets):
                with torch.no_grad(), intervened(model, some, scaled(3.)):
                    whole = model(input_ids=torch.tensor([e.ids]), use_cache=False).logits
                expected = float(metric.value(whole[:, metric.reads[i]], i, None))
                assert abs(found[k] - expected) < 1e-5*max(1, abs(expected)), (some, found[k], expected)
