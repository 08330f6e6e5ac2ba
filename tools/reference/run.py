"""Runs a reference model: logits, hidden states, outputs of modules, gradients by Hugging Face names."""
import pathlib
import tempfile

import torch
from safetensors.torch import load_file

MIXERS = ("self_attn", "linear_attn", "mixer", "attention")
FEED_FORWARDS = ("mlp", "feed_forward", "block_sparse_moe")


def decoder_layers(model):
    """The list of the language model's layers."""
    text = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    lists = [m for n, m in model.named_modules() if isinstance(m, torch.nn.ModuleList) and n.endswith("layers")
             and "vision" not in n and "visual" not in n]
    fitting = [m for m in lists if len(m) == text.num_hidden_layers] or lists
    if not fitting:
        raise SystemExit("reference_logits: the model has no list of layers")
    return fitting[0]


def first(output):
    return output[0] if isinstance(output, tuple) else output


def watch(model, modules):
    """Hooks that fill the dict returned: hidden_i, and with `modules` attention_i and mlp_i (before norms behind them)."""
    seen, handles = {}, []

    def keep(module, name):
        handles.append(module.register_forward_hook(lambda m, args, output: seen.update({name: first(output).detach()})))

    for i, layer in enumerate(decoder_layers(model)):
        keep(layer, f"hidden_{i}")
        for kind, names in (("attention", MIXERS), ("mlp", FEED_FORWARDS)) if modules else ():
            for name in names:
                if isinstance(getattr(layer, name, None), torch.nn.Module):
                    keep(getattr(layer, name), f"{kind}_{i}")
                    break
    return seen, handles


def next_token_loss(logits, input_ids):
    """Mean cross entropy of the next token over all positions that have one."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.nn.functional.cross_entropy(wide[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())


def gradients(model):
    """{Hugging Face name: gradient} of the last backward pass. save_pretrained turns names and fused experts back to those
    of files, and does nothing to values that is not linear: so it is given the gradients in the place of the weights."""
    no_gradient = {name for name, _ in model.named_buffers()}
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
    with tempfile.TemporaryDirectory(prefix="reference-logits-") as place:
        model.save_pretrained(place, max_shard_size="1000GB")
        found = {}
        for file in sorted(pathlib.Path(place).glob("*.safetensors")):
            found.update(load_file(file))
    for name, parameter in model.named_parameters():
        parameter.data = weights[name]
    return {name: value for name, value in found.items() if name not in no_gradient}


def run(model, input_ids, modules=False, with_gradients=False):
    """{name: tensor}: input_ids, logits, hidden_i, what else is asked for; float32 unless the model is float64."""
    seen, handles = watch(model, modules)
    with torch.set_grad_enabled(with_gradients):
        logits = model(input_ids=input_ids, use_cache=False).logits
    for handle in handles:
        handle.remove()
    result = {"input_ids": input_ids, "logits": logits.detach(), **seen}
    if with_gradients:
        model.zero_grad()
        loss = next_token_loss(logits, input_ids)
        loss.backward()
        result["loss"] = loss.detach()
        result |= {f"gradient.{name}": value for name, value in gradients(model).items()}
    wide = lambda t: t if t.dtype in (torch.int64, torch.float64) else t.float()
    return {name: wide(value).contiguous() for name, value in result.items()}
