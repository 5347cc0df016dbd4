"""Jobs that are run again, changed, mistaken, killed, or out of disk: the old dataset stays, work is reused."""

import json
import os
import resource
import shutil
import signal
import subprocess

import pytest

from data.errors import DataError
from data.manifest import Manifest, verify
from data.prepare import job
from data.prepare.job import prepare
from data.prepare.recipe import Domain, Source, SourceFormat, SparkChoice, TokenizerChoice, TokenizerKind
from data.prepare.stages import Stages

from corpus import IN_PROJECT, command, recipe, same_files, work_of


def test_a_rerun_does_nothing_and_a_change_is_noticed(root, two_cores, spark, tmp_path):
    manifest = two_cores / "manifest.json"
    before, said = manifest.stat().st_mtime_ns, []
    same = recipe(root, two_cores, spark=SparkChoice("local[7]", "3g"))
    assert prepare(same, said.append) == Manifest.read(two_cores)
    assert said == [f"{two_cores} is up to date: nothing to do"]
    assert manifest.stat().st_mtime_ns == before
    copy = tmp_path / "dataset"
    shutil.copytree(two_cores, copy)
    assert job._whole(copy) == Manifest.read(two_cores)
    shutil.rmtree(copy / "tokenizer")
    assert job._whole(copy) is None
    changed = recipe(root, copy, compression=None, max_seq_len=64, seed=6)
    prepare(changed, lambda line: None, spark)
    rebuilt = verify(copy)
    original = Manifest.read(two_cores)
    assert rebuilt.max_seq_len == 64 and rebuilt.recipe_fingerprint != original.recipe_fingerprint
    for name, domain in rebuilt.domains.items():  # the held-out documents depend on neither seed nor length
        assert {s: of.documents for s, of in domain.splits.items()} == {
            s: of.documents for s, of in original.domains[name].splits.items()
        }


def test_mistakes_end_in_a_sentence_and_leave_nothing(root, spark, tmp_path):
    def mistake(sentence, **changes):
        output = tmp_path / "out" / "dataset"
        with pytest.raises(DataError, match=sentence):
            prepare(recipe(root, output, **changes), lambda line: None, spark)
        left = [path.name for path in output.parent.iterdir()] if output.parent.exists() else []
        assert set(left) <= {".dataset.lock", ".dataset.work"}

    def domain(path, **of_source):
        return {"web": Domain([Source(str(path), **of_source)])}

    web, parquet = root / "web [1]" / "b.jsonl", root / "code.parquet"
    mistake(r"domains.web.sources\[0\].path: there is no file .*nowhere", domains=domain(root / "nowhere" / "*.jsonl"))
    mistake(r"text_column: none of the 30 records of .* has 'body'", domains=domain(web, text_column="body"))
    as_parquet = {"format": SourceFormat.parquet}
    mistake(r"has no column 'text'; it has content, path", domains=domain(parquet, **as_parquet))
    missing_origin = {**as_parquet, "text_column": "content", "origin_column": "url"}
    mistake(r"origin_column: .* has no column 'url'", domains=domain(parquet, **missing_origin))
    mistake("web: none of its .* held out; raise heldout_fraction", domains=domain(web), heldout_fraction=1e-9)
    mistake("web: every document is held out", domains=domain(web), heldout_fraction=0.999999)
    (tmp_path / "short.jsonl").write_text('{"text": "x"}\n{"text": ""}\nrubbish\n')
    left = r"no document is left \(read 3; dropped: malformed 1, empty 1, characters 1; duplicates 0\)"
    mistake(left, domains=domain(tmp_path / "short.jsonl", max_quarantined=0.5))
    many = r"1 of 3 records of .*short.jsonl can't be read \(malformed 1\), more than max_quarantined \(1.00%\)"
    mistake(many + "; for example short.jsonl: malformed: 'rubbish'", domains=domain(tmp_path / "short.jsonl"))
    (tmp_path / "_hidden.jsonl").write_text('{"text": "x"}\n')
    mistake("Spark passes over files whose name begins with '_'", domains=domain(tmp_path / "_hidden.jsonl"))


def test_a_folder_that_is_no_dataset_is_not_overwritten(root, tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    with pytest.raises(DataError, match="exists and is no prepared dataset; remove it or choose another folder"):
        prepare(recipe(root, tmp_path), lambda line: None)
    assert precious.read_text() == "mine"


def test_a_job_that_is_killed_again_and_again_does_each_stage_once(root, two_cores, spark, tmp_path, monkeypatch):
    class KilledError(BaseException):
        pass

    made = []

    def make(stages, name, depends_on, write, whole=""):
        def write_and_tell(folder):
            write(folder)
            made.append(name)

        before = len(made)
        stage = make_stage(stages, name, depends_on, write_and_tell, whole)
        if len(made) > before and len(made) % 3 == 0:
            raise KilledError
        return stage

    make_stage = Stages.make
    monkeypatch.setattr(Stages, "make", make)
    output = tmp_path / "dataset"
    for _ in range(20):
        try:
            prepare(recipe(root, output), lambda line: None, spark)
            break
        except KilledError:
            assert not output.exists()
    assert made == ["read"] * 3 + ["cleaned"] * 3 + ["unique", "tokenizer", "quarantine", "tokens", "shards"]
    assert same_files(output, two_cores)


def test_a_changed_recipe_redoes_what_depends_on_the_change(root, two_cores, spark, tmp_path):
    output, said = tmp_path / "dataset", []
    shutil.copytree(work_of(two_cores), work_of(output))

    def reused(**changes):
        said.clear()
        prepare(recipe(root, output, **changes), said.append, spark)
        return next(line for line in said if line.startswith("reused"))

    anew = "reused from an earlier run: "
    smaller = {"tokenizer": TokenizerChoice(TokenizerKind.train, vocab_size=300), "max_seq_len": 64}
    assert reused(**smaller) == anew + (
        "read (3), cleaned (3), unique (1), quarantine (1); made anew: tokenizer (1), tokens (1), shards (1)"
    )
    more = {"text": "one document more than there were before, and one more than any cleaning would take away"}
    (tmp_path / "more.jsonl").write_text(json.dumps(more) + "\n")
    domains = {"new": Domain([Source(str(tmp_path / "more.jsonl"))]), **recipe(root, output).domains}
    assert reused(**smaller, domains=domains, heldout_fraction=0.0).startswith(
        anew + "read (3), cleaned (3); made anew: read (1), cleaned (1), unique (1)"
    )
    kept = sorted(path.name.partition("-")[0] for path in work_of(output).iterdir())
    names = ["cleaned"] * 4 + ["hashes.json", "quarantine"] + ["read"] * 4 + ["tokenizer", "tokens", "unique"]
    assert kept == names, "of each stage, what the last recipe wants"
    cleaning = ["unicode", {"characters": {"min": 30}}]  # of one domain; the other has its own
    assert reused(**smaller, cleaning=cleaning, keep_work=False).startswith(
        anew + "read (3), cleaned (1); made anew: cleaned (2), unique (1)"
    )
    assert [path.name for path in work_of(output).iterdir()] == ["hashes.json"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_job_that_is_stopped_leaves_the_old_dataset_whole_and_goes_on(root, two_cores, spark, tmp_path, how):
    output = tmp_path / "dataset"
    shutil.copytree(two_cores, output)
    shutil.copytree(work_of(two_cores), work_of(output))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **IN_PROJECT}
    with subprocess.Popen(command(tmp_path, recipe(root, output, seed=99)), **pipes) as process:
        wanted = "writing" if how == signal.SIGKILL else "reading"
        assert process.stdout is not None and any(wanted in line for line in process.stdout)
        os.kill(process.pid, how)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 130)
    assert said == ("" if how == signal.SIGKILL else "brickyard prepare: interrupted\n")
    assert verify(output) == Manifest.read(two_cores)
    if how == signal.SIGKILL:
        said = []
        prepare(recipe(root, output, seed=99), said.append, spark)
        assert any(line.endswith("tokens (1); made anew: shards (1)") for line in said), said
        assert verify(output).seed == 99


def test_a_full_disk_is_one_sentence_and_the_next_run_goes_on(root, two_cores, spark, tmp_path):
    """Java may write no file of more than 2,000 bytes, which it finds out as it does that a disk is full."""
    output = tmp_path / "dataset"
    shutil.copytree(two_cores, output)
    shutil.copytree(work_of(two_cores), work_of(output))
    java = spark._jvm.ProcessHandle.current().pid()
    before = resource.prlimit(java, resource.RLIMIT_FSIZE)
    resource.prlimit(java, resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        with pytest.raises(DataError, match=r"^output: a disk is full \(File too large\): .* GB free; make room"):
            prepare(recipe(root, output, seed=98), lambda line: None, spark)
    finally:
        resource.prlimit(java, resource.RLIMIT_FSIZE, before)
    assert verify(output) == Manifest.read(two_cores)
    said = []
    prepare(recipe(root, output, seed=98), said.append, spark)
    assert any("reused from an earlier run: read (3), cleaned (3)" in line for line in said), said
    assert verify(output).seed == 98
