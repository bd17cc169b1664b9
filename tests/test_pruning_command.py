"""Pruning a finished run, as its users start it."""

import json
from pathlib import Path

from dist import run
from small_run import SMALL
from trained_run import project_text, trained_run

EVALUATE = "launch/evaluate.py"


def test_stages_shrink_the_model_and_are_measured(tmp_path: Path) -> None:
    text = project_text()
    (tmp_path / "corpus.txt").write_bytes(text[:12_000])
    (tmp_path / "new.txt").write_bytes(text[12_000:15_000])
    trained_run(
        tmp_path, tmp_path / "corpus.txt", *SMALL, "--model.ngram_orders=[]", "--model.block=lstm attention"
    )  # fmt: skip

    arguments = [EVALUATE, "prune", str(tmp_path / "run"), f"--held_out={tmp_path / 'new.txt'}"]
    done = run(
        *arguments, "--remove=0.3,0.6", "--calibration_steps=4", "--retrain_steps=2", "--points=8,4",
        f"--png={tmp_path / 'picture'}", f"--json={tmp_path / 'stages.json'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for theme in ("light", "dark"):
        assert (tmp_path / f"picture-{theme}.png").read_bytes()[:4] == b"\x89PNG"
    written = json.loads((tmp_path / "stages.json").read_text())
    whole, *stages = written["stages"]
    assert [(one["layer"], one["kind"]) for one in written["halves"]] == [
        (1, "channels"), (1, "MLP channels"), (2, "heads"), (2, "MLP channels")
    ]  # fmt: skip
    report = json.loads((tmp_path / "run/report.json").read_text())
    assert whole["parameters"] == report["model"]["parameters"]
    assert whole["left"] == [1.0] * 4
    assert [stage["method"] for stage in stages] == ["saliency", "norm", "weights"] * 2
    for (ours, by_norm, by_weight), share in zip((stages[:3], stages[3:]), (0.3, 0.6), strict=True):
        # Not above the share. Below it as groups allow, and as rows and columns of what goes meet in a recurrence.
        assert share - 0.06 < ours["removed"] <= share
        assert ours["left"] == by_norm["left"]
        assert ours["parameters"] == by_norm["parameters"] == ours["memory_bytes"] / 4
        # Single weights that are zero leave tensors as large as they were.
        assert by_weight["removed"] == ours["removed"]
        assert by_weight["parameters"] == whole["parameters"]
        assert by_weight["coded"][0]["weight_bytes"] < whole["coded"][0]["weight_bytes"]
        for size in ("peak_bytes", "state_bytes"):
            assert ours[size] == by_norm[size] < by_weight[size] == whole[size]
        assert ours["peak_bytes"] > ours["memory_bytes"]
        assert whole["held_out_bits"] < 8.1
    parameters = [whole["parameters"], stages[0]["parameters"], stages[3]["parameters"]]
    assert parameters == sorted(set(parameters), reverse=True)
    fixed_bytes = sum(report["description_length"][f"{name}_bits"] for name in ("code", "tokenizer", "side")) / 8
    for stage in (whole, stages[0], stages[3]):
        for coded in stage["coded"]:
            assert abs(coded["weight_bytes"] + coded["corpus_bytes"] + fixed_bytes - coded["total_bytes"]) < 1
    # Eight bits change next to nothing.
    eight = stages[3]["coded"][0]
    assert abs(8 * eight["corpus_bytes"] / 12_000 - stages[3]["corpus_bits"]) < 0.05

    refused = run(*arguments, "--remove=0.5,0.4")
    assert refused.returncode == 2
    assert "--remove 0.5,0.4: give rising numbers" in refused.stderr
    refused = run(*arguments, "--corpus_lanes=3")
    assert refused.returncode == 2
    assert "--corpus_lanes 3: give a divisor of the run's 8 lanes" in refused.stderr
