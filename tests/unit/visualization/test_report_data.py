"""Statistics of labels for the report."""

from __future__ import annotations

from ssd_train.data.structures import ClassNames, LabeledImage, LabelIssue, Labels
from ssd_train.visualization.report_data import RELATIVE_SIZE_EDGES, Reason, summarise


def test_summarise_counts_images_boxes_and_issues():
    records = (
        LabeledImage("a", [[0, 0, 100, 100], [0, 0, 10, 10]], [0, 1], (100, 100)),
        LabeledImage("b", [], [], (100, 100)),
        LabeledImage("c", [[0, 0, 50, 50]], [1], (200, 50)),
        LabeledImage("d", [[0, 0, 5, 5]], [1]),
    )
    skipped = [LabelIssue(f"m:{n}", "failed") for n in range(5)] + [LabelIssue("m:9", "no label", "why")]
    one = summarise("train", Labels(records, ClassNames(("x", "y")), (skipped[5], *skipped[:5])))
    assert (one.name, one.images, one.background_images, one.boxes_per_class) == ("train", 4, 1, (1, 3))
    assert one.image_sizes == {(100, 100): 2, (200, 50): 1}
    # relative sizes 1.0, 0.1 and 0.5; the box in the image of unknown size does not count
    filled = [RELATIVE_SIZE_EDGES[index] for index, count in enumerate(one.relative_sizes) if count]
    assert filled == [0.1, 0.5, 0.7] and sum(one.relative_sizes) == 3
    assert one.skipped == (Reason("failed", 5, ("m:0", "m:1", "m:2")), Reason("no label", 1, ("m:9 (why)",)))
    assert one.repaired == ()
