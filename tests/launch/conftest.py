"""What tests of the launchers share."""

import pytest

from launch.cli import main

DOMAINS = {"web": [1000]}
ANCHORS = [{"at": "0tok", "weights": {"web": 1}}]


@pytest.fixture
def launch_on(write_run, tmp_path, monkeypatch):
    """Launches a recipe for 32 ranks on a kind of cluster that this text describes; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "not-to-be-seen")
    recipe = write_run(DOMAINS, ANCHORS, global_train_batch_size=32)

    def run(kind, cluster, *more):
        (tmp_path / "cluster.yaml").write_text(cluster)
        return main(["launch", kind, "--cluster", "cluster.yaml", str(recipe), "run_name=a run", *more])

    return run
