"""`brickyard export`, `import` and `generate` as a person sees them: round trips, folders that load, clear mistakes."""

import io
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from launch.cli import main
from model.config import AttentionConfig, AttentionImplementation, ExpertsImplementation
from model.ffn_config import LossScope
from model.huggingface import from_huggingface
from train.checkpoints.contents import MODEL, Contents, read_contents
from train.checkpoints.weights import CheckpointWeights

from interchange import CONFIG, SENTENCES, TOKENIZER, write_checkpoint

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of several safetensors files; do not change it."""
    root = tmp_path_factory.mktemp("exported")
    write_checkpoint(root / "checkpoint")
    assert main(["export", str(root / "checkpoint"), str(root / "folder"), "--max-shard-size", "40kb"]) == 0
    return root / "folder"


def weights_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    weights = CheckpointWeights(checkpoint)
    return {name: weights.read(name) for name in weights.shapes}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "config",
    [CONFIG, replace(CONFIG, tie_word_embeddings=True), replace(CONFIG, attn_config=AttentionConfig(kv_n_heads=4))],
    ids=["plain", "tied", "no-clip"],
)
def test_the_round_trip_is_bit_equal(tmp_path: Path, config: Any, dtype: torch.dtype) -> None:
    model = write_checkpoint(tmp_path / "checkpoint", config, seed=7, dtype=dtype)
    checkpoint, folder, back, again = (str(tmp_path / name) for name in ("checkpoint", "folder", "back", "again"))
    assert main(["export", checkpoint, folder, "--max-shard-size", "40kb"]) == 0
    assert main(["import", folder, back]) == 0
    assert main(["export", back, again, "--max-shard-size", "40kb"]) == 0
    assert files_of(tmp_path / "again") == files_of(tmp_path / "folder")
    found = weights_of(tmp_path / "back")
    assert found.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert found[name].dtype is dtype
        assert found[name].equal(tensor), name
    contents = read_contents(tmp_path / "back")
    assert contents.model == config
    assert contents.tokenizer is not None
    assert contents.tokenizer.ranks == TOKENIZER.ranks
    assert contents.tokenizer.end_of_text == TOKENIZER.end_of_text


def test_one_file_or_several_are_imported_alike(tmp_path: Path, exported: Path) -> None:
    single = tmp_path / "single"
    shutil.copytree(exported, single)
    tensors = {name: tensor for file in single.glob("model-*") for name, tensor in load_file(file).items()}
    for file in single.glob("model*safetensors*"):
        file.unlink()
    # Older ports saved the rotary frequencies as well.
    save_file({**tensors, "transformer.rotary_emb.inv_freq": torch.ones(4)}, single / "model.safetensors")
    assert main(["import", str(single), str(tmp_path / "one")]) == 0
    assert main(["import", str(exported), str(tmp_path / "several")]) == 0
    one, several = weights_of(tmp_path / "one"), weights_of(tmp_path / "several")
    assert one.keys() == several.keys()
    assert all(one[name].equal(several[name]) for name in one)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_transformers_loads_and_generates(exported: Path, implementation: str, capsys: Capture) -> None:
    """Greedy, from a text: what `brickyard generate` says and what transformers says."""
    tokenizer = AutoTokenizer.from_pretrained(exported, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(exported, local_files_only=True, attn_implementation=implementation)
    assert tokenizer.is_fast
    for line in SENTENCES:
        assert tokenizer(line).input_ids == TOKENIZER.encoding.encode_ordinary(line)
    prompt = tokenizer("the brick", return_tensors="pt")
    unused = [*range(TOKENIZER.vocab_size, CONFIG.vocab_size)]  # ids without a text, which a trained model avoids
    ids = model.generate(**prompt, max_new_tokens=8, do_sample=False, suppress_tokens=unused)
    expected = tokenizer.decode(ids[0, prompt.input_ids.shape[1] :], skip_special_tokens=True)
    checkpoint = exported.parent / "checkpoint"
    options = ["--prompt", "the brick", "--max-new-tokens", "8", "--temperature", "0"]
    assert main(["generate", str(checkpoint), *options]) == 0
    assert capsys.readouterr().out == expected + "\n"
    assert len(expected) > 3


def test_special_tokens_and_the_chat_template(exported: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(exported, local_files_only=True)
    assert (tokenizer.eos_token_id, tokenizer.bos_token_id) == (TOKENIZER.end_of_text, TOKENIZER.end_of_text)
    pad, turn, end = (tokenizer.convert_tokens_to_ids(token) for token in ("<|pad|>", "<|im_start|>", "<|im_end|>"))
    assert (pad, turn, end) == (300, 301, 302)  # the first ids after the tokenizer's
    assert tokenizer.pad_token_id == pad
    text = "a brick<|endoftext|>"
    assert tokenizer(text).input_ids == TOKENIZER.encoding.encode(text, allowed_special="all")
    assert tokenizer(text, split_special_tokens=True).input_ids == TOKENIZER.encoding.encode_ordinary(text)
    chat = [{"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": "the wall?"}]
    spelled = "<|im_start|>system\n Be brief.\n<|im_end|>\n<|im_start|>user\nthe wall?<|im_end|>\n"
    assert tokenizer.apply_chat_template(chat, tokenize=False) == spelled
    asked = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert asked == spelled + "<|im_start|>assistant\n"
    ids = tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
    assert [ids.count(id) for id in (turn, end)] == [2, 2]
    generation = GenerationConfig.from_pretrained(exported)
    assert generation.eos_token_id == [TOKENIZER.end_of_text, end]
    assert generation.pad_token_id == pad


def test_without_room_in_the_vocabulary_the_template_is_text(tmp_path: Path, capsys: Capture) -> None:
    write_checkpoint(tmp_path / "checkpoint", replace(CONFIG, vocab_size=302))
    assert main(["export", str(tmp_path / "checkpoint"), str(tmp_path / "folder")]) == 0
    assert "no ids left for the chat template's marks" in capsys.readouterr().out
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder", local_files_only=True)
    assert len(tokenizer) == 300
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == TOKENIZER.end_of_text
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], return_dict=True)["input_ids"]
    assert tokenizer.decode(asked) == "<|im_start|>user\nx<|im_end|>\n"
    assert GenerationConfig.from_pretrained(tmp_path / "folder").eos_token_id == [TOKENIZER.end_of_text]
    # A padding_idx would keep end-of-text's embedding from ever being trained by transformers.
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", local_files_only=True)
    assert model.get_input_embeddings().padding_idx is None


def test_another_dtype(tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "checkpoint")
    assert main(["export", str(tmp_path / "checkpoint"), str(tmp_path / "folder"), "--dtype", "bfloat16"]) == 0
    for name, tensor in load_file(tmp_path / "folder" / "model.safetensors").items():
        assert tensor.equal(model.state_dict()[name].bfloat16())
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "folder", local_files_only=True).dtype is torch.bfloat16


def test_each_tensor_keeps_its_dtype(tmp_path: Path) -> None:
    """Of a folder in bfloat16, whose routers and norms are often float32."""
    write_checkpoint(tmp_path / "checkpoint")
    assert main(["export", str(tmp_path / "checkpoint"), str(tmp_path / "folder")]) == 0
    file = tmp_path / "folder" / "model.safetensors"
    exact = ("router", "norm_1", "norm_2", "norm_f")
    tensors = load_file(file)
    mixed = {
        name: tensor if any(word in name for word in exact) else tensor.bfloat16() for name, tensor in tensors.items()
    }
    save_file(mixed, file, metadata={"format": "pt"})
    assert main(["import", str(tmp_path / "folder"), str(tmp_path / "back")]) == 0
    assert main(["export", str(tmp_path / "back"), str(tmp_path / "again")]) == 0
    found = load_file(tmp_path / "again" / "model.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32, torch.bfloat16}
    for name, tensor in mixed.items():
        assert found[name].dtype is tensor.dtype
        assert found[name].equal(tensor), name
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "again", local_files_only=True).dtype is torch.bfloat16


# What is done to a folder, and the words of the sentence that follows.
def lack_shard(folder: Path) -> None:
    next(folder.glob("model-00002-of-*")).unlink()


def truncate_shard(folder: Path) -> None:
    path = next(folder.glob("model-00002-of-*"))
    path.write_bytes(path.read_bytes()[:-100])


def lack_tensor(folder: Path) -> None:
    change_index(folder, lambda weight_map: weight_map.pop("transformer.blocks.1.ffn.experts.mlp.v1"))


def lack_layer(folder: Path) -> None:
    change_config(folder, n_layers=3)


def change_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def change_config(folder: Path, **keys: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def other_names(folder: Path) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    save_file({"model.layers.0.mlp.up_proj.weight": torch.zeros(2, 2)}, folder / "model.safetensors")


MISTAKES: list[tuple[Callable[[Path], object], str]] = [
    (lack_shard, "is missing, and model.safetensors.index.json names it; fetch it again"),
    (truncate_shard, "is truncated or damaged"),
    (lack_tensor, "lacks the tensor transformer.blocks.1.ffn.experts.mlp.v1, which its config asks for"),
    (lack_layer, "lacks the tensor transformer.blocks.2.norm_attn_norm.norm_1.weight and 7 more"),
    (other_names, "lacks the tensor transformer.wte.weight and 18 more"),
    (lambda folder: change_config(folder, vocab_size=321), "its config asks for [321, 32], found [320, 32]"),
    (lambda folder: change_config(folder, n_layers=1), "has a tensor transformer.blocks.1."),
    (lambda folder: change_config(folder, model_type="mixtral"), "expected the model_type dbrx, found 'mixtral'"),
    (lambda folder: (folder / "config.json").write_text("{"), "config.json is no valid JSON"),
    (lambda folder: (folder / "config.json").unlink(), "is this a Hugging Face folder?"),
    (lambda folder: (folder / "model.safetensors.index.json").write_text("[]"), "is damaged (not a JSON object)"),
    (lambda folder: (folder / "tokenizer.json").write_text("{}"), "tokenizer.json is damaged"),
    (lambda folder: shutil.rmtree(folder), "no such folder"),
]


@pytest.mark.parametrize(("damage", "words"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_folder_that_is_wrong_ends_in_one_sentence(
    tmp_path: Path, exported: Path, damage: Callable[[Path], object], words: str, capsys: Capture
) -> None:
    folder, out = tmp_path / "folder", tmp_path / "out"
    shutil.copytree(exported, folder)
    damage(folder)
    assert main(["import", str(folder), str(out)]) == 2
    sentence = capsys.readouterr().err
    assert sentence.startswith("brickyard import: ")
    assert sentence.count("\n") == 1
    assert words in sentence
    assert not out.exists()
    assert not [*tmp_path.glob(".partial-*")]


def test_a_folder_without_a_tokenizer_is_imported_and_says_so(tmp_path: Path, exported: Path, capsys: Capture) -> None:
    folder, back = tmp_path / "folder", tmp_path / "back"
    shutil.copytree(exported, folder)
    (folder / "tokenizer.json").unlink()
    assert main(["import", str(folder), str(back)]) == 0
    assert "without a tokenizer" in capsys.readouterr().out
    assert main(["generate", str(back), "--prompt", "x"]) == 2
    assert "has no tokenizer" in capsys.readouterr().err
    assert main(["export", str(back), str(tmp_path / "again")]) == 0
    assert not (tmp_path / "again" / "tokenizer.json").exists()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "again", local_files_only=True) is not None


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path, exported: Path, capsys: Capture) -> None:
    write_checkpoint(tmp_path / "checkpoint", replace(CONFIG, vocab_size=299))
    bare = tmp_path / "bare"
    shutil.copytree(tmp_path / "checkpoint", bare)
    shutil.rmtree(bare / "tokenizer")
    assert main(["export", str(bare), str(tmp_path / "folder")]) == 0
    shutil.copy(exported / "tokenizer.json", tmp_path / "folder")
    assert main(["import", str(tmp_path / "folder"), str(tmp_path / "back")]) == 2
    assert "its tokenizer has 303 ids, its model 299" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["export", "import"])
def test_a_folder_in_use_is_left_alone(tmp_path: Path, exported: Path, command: str, capsys: Capture) -> None:
    out = tmp_path / "out"
    out.mkdir()
    source = exported if command == "import" else exported.parent / "checkpoint"
    assert main([command, str(source), str(out)]) == 0  # empty: taken
    before = files_of(out) if command == "export" else {path.name for path in out.iterdir()}
    assert main([command, str(source), str(out)]) == 2
    assert f"{out} is there already and is not empty" in capsys.readouterr().err
    assert before == (files_of(out) if command == "export" else {path.name for path in out.iterdir()})
    (tmp_path / "file").touch()
    assert main([command, str(source), str(tmp_path / "file")]) == 2
    assert main([command, str(source), str(tmp_path / "file" / "below")]) == 2
    assert "can't be written" in capsys.readouterr().err


def test_a_link_to_an_empty_folder_is_followed(tmp_path: Path, exported: Path) -> None:
    (tmp_path / "disk" / "empty").mkdir(parents=True)
    for name in ("empty", "new"):
        out = tmp_path / name
        out.symlink_to(tmp_path / "disk" / name)
        assert main(["export", str(exported.parent / "checkpoint"), str(out)]) == 0
        assert out.is_symlink()
        assert (tmp_path / "disk" / name / "config.json").is_file()
    assert not [*tmp_path.rglob(".partial-*")]


def test_the_working_directory_is_refused_at_once(
    tmp_path: Path, exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("launch.import_.write_weights", lambda *_: pytest.fail("the weights were written"))
    assert main(["import", str(exported), "."]) == 2
    assert capsys.readouterr().err == (
        "brickyard import: . is the working directory, or has a disk of its own; name a new folder in it\n"
    )


class Harm:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_checkpoint_from_elsewhere_runs_no_code(tmp_path: Path, capsys: Capture) -> None:
    write_checkpoint(tmp_path / "checkpoint")
    metadata = tmp_path / "checkpoint" / ".metadata"
    metadata.write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    for command in (["export", str(tmp_path / "out")], ["generate", "--prompt", "x"]):
        assert main([command[0], str(tmp_path / "checkpoint"), *command[1:]]) == 2
        assert "which no checkpoint needs; it is not opened" in capsys.readouterr().err
    assert not (tmp_path / "harm").exists()
    pickle.loads(metadata.read_bytes())  # it would have
    assert (tmp_path / "harm").exists()


def break_metadata(checkpoint: Path) -> None:
    path = checkpoint / ".metadata"
    path.write_bytes(path.read_bytes()[:-20])


def break_tensor(checkpoint: Path) -> None:
    path = max(checkpoint.glob("*.distcp"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:-500])


def change_model(checkpoint: Path, before: str, after: str) -> None:
    path = checkpoint / MODEL
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (break_metadata, ".metadata is damaged"),
        (break_tensor, "checkpoint is damaged: "),
        (lambda folder: next(folder.glob("*.distcp")).unlink(), "is damaged: can't read"),
        (lambda folder: (folder / MODEL).unlink(), "an older Brickyard wrote this checkpoint"),
        (lambda folder: change_model(folder, "d_model: 32", "d_model: much"), "d_model: expected a whole number"),
        (lambda folder: change_model(folder, "d_model: 32", "d_model: 64"), "its config asks for"),
        (lambda folder: (folder / "tokenizer" / "ranks.tiktoken").write_text(""), "is not the file that"),
        (lambda folder: (folder / ".metadata").unlink(), "is no checkpoint, and no run that has saved one"),
        (lambda folder: shutil.rmtree(folder), "no such folder"),
    ],
    ids=range(9),
)
@pytest.mark.parametrize("command", ["export", "generate"])
def test_a_checkpoint_that_is_wrong_ends_in_one_sentence(
    tmp_path: Path, command: str, damage: Callable[[Path], object], words: str, capsys: Capture
) -> None:
    checkpoint = tmp_path / "checkpoint"
    write_checkpoint(checkpoint)
    damage(checkpoint)
    rest = [str(tmp_path / "out")] if command == "export" else ["--prompt", "x"]
    assert main([command, str(checkpoint), *rest]) == 2
    sentence = capsys.readouterr().err.splitlines()[-1]
    assert sentence.startswith(f"brickyard {command}: ")
    assert words in sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"uniform_expert_assignment": True}, "model.ffn_config.uniform_expert_assignment is true"),
        ({"moe_bias_update_rate": 0.001}, "model.ffn_config.moe_bias_update_rate is 0.001"),
        ({"first_k_dense_replace": 1}, "model.ffn_config.first_k_dense_replace is 1"),
    ],
)
def test_what_dbrx_cannot_express_is_refused_by_its_key(
    tmp_path: Path, keys: dict[str, Any], sentence: str, capsys: Capture
) -> None:
    """The model itself still gives text, biases and dense layers included."""
    write_checkpoint(tmp_path / "checkpoint", replace(CONFIG, ffn_config=replace(CONFIG.ffn_config, **keys)))
    assert main(["export", str(tmp_path / "checkpoint"), str(tmp_path / "out")]) == 2
    assert f"brickyard export: {sentence}, which transformers' DBRX can't express" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert len(generated(tmp_path / "checkpoint", capsys, "--prompt", "the")) > 3


def test_keys_of_training_alone_are_left_out(tmp_path: Path) -> None:
    ffn = replace(
        CONFIG.ffn_config, moe_loss_scope=LossScope.global_batch, moe_zloss_weight=0.001, moe_loss_per_layer=True
    )
    write_checkpoint(tmp_path / "checkpoint", replace(CONFIG, ffn_config=ffn))
    assert main(["export", str(tmp_path / "checkpoint"), str(tmp_path / "out")]) == 0
    assert from_huggingface(tmp_path / "out" / "config.json") == CONFIG


def test_a_folder_that_is_to_be_imported_says_so(exported: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["generate", str(exported), "--prompt", "x"]) == 2
    assert f"is a Hugging Face folder; `brickyard import {exported} OUT`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--max-new-tokens", "0"], "expected a whole number of at least 1, found '0'"),
        (["--temperature", "-1"], "expected a number of at least 0, found '-1'"),
        (["--temperature", "nan"], "expected a number of at least 0, found 'nan'"),
        (["--top-p", "0"], "expected a number above 0 and at most 1, found '0'"),
        (["--top-p", "much"], "expected a number above 0 and at most 1, found 'much'"),
    ],
)
def test_options_that_make_no_sense(option: list[str], words: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["generate", "anywhere", "--prompt", "x", *option])
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


def test_a_shard_size_that_makes_no_sense(exported: Path, tmp_path: Path, capsys: Capture) -> None:
    checkpoint = str(exported.parent / "checkpoint")
    assert main(["export", checkpoint, str(tmp_path / "out"), "--max-shard-size", "large"]) == 2
    assert "--max-shard-size: expected a size such as 5gb, found 'large'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def generated(checkpoint: Path, capsys: Capture, *options: str) -> str:
    assert main(["generate", str(checkpoint), *options]) == 0
    return capsys.readouterr().out


def test_generation_repeats_with_its_seed_and_reads_stdin(
    exported: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = exported.parent / "checkpoint"
    long = ["--max-new-tokens", "40"]
    once = generated(checkpoint, capsys, "--prompt", "the wall", *long)
    assert len(once) > 20
    assert once == generated(checkpoint, capsys, "--prompt", "the wall", *long)
    assert once != generated(checkpoint, capsys, "--prompt", "the wall", *long, "--seed", "1")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the wall"), "utf-8"))
    assert once == generated(checkpoint, capsys, "--prompt", "-", *long)
    broken = generated(checkpoint, capsys, "--prompt", "the \ufffd wall", *long)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"the \xff wall"), "utf-8"))
    assert broken == generated(checkpoint, capsys, "--prompt", "-", *long)
    assert generated(checkpoint, capsys, "--prompt", "", *long) != ""


def test_an_imported_config_is_what_was_exported(exported: Path) -> None:
    assert from_huggingface(exported / "config.json") == CONFIG


def test_a_model_trained_on_other_machines_gives_text_here(tmp_path: Path, capsys: Capture) -> None:
    plain = replace(CONFIG, ffn_config=replace(CONFIG.ffn_config, ffn_hidden_size=32))
    config = replace(
        plain,
        attn_implementation=AttentionImplementation.flash_attention_2,
        experts=ExpertsImplementation.megablocks,
        attend_across_documents=False,
    )
    texts = []
    for name, of in (("plain", plain), ("elsewhere", config)):
        write_checkpoint(tmp_path / name, plain)
        Contents(of, TOKENIZER).write(tmp_path / name)
        texts.append(generated(tmp_path / name, capsys, "--prompt", "the kiln", "--max-new-tokens", "12"))
    assert texts[0] == texts[1]
    assert main(["export", str(tmp_path / "elsewhere"), str(tmp_path / "out")]) == 0
    assert "attends across documents; give it one document in a sequence" in capsys.readouterr().out
