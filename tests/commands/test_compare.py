"""`nstray compare`: pairs joined, what differs, losses of both, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from outputs import make_output

from nstray import cli
from nstray.commands.compare import compare
from nstray.errors import OutputError, UsageError
from nstray.output.folder import Output
from nstray.reports import compared
from nstray.reports.compared import gather_compare


def halved(_name: str, rows: list[dict[str, Any]], _foot: dict[str, Any]) -> None:
    for row in rows:
        if row["status"] == "ok":
            row.update(loss_curve=[9.0, 4.0, 1.75], loss_total=1.75, loss_content=0.25, seconds=0.5)


def set_result(out: str, **settings: Any) -> None:
    """Change settings in the record of a finished output."""
    output = Output(out)
    job = output.job.read()
    job["result"].update(settings)
    Path(output.job_uri).write_text(json.dumps(job))


def test_pairs_of_the_same_id_stand_side_by_side(tmp_path: Path) -> None:
    left = make_output(tmp_path / "a", contents=4, styles=3, errors={"c1-s1": "too_small"})
    right = make_output(tmp_path / "b", contents=4, styles=3, change=halved, skip=["part-00000-0005.parquet"], finish=False)
    set_result(right.out, evaluations=60)
    found = compare(left.out, right.out, str(tmp_path / "c.html"))
    assert found.settings == (("evaluations", "500", "60"),)
    assert found.joined_on == "pair_id"
    assert (found.shown.n, found.shown.total) == (10, 10)
    assert (found.left.state, found.right.state) == ("complete", "incomplete")
    for pair in found.pairs:
        assert pair.left is not None
        assert pair.right is not None
        assert pair.left.pair_id == pair.right.pair_id == pair.pair_id
        assert pair.left.style == pair.right.style == pair.style
        assert pair.content
        assert pair.style_image
        assert pair.right.result
    failed = next(pair for pair in found.pairs if pair.pair_id == "c1-s1")
    assert failed.left is not None
    assert (failed.left.status, failed.left.result) == ("error", None)
    losses = {(loss.name, loss.style): loss for loss in found.losses}
    content = losses["loss_content", "s0.png"]
    assert (content.median_left, content.median_right, content.lower_right, content.of.n, content.comparable) == (0.5, 0.25, 4, 4, True)
    assert losses["seconds", "s0.png"].lower_right == 0
    assert losses["ratio", "s0.png"].comparable
    assert "evaluations" in (tmp_path / "c.html").read_text()


@pytest.mark.parametrize(
    ("settings", "comparable"),
    [
        ({"evaluations": 60, "optimizer": "adam"}, {"ratio", "loss_content", "loss_style"}),
        ({"style_weight": 10.0}, {"loss_content", "loss_style"}),
        ({"init": "noise"}, {"loss_content", "loss_style"}),
        ({"size": 512}, set()),
        ({"style_layers": ["conv1_1"]}, set()),
    ],
)
def test_losses_that_measure_something_else_are_not_compared(tmp_path: Path, settings: dict[str, Any], comparable: set[str]) -> None:
    left, right = make_output(tmp_path / "a"), make_output(tmp_path / "b")
    set_result(right.out, **settings)
    found = gather_compare(left.out, right.out)
    assert {loss.name for loss in found.losses if loss.comparable} == {"seconds", *comparable}


def test_other_ids_are_joined_on_their_images(tmp_path: Path) -> None:
    def renamed(_name: str, rows: list[dict[str, Any]], _foot: dict[str, Any]) -> None:
        for row in rows:
            row["pair_id"] = f"other-{row['pair_id']}"
            row["image"]["path"] = f"{row['pair_id']}.png"

    left = make_output(tmp_path / "a", contents=3, styles=2)
    right = make_output(tmp_path / "b", contents=3, styles=2, change=renamed)
    found = gather_compare(left.out, right.out)
    assert found.joined_on == "content and style"
    assert found.shown.total == 6
    assert all(pair.right is not None and pair.right.pair_id == f"other-{pair.pair_id}" for pair in found.pairs)
    assert any("no pair id in common" in note for note in found.notes)


def test_outputs_of_other_pairs_have_a_page_that_says_so(tmp_path: Path) -> None:
    def other(_name: str, rows: list[dict[str, Any]], _foot: dict[str, Any]) -> None:
        for row in rows:
            row.update(pair_id=f"other-{row['pair_id']}", content_sha256="0" * 64)
            row["image"]["path"] = f"{row['pair_id']}.png"

    left, right = make_output(tmp_path / "a"), make_output(tmp_path / "b", change=other)
    found = compare(left.out, right.out, str(tmp_path / "c.html"))
    assert found.pairs == ()
    assert any("no pair in common" in note for note in found.notes)


def test_of_large_outputs_the_same_pairs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = make_output(tmp_path / "a", contents=20, styles=4), make_output(tmp_path / "b", contents=20, styles=4)
    monkeypatch.setattr(compared, "MOST_PARTS", 20)
    monkeypatch.setattr(compared, "_SAMPLED_PARTS", 10)
    found = gather_compare(left.out, right.out)
    assert found.shown.total == 20, "both rows of each of ten parts"
    assert {pair.style for pair in found.pairs} == {f"s{i}.png" for i in range(4)}
    assert "20 of 80 rows and 20 of 80 rows" in found.sample


def test_mistakes_are_refused(tmp_path: Path) -> None:
    made = make_output(tmp_path)
    with pytest.raises(UsageError, match="takes two outputs"):
        compare(made.out, f"{made.out}/", str(tmp_path / "c.html"))
    with pytest.raises(OutputError, match="no nstray job"):
        compare(made.out, str(tmp_path / "nothing"), str(tmp_path / "c.html"))
    with pytest.raises(UsageError, match=r"\.html"):
        compare(made.out, made.out, str(tmp_path / "c.png"))
    assert not (tmp_path / "c.html").exists()


def test_the_command_says_what_differs(tmp_path: Path) -> None:
    left, right = make_output(tmp_path / "a"), make_output(tmp_path / "b")
    set_result(right.out, style_weight=10.0)
    page = tmp_path / "c.html"
    done = CliRunner().invoke(cli.cli, ["compare", left.out, right.out, "-o", str(page)])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == f"{page}: 6 pairs shown, joined on pair_id"
    assert lines[1] == "what differs: style_weight"
    assert page.exists()
