"""`brickyard dashboard`: a workspace that W&B's own library reads, as JSON beside the run."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import wandb
from wandb_server import WandbServer
from wandb_workspaces.reports.v2 import LinePlot
from wandb_workspaces.workspaces import Workspace
from wandb_workspaces.workspaces.internal import View

from launch.cli import main
from launch.dashboard import FILE

DOMAINS = {"web": [1000], "code": [1000]}
ANCHORS = [{"at": "0tok", "weights": {"web": 0.5, "code": 0.5}}]


@pytest.fixture
def recipe(write_run) -> str:
    return str(write_run(DOMAINS, ANCHORS, wandb={"mode": "offline", "entity": "us", "project": "bricks"}))


def written(recipe: str) -> Path:
    return Path(recipe).parent / "runs" / "test" / FILE


@pytest.fixture(autouse=True)
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """The W&B of this machine's user, who has no key."""
    server = WandbServer()
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    yield server
    wandb.teardown()  # it keeps what it has read of these


def test_without_a_key_it_is_json_alone(recipe: str, server: WandbServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", recipe, "wandb.mode=auto"]) == 0
    assert "with wandb.mode=online" in capsys.readouterr().out
    assert not server.views


def test_a_section_for_each_group_over_tokens(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", recipe]) == 0
    assert str(written(recipe)) in capsys.readouterr().out
    shown = Workspace._from_model(View.model_validate(json.loads(written(recipe).read_text())))
    assert (shown.entity, shown.project, shown.settings.x_axis) == ("us", "bricks", "tokens")
    assert [section.name for section in shown.sections] == [
        *("Loss", "Domains", "Mixture", "Experts", "Throughput", "Optimizer", "Memory")
    ]
    panels = [panel for section in shown.sections for panel in section.panels if isinstance(panel, LinePlot)]
    assert {panel.x.name for panel in panels} == {"tokens"}
    assert {panel.title for panel in panels} >= {"web", "code", "web: weight", "code: weight"}
    [web] = [panel for panel in panels if panel.title == "web"]
    assert [metric.name for metric in web.y] == ["domain/loss/web", "eval/domain/loss/web"]


def test_where_there_is_a_key_one_workspace_is_written_into_wandb(
    recipe: str, server: WandbServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", 40 * "0")
    for _ in range(2):
        assert main(["dashboard", recipe, "wandb.mode=auto"]) == 0
        assert f"{server.url}/us/bricks?nw=view" in capsys.readouterr().out
    first, again = server.views
    assert "id" not in first and again["id"] == "view"
    assert "domain/loss/web" in first["spec"] and "domain/loss/web" in again["spec"]
