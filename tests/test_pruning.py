"""The tables of pruning say what their rows hold."""

from studies.pruning.report import Coded, Half, Stage, format_coded, format_halves, interpolate_quantised


def stage(method: str, removed: float, *coded: Coded) -> Stage:
    return Stage(method, removed, 10, 40, 90, 4, (1e-3, 2e-3), (1e-4, 1e-4), 2.0, 1.5, [1.0, 1.0], list(coded))


WHOLE = stage("whole", 0.0, Coded(8, 1000, 2.0, 5000.0, 6100.0), Coded(4, 500, 2.4, 5400.0, 6000.0))


def test_quantisation_alone_is_read_between_its_points_and_not_beyond() -> None:
    assert interpolate_quantised(WHOLE, 1000) == 2.0
    assert interpolate_quantised(WHOLE, 625) == 2.3
    assert interpolate_quantised(WHOLE, 499) is None
    assert interpolate_quantised(WHOLE, 1001) is None


def test_each_kind_of_pruning_is_held_against_the_unpruned_code() -> None:
    shorter = stage("saliency", 0.2, Coded(8, 800, 2.1, 5050.0, 5950.0), Coded(4, 400, 2.6, 5900.0, 6400.0))
    longer = stage("weights", 0.2, Coded(4, 450, 2.5, 5600.0, 6150.0))
    *_, unpruned, by_saliency, by_weights = format_coded([WHOLE, shorter, stage("norm", 0.2), longer]).splitlines()
    assert unpruned == "shortest: unpruned 6,000 bytes as 4 bits"
    assert by_saliency == "by saliency 5,950 as 8 bits: pruning shortens the two-part code (-50)"
    assert by_weights == "by weights 6,150 as 4 bits: pruning does not shorten the two-part code (+150)"


def test_blocks_and_mlps_stand_in_rows_of_their_own() -> None:
    halves = [Half(1, "heads", 0.1), Half(1, "MLP channels", 0.2), Half(2, "heads", 0.3), Half(2, "MLP", 0.4)]
    _, blocks, mlps = format_halves(halves).splitlines()
    assert blocks.split() == ["blocks", "0.1000", "0.3000"]
    assert mlps.split() == ["MLPs", "0.2000", "0.4000"]
