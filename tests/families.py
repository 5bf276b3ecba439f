"""Small random models of many families, with attention as peaked as in trained ones."""
import re, sys
from dataclasses import dataclass, field

import torch
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModel, T5EncoderModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from attn_lit.base import InputError
from attn_lit.models import Parts, random_model

GQA = dict(num_key_value_heads=2)
GQA8 = dict(num_key_value_heads=2, head_dim=8)
MOE = dict(num_experts_per_tok=2, moe_intermediate_size=32)
TURNS = dict(n_layers=3, layer_types=["sliding_attention", "full_attention", "sliding_attention"], sliding_window=5)


@dataclass
class Family:
    "How to build one family small, and what a test has to know of it."
    kind: str
    settings: dict = field(default_factory=dict)
    gain: float = 1.8 # size of queries and keys
    interface: bool = True # registered attention functions are called; otherwise only eager weights are there
    encoder: bool = False # built by `AutoModel`; sees both ways
    lazy_mask: bool = True # an object from the mask function reaches the attention function untouched
    rows_sum: bool = True # rows of weights sum to 1
    calls: int = 1 # how often a layer calls the attention function
    same: bool = True # eager and sdpa give the same numbers
    mixes: bool = True # what enters the output projection is the weights times the values
    layers: tuple | None = None # layers that have attention weights, if not all

CAUSAL = dict(
    gpt2=Family("gpt2"),
    gpt2_inverse=Family("gpt2", dict(scale_attn_by_inverse_layer_idx=True), gain=2.2),
    gpt2_upcast=Family("gpt2", dict(scale_attn_by_inverse_layer_idx=True, reorder_and_upcast_attn=True), gain=2.2),
    gpt_neo=Family("gpt_neo", gain=1.1, interface=False),
    gpt_neox=Family("gpt_neox"),
    gptj=Family("gptj", dict(rotary_dim=4), interface=False),
    codegen=Family("codegen", dict(rotary_dim=4), interface=False),
    opt=Family("opt"),
    bloom=Family("bloom", interface=False),
    falcon=Family("falcon", dict(new_decoder_architecture=True, num_kv_heads=2, alibi=False), interface=False),
    falcon_multi_query=Family("falcon", dict(new_decoder_architecture=False, multi_query=True, alibi=False),
                              interface=False),
    falcon_alibi=Family("falcon", dict(new_decoder_architecture=False, multi_query=False, alibi=True), interface=False,
                        same=False),
    mpt=Family("mpt", dict(max_seq_len=128), interface=False),
    llama=Family("llama"),
    mistral=Family("mistral", dict(sliding_window=5)),
    mixtral=Family("mixtral", dict(**GQA, num_local_experts=4)),
    qwen2=Family("qwen2"),
    qwen2_moe=Family("qwen2_moe", dict(**GQA, **MOE, num_experts=4, shared_expert_intermediate_size=32)),
    qwen3=Family("qwen3"),
    qwen3_moe=Family("qwen3_moe", dict(**GQA8, **MOE, num_experts=4)),
    gemma=Family("gemma"),
    gemma2=Family("gemma2", dict(**GQA8, **TURNS, query_pre_attn_scalar=8, attn_logit_softcapping=8.)),
    gemma3=Family("gemma3_text", dict(**GQA8, **TURNS, query_pre_attn_scalar=8)),
    phi=Family("phi"),
    phi3=Family("phi3", dict(**GQA, original_max_position_embeddings=128)),
    phimoe=Family("phimoe", dict(**GQA, num_local_experts=4)),
    olmo=Family("olmo", GQA),
    olmo2=Family("olmo2", GQA),
    olmo3=Family("olmo3", dict(**GQA, **TURNS)),
    olmoe=Family("olmoe", dict(**GQA, num_experts=4, num_experts_per_tok=2)),
    stablelm=Family("stablelm", GQA),
    starcoder2=Family("starcoder2", GQA),
    granite=Family("granite", dict(**GQA, attention_multiplier=.3)),
    cohere=Family("cohere", GQA),
    cohere2=Family("cohere2", dict(**GQA, **TURNS)),
    gpt_oss=Family("gpt_oss", dict(**GQA8, **TURNS, num_local_experts=4, num_experts_per_tok=2), rows_sum=False),
    deepseek_v2=Family("deepseek_v2", dict(num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=4,
                                           qk_nope_head_dim=8, v_head_dim=6, n_routed_experts=4, n_group=1,
                                           topk_group=1, first_k_dense_replace=1, **MOE)),
    deepseek_v3=Family("deepseek_v3", dict(num_key_value_heads=4, q_lora_rank=16, kv_lora_rank=16, qk_rope_head_dim=4,
                                           qk_nope_head_dim=8, v_head_dim=6, n_routed_experts=4, n_group=2,
                                           topk_group=1, first_k_dense_replace=1, **MOE)),
    glm=Family("glm", GQA8),
    glm4=Family("glm4", GQA8),
    exaone4=Family("exaone4", dict(**GQA8, **TURNS)),
    smollm3=Family("smollm3", dict(**GQA, no_rope_layers=[1, 0])),
    persimmon=Family("persimmon"),
    gpt_bigcode=Family("gpt_bigcode"),
    gpt_bigcode_multi_head=Family("gpt_bigcode", dict(multi_query=False)),
    biogpt=Family("biogpt"),
    xglm=Family("xglm", dict(ffn_dim=64), gain=2.5, interface=False),
    nemotron=Family("nemotron", GQA8, gain=1.4),
    dbrx=Family("dbrx", dict(d_model=32, max_seq_len=128,
                             attn_config=dict(kv_n_heads=2, clip_qkv=8., rope_theta=10000.),
                             ffn_config=dict(ffn_hidden_size=32, moe_num_experts=4, moe_top_k=2))),
    openai=Family("openai-gpt", dict(afn="gelu", initializer_range=.5), interface=False),
    gpt_neox_japanese=Family("gpt_neox_japanese", interface=False),
    helium=Family("helium", GQA8),
    ernie4_5=Family("ernie4_5", GQA8),
    arcee=Family("arcee", GQA8),
    seed_oss=Family("seed_oss", GQA8),
    hunyuan=Family("hunyuan_v1_dense", GQA8),
    jetmoe=Family("jetmoe", dict(num_key_value_heads=2, kv_channels=8, num_local_experts=4, num_experts_per_tok=2,
                                 initializer_range=.2)),
    diffllama=Family("diffllama", GQA8, calls=2, mixes=False),
    doge=Family("doge", GQA, lazy_mask=False),
    apertus=Family("apertus", GQA8),
    bitnet=Family("bitnet", GQA, mixes=False),
    llama4=Family("llama4_text", dict(**GQA8, num_local_experts=4, intermediate_size_mlp=64, attention_chunk_size=5,
                                      n_layers=4)),
)

ENCODERS = dict(
    bert=Family("bert", encoder=True),
    distilbert=Family("distilbert", encoder=True),
    roberta=Family("roberta", dict(max_position_embeddings=160), encoder=True),
    electra=Family("electra", dict(embedding_size=32), encoder=True),
    albert=Family("albert", dict(embedding_size=32, initializer_range=.3), encoder=True),
    modernbert=Family("modernbert", dict(n_layers=3, global_attn_every_n_layers=2, local_attention=6,
                                         cls_token_id=0, sep_token_id=0), encoder=True),
    t5=Family("t5", dict(d_ff=64, d_kv=8, is_encoder_decoder=False), gain=1.1, encoder=True),
    xlm_roberta=Family("xlm-roberta", dict(max_position_embeddings=160), encoder=True),
    esm=Family("esm", dict(max_position_embeddings=160, mask_token_id=1, position_embedding_type="rotary",
                            token_dropout=False), encoder=True),
    mpnet=Family("mpnet", dict(max_position_embeddings=160), encoder=True, interface=False),
    roformer=Family("roformer", dict(embedding_size=32), encoder=True, interface=False),
    deberta=Family("deberta-v2", dict(relative_attention=True, pos_att_type=["p2c", "c2p"], max_relative_positions=64),
                   encoder=True, interface=False),
    megatron_bert=Family("megatron-bert", encoder=True, interface=False),
    rembert=Family("rembert", dict(input_embedding_size=32, initializer_range=.2), encoder=True, interface=False),
    eurobert=Family("eurobert", dict(**GQA8), encoder=True),
)

MAMBA = dict(mamba_d_state=8, mamba_d_conv=4, mamba_expand=2, n_layers=4)
MAMBA2 = dict(**MAMBA, mamba_n_heads=4, mamba_d_head=16, mamba_n_groups=1)
EVERY_OTHER = ["conv", "full_attention"]*2

HYBRID = dict(
    qwen3_next=Family("qwen3_next", dict(**GQA8, **MOE, n_layers=4, linear_num_value_heads=4, linear_num_key_heads=2,
                                         linear_key_head_dim=8, linear_value_head_dim=8, num_experts=4,
                                         shared_expert_intermediate_size=32), layers=(3,), mixes=False),
    jamba=Family("jamba", dict(**GQA, **MAMBA, attn_layer_period=2, attn_layer_offset=1, num_experts=4,
                               use_mamba_kernels=False, mamba_dt_rank=4), layers=(1, 3)),
    bamba=Family("bamba", dict(**GQA, **MAMBA2, attn_layer_indices=[1, 3]), layers=(1, 3)),
    lfm2=Family("lfm2", dict(**GQA, n_layers=4, layer_types=EVERY_OTHER, conv_L_cache=3), layers=(1, 3)),
    recurrent_gemma=Family("recurrent_gemma", dict(num_key_value_heads=1, head_dim=8, n_layers=3, lru_width=32,
                                                   attention_window_size=5), layers=(2,)),
    minimax=Family("minimax", dict(**GQA8, num_local_experts=4), layers=(0,)),
    granitemoehybrid=Family("granitemoehybrid", dict(**GQA, **MAMBA2, layer_types=["mamba", "attention"]*2,
                                                     num_local_experts=4, num_experts_per_tok=2,
                                                     attention_multiplier=.3, shared_intermediate_size=32),
                            layers=(1, 3)),
    falcon_h1=Family("falcon_h1", dict(**GQA8, **{**MAMBA2, "n_layers": 2}, mamba_d_ssm=64)),
    zamba2=Family("zamba2", dict(n_layers=4, layers_block_type=["mamba", "hybrid"]*2, hybrid_layer_ids=[1, 3],
                                 mamba_d_state=8, mamba_ngroups=1, n_mamba_heads=4, mamba_headdim=16, num_mem_blocks=1,
                                 num_key_value_heads=4, attention_head_dim=16), layers=(1, 3)),
    mamba=Family("mamba", dict(state_size=8), layers=()),
    rwkv=Family("rwkv", dict(attention_hidden_size=32), interface=False, layers=()),
)
FAMILIES = {**CAUSAL, **ENCODERS, **HYBRID}

QUERY_KEY = re.compile(r"(?:[qk]_?(?:proj|lin)?|(?:query|key)(?:_proj)?|query_key_value|c_attn|W?qkv(?:_proj)?|"
                       r"q_[ab]_proj|kv_a_proj_with_mqa|kv_b_proj)$", re.IGNORECASE)
QUERY_KEY_NORM = re.compile(r"(?:[qk]|query|key)_?(?:layer)?_?norm(?:\.|$)", re.IGNORECASE)


def random_encoder(kind: str, n_layers: int = 2, vocab: int = 128, seed: int = 0, **kwargs):
    "An encoder of the sizes of `random_model`."
    size = dict(hidden_size=32, num_hidden_layers=n_layers, num_attention_heads=4, intermediate_size=64,
                vocab_size=vocab, max_position_embeddings=128, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    torch.manual_seed(seed)
    build = T5EncoderModel._from_config if kind == "t5" else AutoModel.from_config
    return build(AutoConfig.for_model(kind, **{**size, **kwargs})).eval()


@torch.no_grad()
def peaked(model, gain: float = 1.8, seed: int = 1):
    "The model, with queries and keys of `gain` per component, in place: scores then spread by about gain²."
    draw = torch.Generator().manual_seed(seed)
    for path, m in model.named_modules():
        weight = getattr(m, "weight", None)
        if QUERY_KEY_NORM.search(path) and weight is not None: weight.add_(gain - 1)
        elif QUERY_KEY.fullmatch(path.rpartition(".")[2]) and weight is not None and weight.ndim == 2:
            weight.normal_(0, gain/(m.nx if hasattr(m, "nx") else weight.shape[1])**.5, generator=draw)
    for path, p in model.named_parameters():
        if path.endswith("sinks"): p.normal_(1, 1, generator=draw)
    return model


def small(name: str, vocab: int = 128, seed: int = 0):
    "The random model of one entry of `FAMILIES`, its attention peaked."
    f = FAMILIES[name]
    build = random_encoder if f.encoder else random_model
    return peaked(build(f.kind, vocab=vocab, seed=seed, **f.settings), f.gain)


def set_eager(model):
    "The model, computing its weights; `set_attn_implementation` refuses families without the interface."
    model.config._attn_implementation = "eager"
    return model


CALLS = []

def counted(module, *args, softcap=None, **kwargs):
    "PyTorch's attention, its calls counted (it has no softcap: the numbers are not looked at)."
    CALLS.append(module)
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, *args, **kwargs)


@torch.no_grad()
def facts(name: str) -> dict:
    "What can be measured of one family: calls of the interface, peakedness, and whether its parts are found."
    model, ids = small(name), torch.randint(1, 128, (2, 24), generator=torch.Generator().manual_seed(0))
    CALLS.clear()
    if model._can_set_attn_implementation():
        model.set_attn_implementation("counted")
        model(input_ids=ids)
    out = set_eager(model)(input_ids=ids, output_attentions=True)
    weights = [a for a in getattr(out, "attentions", None) or () if a is not None and a.shape[-2:] == (24, 24)]
    try: found = len(Parts(model).out_projs)
    except InputError: found = 0
    return dict(calls=len(CALLS), finite=bool(out[0].isfinite().all()), out_projs=found,
                peaks=[round(a[..., 3:, :].amax(-1).mean().item(), 2) for a in weights])


def main(names):
    "Prints the table, and stops at the first family that is not what its flags say."
    AttentionInterface.register("counted", counted)
    AttentionMaskInterface.register("counted", ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
    for name in names or FAMILIES:
        f, r = FAMILIES[name], facts(name)
        print(f"{name:24} calls {r['calls']}  out_projs {r['out_projs']}  mean row maximum {r['peaks']}", flush=True)
        layers = f.settings.get("n_layers", 2) if f.layers is None else len(f.layers)
        assert r["finite"] and len(r["peaks"]) == layers and r["calls"] == layers*f.calls*f.interface, (name, r)
        assert all(.3 < p < .9 for p in r["peaks"]), (name, r)


if __name__ == "__main__": main(sys.argv[1:])
