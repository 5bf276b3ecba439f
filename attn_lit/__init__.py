"""Which attention heads and FFN neurons of a causal language model do X, and does it matter?

The names below are loaded when they are first used, so `import attn_lit` is fast and imports no model library.
"""
__version__ = "0.1.0"

from importlib import import_module

# The promised name → (its module, its short name there).
_names = {
    "load_model": ("models", "load_model"),
    "InputError": ("base", "InputError"),
    "get_attentions": ("attention", "get_attentions"),
    "head_statistics": ("stream", "head_statistics"),
    "head_entropy": ("entropy", "head_entropy"),
    "SENTIMENT_KEYWORDS": ("sentiment", "SENTIMENT_KEYWORDS"),
    "sentiment_head_scores": ("sentiment", "head_scores"),
    "bias_differential_attention": ("bias", "differential"),
    "instruction_head_scores": ("instruction", "head_scores"),
    "get_ffn_activations": ("neurons", "get_ffn_activations"),
    "top_active_neurons": ("neurons", "top_active_neurons"),
    "logit_lens": ("lens", "logit_lens"),
    "ablate_head": ("ablation", "ablate_head"),
    "full_ablation_matrix": ("ablation", "full_ablation_matrix"),
    "plot_attention_heatmap": ("figures", "plot_attention_heatmap"),
    "plot_entropy_heatmap": ("figures", "plot_entropy_heatmap"),
}
__all__ = list(_names)


def __getattr__(name):
    "Import `name`'s module on first use and keep what it holds (PEP 562)."
    if name not in _names: raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _names[name]
    globals()[name] = value = getattr(import_module(f"{__name__}.{module}"), attribute)
    return value


def __dir__(): return sorted({*globals(), *__all__})
