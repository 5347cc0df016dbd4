"""Every mistake in a recipe ends in one sentence that says where it is, what was expected, and the nearest name."""

import importlib.util
from types import SimpleNamespace

import pytest
import torch

from data.errors import DataError
from launch.cli import main
from train.errors import RecipeError
from train.inputs import read_run

# (overrides, key that the sentence must name, words that it must have)
BAD_VALUES = [
    # unknown keys
    ("sede=3", "sede", "did you mean seed?"),
    ("modle.d_model=1", "override modle.d_model=1: modle", "did you mean model?"),
    ("model.d_modle=64", "model.d_modle", "did you mean d_model?"),
    ("model.ffn_config.moe_topk=2", "model.ffn_config.moe_topk", "did you mean moe_top_k?"),
    ("optimizer.learning_rate=1", "optimizer.learning_rate", "no such key"),
    ("dataset.pth=x", "dataset.pth", "did you mean path?"),
    ("curriculum.anchor=[]", "curriculum.anchor", "did you mean anchors?"),
    ("curriculum.anchors[0].weight={}", "curriculum.anchors[0].weight", "did you mean weights?"),
    ("wandb.modus=offline", "wandb.modus", "did you mean mode?"),
    ("checkpoints.keeplast=2", "checkpoints.keeplast", "did you mean keep_last?"),
    ("scheduler.warm_up=1ba", "scheduler.warm_up", "did you mean warmup?"),
    ("save_intervall=1ba", "save_intervall", "did you mean save_interval?"),
    # wrong types
    ("seed=abc", "seed", "expected a whole number"),
    ("seed=1.5", "seed", "expected a whole number"),
    ("seed=true", "seed", "expected a whole number"),
    ("seed=null", "seed", "found nothing"),
    ("optimizer.lr=fast", "optimizer.lr", "expected a number"),
    ("optimizer=3", "optimizer", "expected keys"),
    ("model.tie_word_embeddings=perhaps", "model.tie_word_embeddings", "expected true or false"),
    ("model.n_layers=[2]", "model.n_layers", "expected a whole number"),
    ("run_name=[a]", "run_name", "expected text"),
    ("curriculum.anchors=3", "curriculum.anchors", "expected a list"),
    ("curriculum.anchors=[3]", "curriculum.anchors[0]", "expected keys"),
    ("curriculum.anchors[0].weights=3", "curriculum.anchors[0].weights", "expected names and values"),
    ("curriculum.anchors[0].weights={1: 1}", "curriculum.anchors[0].weights.1", "expected a name, which may"),
    ("curriculum.anchors[0].weights.code=much", "curriculum.anchors[0].weights.code", "expected a number"),
    ("wandb.tags=demo", "wandb.tags", "expected a list"),
    # words out of a table
    ("precision=fp8", "precision", "expected fp32 or bf16"),
    ("scheduler.name=cosin", "scheduler.name", "did you mean cosine?"),
    ("optimizer.undecayed=[norm]", "optimizer.undecayed[0]", "did you mean norms?"),
    ("scheduler.decay_shape=minus_sqrt", "scheduler.decay_shape", "did you mean one_minus_sqrt?"),
    ("wandb.mode=ofline", "wandb.mode", "did you mean offline?"),
    ("curriculum.anchors[1].ramp=linaer", "curriculum.anchors[1].ramp", "did you mean linear?"),
    ("model.experts=megablock", "model.experts", "did you mean megablocks?"),
    ("model.ffn_config.moe_loss_scope=global", "model.ffn_config.moe_loss_scope", "did you mean global_batch?"),
    ("model.attn_implementation=flash", "model.attn_implementation", "sdpa or eager or flash_attention_2"),
    ("model.rope_parameters.rope_type=yarm", "model.rope_parameters.rope_type", "did you mean yarn?"),
    ("model.rope_parameter={rope_type: yarn}", "model.rope_parameter", "did you mean rope_parameters?"),
    ("model.attend_across_documents=no way", "model.attend_across_documents", "expected true or false"),
    ("parallel.activation_checkpoint=true", "parallel.activation_checkpoint", "did you mean activation_checkpointing?"),
    # times
    ("max_duration=12", "max_duration", "expected a time"),
    ("max_duration=12ep", "max_duration", "expected a time"),
    ("max_duration=0.5dur", "max_duration", "expected a time"),
    ("max_duration=0ba", "max_duration", "more than nothing"),
    ("max_duration=-5ba", "max_duration", "expected a time"),
    ("save_interval=0.5ba", "save_interval", "whole number of batches"),
    ("save_interval=often", "save_interval", "expected a time"),
    ("eval_interval=0ba", "eval_interval", "more than nothing"),
    ("scheduler.warmup=tomorrow", "scheduler.warmup", "expected a time"),
    ("scheduler.decay=0ba", "scheduler.decay", "more than nothing"),
    ("curriculum.anchors[1].at=soon", "curriculum.anchors[1].at", "expected a time"),
    ("curriculum.anchors[1].at=0tok", "curriculum.anchors[1].at", "after the anchor before"),
    ("curriculum.anchors[0].at=5tok", "curriculum.anchors[0].at", "first anchor at 0tok"),
    ("curriculum.anchors[0].ramp=linear", "curriculum.anchors[0].ramp", "no ramp"),
    # values out of range
    ("global_train_batch_size=0", "global_train_batch_size", "1 or more"),
    ("max_seq_len=1", "max_seq_len", "2 or more"),
    ("run_name=''", "run_name", "plain folder name"),
    ("run_name=../up", "run_name", "plain folder name"),
    ('run_name="two\\nlines"', "run_name", "plain folder name"),
    (f"run_name={300 * 'x'}", "run_name", "at most 200 bytes"),
    ("max_duration=1000000000Ttok", "max_duration", "expected at most 1,099,511,627,776 samples"),
    ("global_train_batch_size=10000000000000", "max_duration", "expected at most 1,099,511,627,776 samples"),
    ("seed=-1", "seed", "expected a number from 0"),
    ("curriculum.seed=-1", "curriculum.seed", "expected a number from 0"),
    ("optimizer.lr=0", "optimizer.lr", "above 0"),
    ("optimizer.lr=.nan", "optimizer.lr", "above 0"),
    ("optimizer.beta2=1", "optimizer.beta2", "not including, 1"),
    ("optimizer.weight_decay=-1", "optimizer.weight_decay", "0 or more"),
    ("optimizer.clip_norm=0", "optimizer.clip_norm", "above 0"),
    ("scheduler.final=2", "scheduler.final", "from 0 to 1"),
    ("checkpoints.keep_last=0", "checkpoints.keep_last", "1 or more"),
    ("on_spike.min_history=200", "on_spike.min_history", "at most window (128)"),
    ("on_spike.threshold=0", "on_spike.threshold", "above 0"),
    ("on_spike.non_finite=warn", "on_spike.non_finite", "skip_batch or rollback or stop"),
    ("checkpoints.remote=/backup", "checkpoints.remote", "expected an address such as"),
    ("checkpoints.keep_every=often", "checkpoints.keep_every", "expected a time such as"),
    ("dataset.num_workers=-1", "dataset.num_workers", "0 or more"),
    ("model.d_model=0", "model.d_model", ""),
    ("model.attn_config.clip_qkv=-8", "model.attn_config.clip_qkv", ""),
    ("model.resid_pdrop=1.5", "model.resid_pdrop", ""),
    ("model.ffn_config.moe_zloss_weight=-1", "model.ffn_config.moe_zloss_weight", "at least 0"),
    ("model.ffn_config.moe_bias_update_rate=0", "model.ffn_config.moe_bias_update_rate", "or null for no bias"),
    ("model.rope_parameters.factor=2", "model.rope_parameters.factor", "no such key with rope_type default"),
    ("model.rope_parameters.rope_type=linear", "model.rope_parameters.factor", "at least 1 with rope_type linear"),
    # combinations that can't be
    ("checkpoints.keep_every=6ba", "checkpoints.keep_every", "expected a multiple of save_interval (4 steps)"),
    ("model.attn_implementation=flash_attention_2", "model.attn_implementation", "expected precision bf16"),
    ("model.ffn_config.moe_top_k=5", "model.ffn_config.moe_top_k", "at most moe_num_experts (4)"),
    ("model.ffn_config.first_k_dense_replace=2", "model.ffn_config.first_k_dense_replace", "less than n_layers (2)"),
    ("model.ffn_config.dense_ffn_hidden_size=8", "model.ffn_config.dense_ffn_hidden_size", "no block is dense"),
    ("model.n_heads=5", "model.n_heads", "divisor of d_model (32)"),
    ("model.n_heads=32", "model.n_heads", "even"),
    ("model.attn_config.kv_n_heads=3", "model.attn_config.kv_n_heads", "divisor of n_heads (4)"),
    ("device_train_microbatch_size=3", "device_train_microbatch_size", "divisor of global_train_batch_size (8)"),
    ("model.max_seq_len=16", "model.max_seq_len", "at least max_seq_len (32)"),
    # curricula and datasets that do not fit each other
    ("curriculum.anchors=[]", "curriculum.anchors", "at least one anchor"),
    ("curriculum.anchors[0].weights.code=0.5", "curriculum.anchors[0].weights", "sum to 1, found 1.25"),
    ("curriculum.anchors[0].weights.code=-0.25", "curriculum.anchors[0].weights.code", "from 0 to 1"),
    ("curriculum.anchors[0].weights={prose: 0.5, cod: 0.5}", "curriculum.anchors[0].weights", "did you mean code?"),
    ("curriculum.anchors[0].weights={a/b: 1}", "curriculum.anchors[0].weights", "a domain cannot be called 'a/b'"),
    ("max_seq_len=64", "max_seq_len", "expected 32, the length of the samples"),
    ("dataset.tokenizer=cl100k_base", "dataset.tokenizer", "was tokenized with"),
    ("model.vocab_size=500", "model.vocab_size", "at least 512"),
    ("dataset.path=nowhere", "dataset.path", "no such folder"),
    # overrides and interpolation
    ("seed", "'seed'", "expected key=value"),
    ("=3", "'=3'", "expected key=value"),
    ("seed=[1", "seed=[1", ""),
    ("curriculum.anchors[9].at=0tok", "curriculum.anchors[9].at", ""),
    ("seed=${nothing}", "seed", "nothing"),
]

BAD_FILES = [
    ("", "expected `key: value` lines"),
    ("- a\n- b\n", "expected `key: value` lines"),
    ("just words", "no such key"),
    ("a: [1\nb: 2\n", "not valid YAML"),
    ("a: 1\n\tb: 2\n", "not valid YAML"),
    ("seed: 1\nseed: 2\n", "not valid YAML"),
    ("run_name: x\n", "this key is required"),
    ("null: 2\n", "cannot be read"),
    ("seed: ${\n", "cannot be read"),
    ("a: !!set {x}\n", "cannot be read"),
    ("!!python/object/apply:os.system ['true']\n", "not valid YAML"),
]


@pytest.mark.parametrize(("override", "key", "words"), BAD_VALUES, ids=[case[0] for case in BAD_VALUES])
def test_bad_value(workshop: SimpleNamespace, override: str, key: str, words: str) -> None:
    with pytest.raises((RecipeError, DataError)) as caught:
        read_run(workshop.recipe, [override])
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert key in sentence
    assert words in sentence


@pytest.mark.parametrize(("text", "words"), BAD_FILES)
def test_bad_file(workshop: SimpleNamespace, text: str, words: str) -> None:
    file = workshop.root / "bad.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_run(file, [])
    assert str(file) in str(caught.value)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "broken", "key"),
    [
        ("  d_model: 32", "  d_modle: 32", "model.d_modle"),
        (
            "    - {at: 0tok, weights: {prose: 0.75, code: 0.25}}",
            "    - {at: 0tok, weights: {prose: 0.8, code: 0.25}}",
            "anchors[0].weights",
        ),
        ("seed: 3", "seed: three", "seed"),
    ],
)
def test_the_line_is_named(workshop: SimpleNamespace, line: str, broken: str, key: str) -> None:
    text = workshop.recipe.read_text()
    number = text.splitlines().index(line) + 1
    file = workshop.root / "broken.yaml"
    file.write_text(text.replace(line + "\n", broken + "\n"))
    with pytest.raises(RecipeError, match=rf"broken\.yaml:{number}: .*"):
        read_run(file, [])


def test_a_batch_that_does_not_divide_over_the_ranks(
    workshop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(RecipeError, match=r"global_train_batch_size: expected a multiple of the number of ranks \(3\)"):
        read_run(workshop.recipe, [])
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(RecipeError, match="device_train_microbatch_size: expected a divisor of a rank's share"):
        read_run(workshop.recipe, [])


def test_flash_attention_where_it_is_missing(workshop: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """To look at such a recipe's plan, neither is needed."""
    flash = ["model.attn_implementation=flash_attention_2", "precision=bf16"]
    read_run(workshop.recipe, flash)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="flash-attn package, which is not installed"):
        read_run(workshop.recipe, flash, here=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(name=name))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RecipeError, match="needs a GPU, and there is none"):
        read_run(workshop.recipe, flash, here=True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    read_run(workshop.recipe, flash, here=True)


def test_a_domain_without_data(workshop: SimpleNamespace) -> None:
    with pytest.raises(RecipeError, match=r"no such domain in .*dataset.*it has code, prose"):
        read_run(workshop.recipe, ["curriculum.anchors[0].weights={prose: 0.5, poetry: 0.5}"])


def test_a_damaged_dataset(workshop: SimpleNamespace) -> None:
    shard = next((workshop.dataset / "code" / "train").glob("shard*"))
    content = shard.read_bytes()
    shard.write_bytes(content[:-1])
    try:
        with pytest.raises(DataError, match=shard.name):
            read_run(workshop.recipe, [])
    finally:
        shard.write_bytes(content)


def test_the_command_line_prints_one_sentence_and_ends_with_2(
    workshop: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("plan", "train"):
        assert main([command, str(workshop.recipe), "model.d_modle=3"]) == 2
        out, error = capsys.readouterr()
        assert out == ""
        assert error.count("\n") == 1
        assert "Traceback" not in error
    assert main(["plan", str(workshop.root / "recipe.yml")]) == 2
    assert "did you mean" in capsys.readouterr().err
    assert main(["report", str(workshop.root / "nowhere")]) == 2


def test_a_folder_that_can_not_be_is_said_before_anything_is_loaded(
    workshop: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(workshop.recipe), f"run_root={workshop.recipe}/runs"]) == 2
    out, error = capsys.readouterr()
    assert "loading" not in out and error.count("\n") == 1
    assert f"run_root: {workshop.recipe}/runs/" in error and "can't be written to (Not a directory)" in error


def test_the_good_recipe_is_good(workshop: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(workshop.recipe), "--json", "seed=4"]) == 0
    assert '"steps": 12' in capsys.readouterr().out
