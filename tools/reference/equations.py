"""Methods that PEFT has no class for, written from their equations in plain torch.

`tests/fixtures/parity/make_variant_bundles.py` puts them on a LLaMA of transformers and writes down what comes out.
Each class attaches its method to the model it is given: it freezes the network, replaces or patches modules, and adds
parameters under the names that the bundles use. A linear weight is W [out, in], y = x W^T, and s = alpha / rank.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
QKV = ["q_proj", "k_proj", "v_proj"]


# ---------------------------------------------------------------------------------------------- numbers from a counter

def fnv1a64(text):
    digest = 0xCBF29CE484222325
    for byte in text.encode():
        digest = (digest ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return digest


def stream(key, shape):
    """Numbers in [-1, 1), row by row: number k is the SplitMix64 finaliser's upper 24 bits of key + (k + 1) golden."""
    with np.errstate(over="ignore"):
        z = np.uint64(key) + np.arange(1, math.prod(shape) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    drawn = (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)  # exact in f32
    return torch.from_numpy(drawn).reshape(shape)


# ------------------------------------------------------------------------------------------------ what methods share

class Adapted(nn.Module):
    """A frozen linear and a branch beside it."""

    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        return self.base(x) + self.branch(x)

    def branch(self, x):
        raise NotImplementedError

    def delta(self):
        """The branch as a dense matrix [out, in]."""
        raise NotImplementedError

    def merged(self):
        return self.base.weight + self.delta()


class Method:
    """A method on `model`. Subclasses attach themselves in `__init__` and override what they do differently."""

    merges = True

    def __init__(self, model, settings):
        self.model, self.settings = model, settings
        self.network = {name for name, _ in model.named_parameters()}
        model.requires_grad_(False)

    def wrap(self, names, make):
        """Replace the linears whose last name is among `names` by `make(linear, full name)`; in the network's order."""
        wrapped = {}
        for name, module in list(self.model.named_modules()):
            parent, _, last = name.rpartition(".")
            if isinstance(module, nn.Linear) and last in names:
                wrapped[name] = make(module, name)
                setattr(self.model.get_submodule(parent), last, wrapped[name])
        return wrapped

    def tensors(self):
        """What an adapter file holds: what the method added, and what it trains of the network."""
        added = lambda name: name.replace(".base.", ".") not in self.network
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad or added(name)}

    def training(self, on):
        """Where a training pass computes something else than an evaluation: switch."""

    def loss(self, out):
        return out.loss

    def optimizer(self, **adamw):
        return torch.optim.AdamW([p for p in self.model.parameters() if p.requires_grad], **adamw)

    def after_step(self, step, optimizer):
        """Called with the gradients still there; steps count from 1."""

    @torch.no_grad()
    def merge(self):
        for name, module in list(self.model.named_modules()):
            if isinstance(module, Adapted):
                parent, _, last = name.rpartition(".")
                module.base.weight.copy_(module.merged())
                setattr(self.model.get_submodule(parent), last, module.base)


class LowRank(Adapted):
    """s B A, of which only the first `used` rows of A and columns of B."""

    def __init__(self, base, rank, scale, used=None):
        super().__init__(base)
        self.lora_A = nn.Linear(base.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)
        self.scale, self.used = scale, used or rank

    def factors(self):
        return self.lora_A.weight[:self.used], self.lora_B.weight[:, :self.used]

    def branch(self, x):
        a, b = self.factors()
        return x @ a.T @ b.T * self.scale

    def delta(self):
        a, b = self.factors()
        return b @ a * self.scale


# ------------------------------------------------------------------------------------------------------------ methods

class TiedLora(Method):
    """q, k and v are one map with the update s diag(v) B diag(u) A; layers share what is tied."""

    def __init__(self, model, settings):
        super().__init__(model, settings)
        layers, rank = model.config.num_hidden_layers, settings["rank"]
        first = [getattr(model.model.layers[0].self_attn, name) for name in QKV]
        sizes = [linear.out_features for linear in first]
        shapes = dict(A=(rank, first[0].in_features), B=(sum(sizes), rank), u=(rank,), v=(sum(sizes),))
        for letter, shape in shapes.items():
            count = 1 if letter in settings["tie"] else layers
            drawn = [torch.ones(shape) if len(shape) == 1 else torch.randn(shape) * 0.1 for _ in range(count)]
            setattr(model, f"tied_lora_{letter}", nn.ParameterList(nn.Parameter(t) for t in drawn))

        def make(linear, name):
            which = QKV.index(name.rpartition(".")[2])
            rows = slice(sum(sizes[:which]), sum(sizes[:which + 1]))
            return Slice(linear, lambda layer=int(name.split(".")[2]): self.parts(layer), rows, self.scale())
        self.wrap(QKV, make)

    def scale(self):
        return self.settings["alpha"] / self.settings["rank"]

    def parts(self, layer):
        lists = [getattr(self.model, f"tied_lora_{letter}") for letter in "ABuv"]
        return [parameters[layer if len(parameters) > 1 else 0] for parameters in lists]

    def freeze(self):
        """After everything was randomised, what is not trained too."""
        for letter in set("ABuv") - set(self.settings["train"]):
            getattr(self.model, f"tied_lora_{letter}").requires_grad_(False)


class Slice(Adapted):
    """One projection's rows of the fused map."""

    def __init__(self, base, parts, rows, scale):
        super().__init__(base)
        self.parts, self.rows, self.scale = parts, rows, scale

    def branch(self, x):
        a, b, u, v = self.parts()
        return (u * (x @ a.T)) @ b[self.rows].T * v[self.rows] * self.scale

    def delta(self):
        a, b, u, v = self.parts()
        return v[self.rows, None] * (b[self.rows] * u) @ a * self.scale


class DyLora(Method):
    """LoRA cut off at rank b, with the scale alpha / b."""

    def __init__(self, model, settings):
        super().__init__(model, settings)
        b = settings["evaluate_rank"]
        self.wrap(settings["target_modules"],
                  lambda linear, _: LowRank(linear, settings["rank"], settings["alpha"] / b, used=b))


class QaLora(Method):
    """LoRA on pooled inputs over a base in groups of four-bit integers with float zero points."""

    def __init__(self, model, settings):
        super().__init__(model, settings)
        self.wrap(ALL_LINEAR, lambda linear, _: Grouped(linear, settings))


class Grouped(Adapted):
    def __init__(self, base, settings):
        super().__init__(base)
        self.group, self.pool = settings["group_size"], settings["pool"]
        self.s = settings["alpha"] / settings["rank"]
        self.lora_A = nn.Linear(base.in_features // self.group, settings["rank"], bias=False)
        self.lora_B = nn.Linear(settings["rank"], base.out_features, bias=False)
        w = base.weight.detach().reshape(base.out_features, -1, self.group)
        low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
        scale = (high - low) / 15
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)
        zero = -low / scale
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)
        self.register_buffer("code", (w / scale + zero).round().clamp(0, 15))
        with torch.no_grad():
            base.weight.copy_(self.dequantised(zero))

    def dequantised(self, zero):
        return (self.scale * (self.code - zero)).reshape(self.base.weight.shape)

    def branch(self, x):
        groups = x.unflatten(-1, (-1, self.group))
        pooled = groups.sum(-1) if self.pool == "sum" else groups.mean(-1)
        return self.lora_B(self.lora_A(pooled)) * self.s

    def merged(self):
        """The update is the same within a group, so the zero points take it all."""
        update = (self.lora_B.weight @ self.lora_A.weight).unsqueeze(-1) * self.s
        if self.pool == "mean":
            update = update / self.group
        return self.dequantised(self.zero - update / self.scale)


class LongLora(Method):
    """LoRA, trained embeddings and norms, stretched positions; attention within groups in training."""

    def __init__(self, model, settings):
        super().__init__(model, settings)
        scale = settings["alpha"] / settings["rank"]
        self.wrap(ALL_LINEAR[:4], lambda linear, _: LowRank(linear, settings["rank"], scale))
        for name, p in model.named_parameters():
            if "embed" in name or "norm" in name:
                p.requires_grad_(True)
        rotary = model.model.rotary_emb
        rotary.inv_freq = rotary.inv_freq / settings["position_factor"]
        self.grouped = False
        model.register_forward_pre_hook(self.remember, with_kwargs=True)
        for layer in model.model.layers:
            layer.self_attn.forward = lambda *args, own=layer.self_attn, **kwargs: self.attention(own, *args, **kwargs)

    def training(self, on):
        self.grouped = on

    def remember(self, _model, _args, kwargs):
        self.mask = kwargs["attention_mask"].bool()

    def visible(self, heads, n):
        """[batch, heads, queries, keys]: which keys a query sees."""
        position = torch.arange(n)
        causal = position[:, None] >= position
        seen = causal.expand(heads, n, n)
        if self.grouped:
            group = int(n * self.settings["group_ratio"])
            block = torch.stack([position // group, (position + group // 2) // group])
            same = block[:, :, None] == block[:, None, :]
            seen = seen & same.repeat_interleave(heads // 2, 0)
        return seen & self.mask[:, None, None, :]

    def attention(self, own, hidden_states, position_embeddings, **_):
        heads = lambda x: x.unflatten(-1, (-1, own.head_dim)).transpose(1, 2)
        q, k, v = (heads(project(hidden_states)) for project in (own.q_proj, own.k_proj, own.v_proj))
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        k, v = (t.repeat_interleave(own.num_key_value_groups, 1) for t in (k, v))
        scores = q @ k.transpose(-1, -2) * own.scaling
        scores = scores.masked_fill(~self.visible(q.shape[1], q.shape[2]), -3.0e38)
        out = scores.softmax(-1) @ v
        return own.o_proj(out.transpose(1, 2).flatten(2)), None


class Nola(Method):
    """LoRA whose A and B are combinations of random bases that are never stored."""

    def __init__(self, model, settings):
        super().__init__(model, settings)
        self.wrap(settings["target_modules"], lambda linear, name: Combined(linear, name, settings))


class Combined(Adapted):
    def __init__(self, base, name, settings):
        super().__init__(base)
        m, rank, seed = settings["num_basis"], settings["rank"], settings["seed"]
        self.nola_a, self.nola_b = nn.Parameter(torch.zeros(m)), nn.Parameter(torch.zeros(m))
        self.register_buffer("bases_a", stream(fnv1a64(f"{name}.A") ^ seed, (m, rank, base.in_features)))
        self.register_buffer("bases_b", stream(fnv1a64(f"{name}.B") ^ seed, (m, base.out_features, rank)))
        self.scale = settings["alpha"] / rank

    def factors(self):
        return torch.tensordot(self.nola_a, self.bases_a, 1), torch.tensordot(self.nola_b, self.bases_b, 1)

    def branch(self, x):
        a, b = self.factors()
        return x @ a.T @ b.T * self.scale

    def delta(self):
        a, b = self.factors()
        return b @ a * self.scale


class GaLore(Method):
    """Every weight is trained; the layers' linears with Adam's moments in a low-rank subspace of their gradient."""

    merges = False

    def __init__(self, model, settings):
        super().__init__(model, settings)
        model.requires_grad_(True)

    def tensors(self):
        return {}

    def optimizer(self, **adamw):
        projected = [m.weight for name, m in self.model.named_modules() if name.rpartition(".")[2] in ALL_LINEAR]
        return ProjectedAdam(self.model.parameters(), projected, self.settings, **adamw)


class ProjectedAdam:
    def __init__(self, parameters, projected, settings, lr, betas, eps, weight_decay):
        self.projected, self.settings = projected, settings
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        chosen = {id(p) for p in projected}
        self.plain = torch.optim.AdamW([p for p in parameters if id(p) not in chosen], lr=lr, betas=betas, eps=eps,
                                       weight_decay=weight_decay)
        self.steps, self.state = 0, {}

    def zero_grad(self):
        self.plain.zero_grad()
        for p in self.projected:
            p.grad = None

    @torch.no_grad()
    def step(self):
        self.plain.step()
        for p in self.projected:
            self.update(p)
        self.steps += 1

    def update(self, p):
        g, rank = p.grad, self.settings["rank"]
        right = g.shape[0] >= g.shape[1]
        state = self.state.setdefault(p, {})
        if self.steps % self.settings["update_every"] == 0:
            u, _, vt = torch.linalg.svd(g, full_matrices=False)
            state["basis"] = vt[:rank].T if right else u[:, :rank]
        basis = state["basis"]
        r = g @ basis if right else basis.T @ g
        m, v = state.get("m", torch.zeros_like(r)), state.get("v", torch.zeros_like(r))
        (b1, b2), t = self.betas, self.steps + 1
        state["m"], state["v"] = m, v = b1 * m + (1 - b1) * r, b2 * v + (1 - b2) * r * r
        normal = m / (1 - b1**t) / (v.sqrt() / math.sqrt(1 - b2**t) + self.eps)
        back = normal @ basis.T if right else basis @ normal
        p.mul_(1 - self.lr * self.weight_decay).sub_(back, alpha=self.lr * self.settings["scale"])


class IncreLora(Method):
    """Rank-one triplets B E A; the most important targets get another one after each step."""

    def __init__(self, model, settings):
        super().__init__(model, settings)
        self.targets = self.wrap(settings["target_modules"], lambda linear, name: Triplets(linear, name, settings))
        self.smooth = {name: (0.0, 0.0) for name in self.targets}

    def loss(self, out):
        parts = [target.orthogonality() for target in self.targets.values()]
        return out.loss + self.settings["orthogonality"] * torch.stack(parts).mean()

    @torch.no_grad()
    def after_step(self, step, optimizer):
        b1, b2 = self.settings["beta1"], self.settings["beta2"]
        scores = {}
        for name, target in self.targets.items():
            mean, spread = self.smooth[name]
            now = target.importance()
            mean = b1 * mean + (1 - b1) * now
            spread = b2 * spread + (1 - b2) * abs(now - mean)
            self.smooth[name] = mean, spread
            scores[name] = mean * spread
        left = self.settings["rank_target"] * len(self.targets) - sum(t.active for t in self.targets.values())
        if step % self.settings["grow_every"] == 0:
            best = sorted(scores, key=scores.get, reverse=True)  # stable: the first of equals stays first
            for name in best[:min(self.settings["grow_modules"], left)]:
                optimizer.add_param_group({"params": self.targets[name].grow()})


class Triplets(Adapted):
    """`active` triplets, and one more in reserve, whose E stays zero."""

    def __init__(self, base, name, settings):
        super().__init__(base)
        self.name, self.scale = name, settings["alpha"] / settings["rank_target"]
        self.active = settings["rank_start"]
        self.lora_A, self.lora_E, self.lora_B = nn.ParameterList(), nn.ParameterList(), nn.ParameterList()
        for _ in range(self.active + 1):
            self.append(torch.randn(1, base.in_features) * 0.02, torch.randn(base.out_features, 1) * 0.02)
        self.lora_E[-1].requires_grad_(False)

    def append(self, a, b):
        kind = self.base.weight
        for parameters, values in ((self.lora_A, a), (self.lora_E, torch.zeros(1, 1)), (self.lora_B, b)):
            parameters.append(nn.Parameter(values.to(kind)))

    def grow(self):
        """Activate the reserve, draw a new one; what the optimizer does not have yet."""
        index = len(self.lora_E)
        started = self.lora_E[-1].requires_grad_(True)
        draw = lambda letter, shape: stream(fnv1a64(f"{self.name}.{letter}.{index}"), shape) * (0.02 * math.sqrt(3))
        self.append(draw("A", (1, self.base.in_features)), draw("B", (self.base.out_features, 1)))
        self.lora_E[-1].requires_grad_(False)
        self.active += 1
        return [started, self.lora_A[-1], self.lora_B[-1]]

    def factors(self):
        """A [k, in], E [k], B [out, k] of every triplet. The reserve's E is zero: it adds nothing."""
        return torch.cat(list(self.lora_A)), torch.cat(list(self.lora_E)).flatten(), torch.cat(list(self.lora_B), 1)

    def branch(self, x):
        a, e, b = (t.narrow(dim, 0, self.active) for t, dim in zip(self.factors(), (0, 0, 1)))
        return (x @ a.T * e) @ b.T * self.scale

    def delta(self):
        a, e, b = self.factors()
        return b * e @ a * self.scale

    def orthogonality(self):
        a, _, b = self.factors()
        eye = torch.eye(len(a)).to(a)
        return (a @ a.T - eye).square().sum() + (b.T @ b - eye).square().sum()

    def importance(self):
        kinds = self.lora_A, self.lora_E, self.lora_B
        each = [sum((p[i] * p[i].grad).abs().mean().item() for p in kinds) for i in range(self.active)]
        return sum(each) / len(each)


METHODS = {
    "tied-lora": TiedLora,
    "dylora": DyLora,
    "qa-lora": QaLora,
    "longlora": LongLora,
    "nola": Nola,
    "galore": GaLore,
    "increlora": IncreLora,
}
