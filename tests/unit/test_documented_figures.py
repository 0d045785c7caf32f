"""Figures of the tables of README.md, benchmarks/README.md and the training guide are those of benchmarks/results.

Tables between <!-- table NAME --> and <!-- end --> are written from the results; test_benchmarks.py compares them.
"""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RESULTS = {path.stem: json.loads(path.read_text("utf-8")) for path in (ROOT / "benchmarks" / "results").glob("*.json")}
SETS = ("raccoon", "bccd", "fruit")
SCREENING = next(key for key in RESULTS["quality_ablation"] if key.startswith("rows of a screening"))
SEARCH = next(key for key in RESULTS["quality_ablation"] if key.startswith("rows of the search"))
SCREENED = next(key for key in RESULTS["quality_ablation"] if key.startswith("levers screened"))
BOX_VOTING = next(key for key in RESULTS["quality_ablation"] if key.startswith("box voting"))


def tables_of(page):
    """Rows of cells by header, of the tables of a page that are not written by a program."""
    text = re.sub(r"<!-- table .*?<!-- end -->", "", (ROOT / page).read_text("utf-8"), flags=re.S)
    blocks = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    tables = {}
    for block in blocks:
        header, _, *rows = ([cell.strip() for cell in line.strip()[1:-1].split("|")] for line in block.splitlines())
        tables.setdefault(tuple(header), []).extend(rows)
    return tables


def figures_of(cell):
    """The numbers of a cell, each with half a unit of its last decimal."""
    texts = re.findall(r"[-+]?\d+(?:\.\d+)?", cell)
    return [(float(text), 0.5 * 10.0 ** -len(text.partition(".")[2])) for text in texts]


def differences(row, expected):
    """Cells of a row, by number, whose figures are not those expected."""
    wrong = []
    for column, values in expected.items():
        values = values if isinstance(values, (list, tuple)) else [values]
        found = figures_of(row[column])
        same = len(found) == len(values) and all(abs(f - v) <= half + 1e-9 for (f, half), v in zip(found, values))
        if not same:
            wrong.append(f"{row[column]!r}: expected {values}")
    return wrong


def only(rows, **fields):
    """The one row that has these fields."""
    (row,) = (row for row in rows if all(row.get(name.replace("_", " ")) == value for name, value in fields.items()))
    return row


def quality(name, epochs, settings=(), seed=1, day=None):
    rows = [row for row in RESULTS["quality"]["rows"] if row["who"] == "ssd_train" and "images" not in row]
    return only(rows, set=name, epochs=epochs, seed=seed, settings=list(settings), day=day)


def ours(name):
    return [quality(name, 12, seed=seed, day="2026-12-01") for seed in (1, 2, 3)]


def rival(name, seeds=(1, 2, 3)):
    rows = [row for row in RESULTS["quality"]["rows"] if row["who"] == "GluonCV recipe"]
    return [row for row in rows if row["set"] == name and row["epochs"] == 12 and row["seed"] in seeds]


def mean(rows, key):
    return statistics.mean(row[key] for row in rows)


def spread(rows, key):
    """Mean, and the standard deviation if there are several rows."""
    values = [row[key] for row in rows]
    return [statistics.mean(values), *([statistics.stdev(values)] if len(values) > 1 else [])]


def of_three_sets(row):
    name = row[0].split()[0]
    mine, theirs = ours(name), rival(name)
    return {
        2: 3,
        3: spread(mine, "mAP"),
        4: spread(mine, "mAP@0.5"),
        5: spread(mine, "last mAP"),
        6: spread(mine, "last mAP@0.5"),
        7: len(theirs),
        8: spread(theirs, "mAP"),
        9: spread(theirs, "mAP@0.5"),
        10: mean(mine, "last mAP") - mean(theirs, "mAP"),
    }


def of_advised(row):
    settings = ["feature_strides=8,16,..."] if "strides" in row[0] else []
    rows = [quality("bccd", 12, settings, seed, "2026-12-01") for seed in (1, 2, 3)]
    classes = [("AP", "Platelets"), ("AP@0.5", "Platelets"), ("AP", "RBC"), ("AP", "WBC")]
    by_class = {4 + index: spread([row[key] for row in rows], name) for index, (key, name) in enumerate(classes)}
    return {1: 3, 2: spread(rows, "mAP"), 3: spread(rows, "mAP@0.5"), **by_class}


LEVERS = {
    "learning rate 0.0005": "learning_rate 0.0005",
    "learning rate 0.002": "learning_rate 0.002",
    "batch 4, learning rate 0.001": "batch 4, learning_rate 0.001",
    "`--feature_strides 8,16,...`": "feature_strides 8,16,...",
}


def of_lever(row):
    expected = {}
    for index, name in enumerate(SETS):
        rows = [
            r
            for r in RESULTS["quality_ablation"][SCREENED]
            if (r["set"], r["row"]) == (name, LEVERS.get(row[0], row[0]))
        ]
        if row[0].startswith("default"):
            rows = ours(name)
        elif "strides" in row[0] and name == "bccd":
            rows = [quality(name, 12, ["feature_strides=8,16,..."], seed, "2026-12-01") for seed in (1, 2, 3)]
        if rows:
            expected.update({1 + 2 * index: mean(rows, "mAP"), 2 + 2 * index: mean(rows, "mAP@0.5")})
    return expected


def of_512_px(row):
    found = quality(row[0], 12, ["image_shape=512"], day="2026-12-01")
    sizes = [found["AP by size"][size] for size in ("medium", "large")]
    return dict(enumerate([found["mAP"], found["mAP@0.5"], *sizes, found["minutes"]], 1))


def of_third(row):
    rows = [one for one in RESULTS["quality"]["rows"] if "images" in one]
    found = only(rows, set=row[0], who="ssd_train", seed=1, epochs=12)
    sizes = [found["images"][part] for part in ("train", "choosing", "validation")]
    return {1: sizes, 2: found["saved epoch"], 3: found["mAP"], 4: found["mAP@0.5"], 5: found["intervals"]["mAP"]}


def in_equal_time(row):
    mine, theirs = quality(row[0], 40), rival(row[0], (2, 3))
    columns = ("minutes", "mAP", "mAP@0.5")
    return {
        1: 40,
        2: mine["minutes"],
        3: mine["mAP"],
        4: mine["mAP@0.5"],
        5: 12,
        **{6 + index: [one[key] for one in theirs] for index, key in enumerate(columns)},
    }


TRAINERS = ("ssd_train", "YOLO11n")


def of_time_to_score(row):
    found = only(RESULTS["time_to_score"]["rows"], set=row[0])
    keys = ("GluonCV's mAP", "its seconds", "epoch", "mAP", "seconds", "share")
    return {1 + index: found[key] for index, key in enumerate(keys)}


def of_ultralytics(row):
    mine, theirs = (only(RESULTS["ultralytics"]["rows"], set=row[0], who=who) for who in TRAINERS)
    scores = [found[key] for found in (mine, theirs) for key in ("epochs", "mAP", "mAP@0.5")]
    return {1: [mine["seconds"], theirs["seconds"]], **dict(enumerate(scores, 2))}


OWN, EVEN, COARSE = "SSD's own", "0.2,0.56,0.658,0.756,0.854,0.952,1.05", "0.35,0.7,0.77,0.84,0.91,0.98,1.05"
SEARCHED = {
    "SSD's own anchors": {"anchor_sizes": OWN},
    "SSD's own anchors, batch 4, rate 5e-4": {
        "learning_rate": "0.0005",
        "mini_batch_size": "4",
        "anchor_sizes": OWN,
    },
    "SSD's own anchors, augmentation `flip`": {"augmentation": "flip", "anchor_sizes": OWN},
    "anchors of best mean IoU, 0.2,0.56 … 1.05": {"anchor_sizes": EVEN},
    "the same, augmentation `flip`": {"augmentation": "flip", "anchor_sizes": EVEN},
    "anchors of best mean IoU of four, 0.35,0.7 … 1.05: what `--auto_anchors` chooses": {"anchor_sizes": COARSE},
    "0.2,0.56 … 1.05: what `--auto_anchors` chooses": {"anchor_sizes": EVEN},
}


def of_anchors(row):
    found = only(RESULTS["quality_ablation"][SEARCH], set=row[0], settings=SEARCHED[row[1]])
    return {2: found["last mAP"], 3: found["last mAP@0.5"]}


ABLATED = {
    "**default**": "default",
    "augmentation `none`": "augmentation none",
    "`none`, each picture offline five times (`prepare augment`, as AWS's sample does)": "offline x5",
    "augmentation `ssd`": "augmentation ssd",
    "label smoothing 0.1": "label_smoothing 0.1",
    "GluonCV's initialisation of heads and extra layers": "gluoncv initialisation",
    "416 px": "image_shape 416",
    "backbone frozen": "frozen backbone",
    "batch 4, rate 5e-4": "mini_batch_size 4",
    "default, in bfloat16 like the next two": "default",
    "a map of stride 8 (`--feature_strides 8,16,...`)": "a map of stride 8",
    "a map of stride 8 at 512 px: the command that `check` advises": "a map of stride 8, image_shape 512",
}


def of_ablation(row):
    if "`--amp" in row[2]:
        return of_mixed_precision(row)
    name, epochs, text = row[0], int(row[1]), row[2]
    rows = [r for r in RESULTS["quality_ablation"]["rows"] if (r["set"], r["epochs"]) == (name, epochs)]
    if text == "256 px":
        found = quality(name, 8, ["image_shape=256"])
    elif "`--recipe balanced`" in text or "of the first table" in text:
        found = quality(name, epochs)
    else:
        rows = [one for one in rows if one["row"] == ABLATED.get(text, text)]
        in_bfloat16 = "bfloat16" in text or "stride 8" in text
        (found,) = (one for one in rows if name != "small" or (one["settings"].get("amp") == "1") == in_bfloat16)
    minutes = {} if row[5] == "" else {5: found["minutes"]}
    return {3: found["last mAP"], 4: found["last mAP@0.5"], **minutes}


def of_box_voting(row):
    rows = RESULTS["quality_ablation"][BOX_VOTING]["rows"]
    without, voted = (next(r for r in rows if (r["set"], r["box_voting"]) == (row[0], on)) for on in (False, True))
    return {1: without["mAP"], 2: voted["mAP"], 3: without["mAP@0.5"], 4: voted["mAP@0.5"]}


def of_mixed_precision(row):
    amp = "amp 1" if "--amp 1" in row[2] else "amp 0"
    rows = [
        r
        for r in RESULTS["quality_ablation"]["rows"]
        if (r["set"], r["epochs"], r["row"]) == (row[0], int(row[1]), amp)
    ]
    assert len(rows) == (2 if "seeds" in row[2] else 1)
    return {3 + index: [r[key] for r in rows] for index, key in enumerate(("last mAP", "last mAP@0.5", "minutes"))}


def of_screening(row):
    expected = {}
    for index, name in enumerate(("raccoon", "fruit", "bccd")):
        found = [r for r in RESULTS["quality_ablation"][SCREENING] if (r["set"], r["row"]) == (name, row[0])]
        keys = ("mAP", "mAP with box voting", "mAP@0.5 with box voting")
        for column, key in enumerate(keys, 1 + 3 * index):
            expected[column] = [r[key] for r in found]
    return expected


def by_recipe(name, recipe):
    epochs = {"fast": 8, "balanced": 20, "best": 40}[recipe]
    return quality(name, epochs, [f"recipe={recipe}"], day="2026-12-01")


def of_recipe(row):
    recipe, name = row[0].split(",")[0], row[2]
    earlier = {"`best` at 416 px": (40, ["image_shape=416"]), "`fast` at 256 px": (8, ["image_shape=256"])}
    found = quality(name, *earlier[recipe]) if recipe in earlier else by_recipe(name, recipe.strip("`"))
    keys = ("mAP", "mAP@0.5", "last mAP", "last mAP@0.5", "minutes")
    return {3 + index: found[key] for index, key in enumerate(keys)}


def of_guide(row):
    return {2: [by_recipe(name, row[0].strip("`"))["mAP"] for name in SETS]}


def of_label_errors(row):
    of_set = [one for one in RESULTS["label_errors"] if one["set"] == row[0]]
    rows = [one for one in of_set if one["kind"] == row[2]]

    def pair(who):
        return [statistics.mean(one[who][key] for one in rows) for key in ("at planted", "precision at recall 0.6")]

    return {
        1: mean(of_set, "mAP@0.5"),
        3: [len(rows), rows[0]["planted"]],
        4: mean(rows, "chance"),
        5: pair("audit"),
        6: statistics.mean(one["audit"]["recall"] for one in rows),
        7: pair("cleanlab"),
        8: pair("cleanlab, best threshold"),
    }


def arms(name, seeds):
    rows = [one for one in RESULTS["next_images"] if one["set"] == name and one["seed"] in seeds]
    return [[one for one in rows if one["arm"] == arm] for arm in ("quarter", "random", "chosen")]


def of_next_images(row):
    (quarter,), (random,), (chosen,) = arms(row[0], [int(row[1])])
    of_random, of_chosen = ([one[key] for key in ("new boxes", "mAP", "mAP@0.5")] for one in (random, chosen))
    return {
        2: quarter["images"],
        3: quarter["mAP"],
        4: quarter["mAP@0.5"],
        **dict(enumerate([*of_random, *of_chosen], 5)),
        11: chosen["mAP"] - random["mAP"],
        12: chosen["mAP@0.5"] - random["mAP@0.5"],
    }


def of_next_images_means(row):
    first, last = map(int, row[1].split(" to "))
    expected = {}
    for column, key in ((2, "mAP"), (6, "mAP@0.5")):
        of_arms = arms(row[0], range(first, last + 1))
        paired = [{key: chosen[key] - random[key]} for random, chosen in zip(*of_arms[1:])]
        for index, rows in enumerate([*of_arms, paired]):
            expected[column + index] = spread(rows, key)
    return expected


def speeds(name, **fields):
    return only(RESULTS[name]["rows"], **fields)


def of_readme(row):
    what = row[0]
    if "feature_strides" in what:
        rows = [quality("bccd", 12, ["feature_strides=8,16,..."], seed, "2026-12-01") for seed in (1, 2, 3)]
        return {1: [mean(rows, "mAP"), mean(rows, "mAP@0.5")]}
    if "seconds until" in what:
        rows = [only(RESULTS["time_to_score"]["rows"], set=name) for name in SETS]
        return {1: [row["seconds"] for row in rows], 2: [row["its seconds"] for row in rows]}
    if "random weights" in what:
        both = [[only(RESULTS["ultralytics"]["rows"], set=name, who=who) for name in SETS] for who in TRAINERS]
        return dict(enumerate(([row["mAP"] for row in rows] for rows in both), 1))
    if "--recipe balanced` and" in what:
        return {1: [by_recipe(name, recipe)["mAP"] for recipe in ("balanced", "best") for name in SETS]}
    if "mAP" in what:
        key = "mAP" if "COCO" in what else "mAP@0.5"
        mine, theirs = ([mean(of(name), key) for name in SETS] for of in (ours, rival))
        return {1: [*mine, 300], 2: [512, *theirs]} if key == "mAP" else {1: mine, 2: theirs}
    if "reading" in what:
        plain, cached = (speeds("data_path", case=case) for case in ("300", "300-cached"))
        mine = [one["ours, images/s"]["best"] for one in (plain, cached)]
        return {1: mine, 2: plain["GluonCV, images/s"]["best"]}
    if "training epochs" in what:
        side = int(re.findall(r"\d+", what)[0])
        plain, cached = (speeds("training_rival", pixels=side, who=who) for who in ("ours", "ours-cached"))
        faster = speeds("training_rival", pixels=side, who=plain["beside"])  # the faster of 0 and 2 workers
        return {1: [row["images/s"]["best"] for row in (plain, cached)], 2: faster["images/s"]["best"]}
    if "COCO metrics" in what:
        case = next(row for row in RESULTS["evaluation_speed"]["rows"] if row.get("beside") == "pycocotools")
        return {1: case["ours, ms (best)"], 2: case["theirs, ms (best)"]}
    assert "inference at 512 px" in what, "a row without results"
    times = [speeds("inference_speed", engine=name)["best_ms"] for name in ("onnxruntime", "openvino int8", "mxnet")]
    return {1: [times[0], times[1], 8], 2: times[2]}


BENCHMARKS = "benchmarks/README.md"
# page, first cells of the header, expected figures by column
TABLES = {
    "readme": ("README.md", ("", "ssd_train", "compared with"), of_readme),
    "three-sets": (BENCHMARKS, ("data set", "training / validation"), of_three_sets),
    "512-px": (BENCHMARKS, ("set, 512 px",), of_512_px),
    "third": (BENCHMARKS, ("data set", "training / choosing / validation"), of_third),
    "advised": (BENCHMARKS, ("bccd", "seeds"), of_advised),
    "levers": (BENCHMARKS, ("changed", "raccoon: COCO mAP", "mAP@0.5"), of_lever),
    "time-to-score": (BENCHMARKS, ("data set", "GluonCV's recipe: COCO mAP"), of_time_to_score),
    "ultralytics": (BENCHMARKS, ("data set", "seconds"), of_ultralytics),
    "equal-time": (BENCHMARKS, ("data set", "ours: epochs"), in_equal_time),
    "anchors": (BENCHMARKS, ("set", "changed"), of_anchors),
    "ablation": (BENCHMARKS, ("set", "epochs", "row"), of_ablation),
    "box-voting": (BENCHMARKS, ("set", "COCO mAP without"), of_box_voting),
    "screening": (BENCHMARKS, ("changed in the last two epochs",), of_screening),
    "recipes": (BENCHMARKS, ("`--recipe`", "what"), of_recipe),
    "recipes-guide": ("docs/guide/train.md", ("`--recipe`", "setting"), of_guide),
    "label-errors": (BENCHMARKS, ("data set", "mAP@0.5 of the detections"), of_label_errors),
    "next-images": (BENCHMARKS, ("data set", "seed", "a quarter: images"), of_next_images),
    "next-images-means": (BENCHMARKS, ("data set", "seeds", "quarter: COCO mAP"), of_next_images_means),
}
NOT_MEASURED = {
    ("extra", "what it is for"),
    ("command", "what it does"),
}


def rows_of(page, start):
    """Return the rows of a table; an empty first cell repeats the one above."""
    (rows,) = (rows for header, rows in tables_of(page).items() if header[: len(start)] == start)
    for above, row in zip(rows, rows[1:]):
        row[0] = row[0] or above[0]
    return rows


@pytest.mark.parametrize("name", TABLES)
def test_figures_of_a_table_are_those_of_the_results(name):
    page, start, expected = TABLES[name]
    rows = rows_of(page, start)
    assert rows and [(row[:3], wrong) for row in rows for wrong in [differences(row, expected(row))] if wrong] == []


def test_each_column_of_figures_is_compared():
    """A column with a decimal in it is one of the results."""
    for page, start, expected in TABLES.values():
        for row in rows_of(page, start):
            labels = {column for column in range(len(row)) if column not in expected(row)}
            measured = {column for column in labels if any(half < 0.5 for _, half in figures_of(row[column]))}
            assert measured <= {0, 1, 2} - set(expected(row)), (page, row)


def test_each_table_of_the_pages_is_compared():
    headers = [header for page in ("README.md", BENCHMARKS) for header in tables_of(page)]
    starts = [start for _, start, _ in TABLES.values()]
    assert [h for h in headers if h not in NOT_MEASURED and not any(h[: len(s)] == s for s in starts)] == []


@pytest.mark.parametrize("name", TABLES)
def test_a_changed_figure_is_noticed(name):
    """Each figure of each row, changed by two units of its last decimal: one may be the other way to round a half."""
    page, start, expected = TABLES[name]
    for row in rows_of(page, start):
        for column in expected(row):
            for found in re.finditer(r"\d(?!\d|\.\d)", row[column]):
                digit = str((int(found.group()) + 2) % 10)
                changed = row[column][: found.start()] + digit + row[column][found.end() :]
                assert differences([*row[:column], changed, *row[column + 1 :]], expected(row)), (row, changed)
