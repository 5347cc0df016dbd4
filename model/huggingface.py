"""Our config as the config.json of transformers' DBRX, and back. The weights need no change: names and layout agree."""

import json
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from model.config import AttentionConfig, ModelConfig
from model.errors import ModelError
from model.ffn_config import Activation, FFNConfig
from model.rope_config import RopeParameters, RopeType

CONFIG_FILE = "config.json"
# transformers' clamp fails without a bound; this one is the largest that float16 has, and is read as none.
NO_CLIP = 65504.0

# Keys that transformers has under the same name, in the same place.
SHARED = {
    "d_model", "n_heads", "n_layers", "max_seq_len", "vocab_size", "resid_pdrop", "emb_pdrop", "initializer_range",
    "attn_config.attn_pdrop", "attn_config.kv_n_heads",
    "ffn_config.ffn_hidden_size", "ffn_config.moe_num_experts", "ffn_config.moe_top_k", "ffn_config.moe_jitter_eps",
    "ffn_config.moe_loss_weight", "ffn_config.moe_normalize_expert_weights",
}  # fmt: skip
# Keys that it has in another form.
CONVERTED = {"attn_config.clip_qkv", "attn_config.rope_theta", "ffn_config.activation"} | {
    f"rope_parameters.{field.name}" for field in fields(RopeParameters)
}
# Keys that change training or speed, not what the weights compute of one document. Tied weights are written twice.
UNNEEDED = {
    "tie_word_embeddings", "attn_implementation", "experts", "experts_gemm", "attend_across_documents",
    "ffn_config.moe_loss_per_layer", "ffn_config.moe_loss_scope", "ffn_config.moe_zloss_weight",
}  # fmt: skip

_WORDS = {float: "a number", int: "a whole number", bool: "true or false"}


def to_huggingface(config: ModelConfig, dtype: str) -> dict[str, Any]:
    """What config.json says of the model, for weights of `dtype` (such as float32).

    Raises:
        ModelError: transformers' DBRX can't compute what the config asks for; names the key.
    """
    for key, default, value in _beyond(config):
        raise ModelError(
            f"model.{key} is {value}, which transformers' DBRX can't express (only {default}); such a model can't be "
            "exported"
        )
    attention, ffn = config.attn_config, config.ffn_config
    content = _shared_keys(config)
    content["attn_config"] |= {
        "clip_qkv": NO_CLIP if attention.clip_qkv is None else attention.clip_qkv,
        "rope_theta": config.rope.rope_theta,  # must be here, but is read from rope_parameters
    }
    content["ffn_config"] |= {"ffn_act_fn": {"name": ffn.activation.value}}
    return content | {
        "rope_parameters": config.rope.given() | {"rope_type": config.rope.rope_type.value},
        "architectures": ["DbrxForCausalLM"],
        "model_type": "dbrx",
        "tie_word_embeddings": False,  # transformers' DBRX knows no other
        "output_router_logits": False,
        "use_cache": True,
        "dtype": dtype,
    }


def from_huggingface(path: Path) -> ModelConfig:
    """The config that a config.json describes: one of ours, of transformers', or the published DBRX's.

    Raises:
        ModelError: it can't be read, is of another architecture, or asks for what this model does not have.
    """
    content = read_json(path)
    if content.get("model_type") != "dbrx":
        raise ModelError(f"{path}: expected the model_type dbrx, found {content.get('model_type')!r}")
    if content.get("quantization_config"):
        raise ModelError(f"{path}: the weights are quantised (quantization_config); import needs them as they were")
    attention, ffn = (_section(content, name, path) for name in ("attn_config", "ffn_config"))
    rope = _rope(content, path)
    theta = rope.rope_theta or _typed(attention.get("rope_theta", 10_000), float, f"{path}: attn_config.rope_theta")
    config = ModelConfig(
        **_read(ModelConfig, content, "", path),
        attn_config=AttentionConfig(
            **_read(AttentionConfig, attention, "attn_config.", path),
            clip_qkv=_clip(attention.get("clip_qkv"), path),
            rope_theta=theta,
        ),
        ffn_config=FFNConfig(**_read(FFNConfig, ffn, "ffn_config.", path), activation=_activation(ffn, path)),
        rope_parameters=replace(rope, rope_theta=None),
    )
    for key, sentence in config.problems():
        raise ModelError(f"{path}: {key}: {sentence}")
    return config


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: it can't be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"can't read {path} ({error.strerror}); is this a Hugging Face folder?") from None
    except ValueError as error:
        raise ModelError(f"{path} is no valid JSON ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is damaged (not a JSON object); fetch it again")
    return content


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(key path, default, value) of every key."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, _default(field), value


def _default(field: Field) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _beyond(config: ModelConfig) -> Iterator[tuple[str, Any, Any]]:
    """(key path, default, value) of what changes the outputs and transformers has no word for."""
    for key, default, value in _leaves(config):
        if key not in SHARED | CONVERTED | UNNEEDED and value != default:
            yield key, _shown(default), _shown(value)


def _shown(value: Any) -> Any:
    plain = getattr(value, "value", value)
    return json.dumps(plain) if isinstance(plain, bool | None) else plain


def _shared_keys(config: ModelConfig) -> dict[str, Any]:
    content: dict[str, Any] = {"attn_config": {}, "ffn_config": {}}
    for key, _, value in _leaves(config):
        if key in SHARED:
            section, _, name = key.rpartition(".")
            (content[section] if section else content)[name] = value
    return content


def _section(content: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    section = content.get(name) or {}
    if not isinstance(section, dict):
        raise ModelError(f"{path}: {name}: expected an object, found {section!r}")
    return section


def _read(kind: type, content: Mapping[str, Any], prefix: str, path: Path) -> dict[str, Any]:
    """The shared keys of one section that it has, in the types of the dataclass `kind`."""
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind) if prefix + field.name in SHARED and field.name in content]
    return {name: _typed(content[name], hints[name], f"{path}: {prefix}{name}") for name in names}


def _typed(value: Any, hint: Any, where: str) -> Any:
    kinds: Iterable[Any] = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    if float in kinds and type(value) in (int, float):
        return float(value)
    if type(value) in kinds:
        return value
    expected = next(words for kind, words in _WORDS.items() if kind in kinds)
    raise ModelError(f"{where}: expected {expected}, found {value!r}")


def _clip(value: Any, path: Path) -> float | None:
    clip = _typed(value, float | None, f"{path}: attn_config.clip_qkv")
    return None if clip == NO_CLIP else clip


def _rope(content: Mapping[str, Any], path: Path) -> RopeParameters:
    """transformers' `rope_parameters`, or the `rope_scaling` that it was before 5.0; the published config has none."""
    name = "rope_parameters" if content.get("rope_parameters") else "rope_scaling"
    section = {key: value for key, value in _section(content, name, path).items() if value is not None}
    older = section.pop("type", RopeType.default.value)  # transformers writes it beside the newer one
    kind = section.pop("rope_type", older)
    hints = get_type_hints(RopeParameters)
    for key in section:
        if key not in hints:
            raise ModelError(f"{path}: {name}.{key}: no such key is known here")
    if kind not in RopeType.__members__:
        raise ModelError(f"{path}: {name}.rope_type: expected {' or '.join(RopeType.__members__)}, found {kind!r}")
    values = {key: _typed(value, hints[key], f"{path}: {name}.{key}") for key, value in section.items()}
    return RopeParameters(RopeType(kind), **values)


def _activation(ffn: Mapping[str, Any], path: Path) -> Activation:
    name = _section(ffn, "ffn_act_fn", path).get("name", Activation.silu.value)
    try:
        return Activation(name)
    except ValueError:
        known = " or ".join(activation.value for activation in Activation)
        raise ModelError(f"{path}: ffn_config.ffn_act_fn: expected {known}, found {name!r}") from None
